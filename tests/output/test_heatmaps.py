import numpy as np
import pytest
from PIL import Image, ImageFont

from whycluster.output.heatmaps import (
    FONT_SIZE,
    GAP,
    PAPER,
    colour_scale,
    colours,
    enlarged,
    heatmap_picture,
    overlay,
    side_by_side,
)

PHOTO = np.random.RandomState(0).randint(0, 256, (32, 32, 3), dtype=np.uint8)
RELEVANCE = np.random.RandomState(1).randn(32, 32).astype(np.float32)


def test_no_relevance_is_white():
    assert (colours(np.zeros((2, 3)), 1.0) == 255).all()


def test_red_supports_and_blue_speaks_against():
    red, blue = colours(np.array([[0.4, -0.4]]), 1.0)[0].astype(int)
    assert red[0] > red[1] + 50
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    assert blue[2] > blue[1] + 30


def test_both_signs_are_equally_strong():
    strength = np.linspace(0, 1, 101)[None]
    positive, negative = (colours(sign * strength, 1.0).astype(float) for sign in (1, -1))
    light = np.array([0.299, 0.587, 0.114])
    assert np.abs(positive @ light - negative @ light).max() < 40
    for pixels in (positive, negative):
        assert (np.diff((pixels @ light)[0]) < 0).all()


def test_relevance_beyond_the_scale_has_the_full_colour():
    assert colours(np.array([[1.0, 9.0, np.inf, -1.0, -9.0]]), 1.0)[0].tolist() == [[96, 0, 16]] * 3 + [[8, 20, 88]] * 2


def test_colours_do_not_depend_on_the_unit():
    for factor in (1e-20, 1e-3, 1e6):
        scaled = RELEVANCE * np.float32(factor)
        assert np.abs(colours(scaled, colour_scale(scaled)) - colours(RELEVANCE, colour_scale(RELEVANCE))).max() <= 1


@pytest.mark.parametrize(
    ("relevance", "scale"),
    [
        (np.zeros((4, 4)), 1.0),
        (np.full((4, 4), np.nan), 1.0),
        (np.full((4, 4), np.inf), 1.0),
        (np.full((4, 4), -3.0), 3.0),
        (np.eye(1, 10_000).reshape(100, 100) * -7, 7.0),  # one spike, beyond the percentile
    ],
)
def test_colour_scale_of_odd_heatmaps(relevance, scale):
    with np.errstate(all="ignore"):
        assert colour_scale(relevance) == scale


def test_a_few_extreme_pixels_do_not_pale_the_others():
    relevance = np.ones((100, 100))
    relevance[0, :10] = 1e6
    assert colour_scale(relevance) == 1.0


def test_overlay_leaves_irrelevant_pixels_grey():
    relevance = np.zeros((32, 32))
    relevance[8, 8], relevance[24, 24] = 2, -2
    blended = overlay(PHOTO, relevance).astype(int)
    far = np.ones((32, 32), bool)
    far[6:11, 6:11] = far[22:27, 22:27] = False
    assert (np.ptp(blended, axis=-1)[far] == 0).all()
    grey = PHOTO @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(blended[far][:, 0], 96 + grey[far] * 159 / 255, atol=0.51)
    assert blended[8, 8, 0] > blended[8, 8, 2] + 50
    assert blended[24, 24, 2] > blended[24, 24, 0] + 50


def test_overlay_without_relevance_is_the_grey_photo():
    assert (np.ptp(overlay(PHOTO, np.zeros((32, 32))), axis=-1) == 0).all()


@pytest.mark.parametrize(("side", "factor"), [(32, 7), (8, 28), (100, 3), (223, 2), (224, 1), (500, 1)])
def test_small_images_are_enlarged_by_whole_pixels(side, factor):
    pixels = np.random.RandomState(0).randint(0, 256, (6, side, 3), dtype=np.uint8)
    expected = pixels.repeat(factor, 0).repeat(factor, 1)
    assert np.array_equal(enlarged(pixels), expected)


def test_panels_stand_side_by_side():
    left, right = Image.new("RGB", (20, 10), "red"), Image.new("RGB", (30, 10), "blue")
    sheet = np.asarray(side_by_side([left, right]))
    assert sheet.shape == (10 + 2 * GAP, 50 + 3 * GAP, 3)
    assert (sheet[GAP:-GAP, GAP : GAP + 20] == (255, 0, 0)).all()
    assert (sheet[GAP:-GAP, 2 * GAP + 20 : -GAP] == (0, 0, 255)).all()
    assert (sheet[:GAP] == PAPER).all()
    assert (sheet[:, GAP + 20 : 2 * GAP + 20] == PAPER).all()


def test_photo_heatmap_and_overlay():
    picture = heatmap_picture(PHOTO, RELEVANCE, "a.png\ncluster 1\nred speaks for it")
    assert (picture.mode, picture.size) == ("RGB", (3 * 224 + 4 * GAP, 224 + 2 * GAP + 3 * (FONT_SIZE + 5)))
    bottom = np.asarray(picture)[-224 - GAP : -GAP]
    for number, panel in enumerate((PHOTO, colours(RELEVANCE, colour_scale(RELEVANCE)), overlay(PHOTO, RELEVANCE))):
        left = GAP + number * (224 + GAP)
        assert np.array_equal(bottom[3::7, left + 3 : left + 224 : 7], panel)


def ink(picture, lines):
    """Where the caption has left traces."""
    head = np.asarray(picture)[: GAP + lines * (FONT_SIZE + 5)]
    return (head != PAPER).any(-1)


@pytest.mark.parametrize("length", [120, 300, 4000])
def test_a_caption_longer_than_the_sheet_is_cut_in_its_middle(length, monkeypatch):
    drawn = []
    draw = ImageFont.FreeTypeFont.getmask2
    monkeypatch.setattr(
        ImageFont.FreeTypeFont, "getmask2", lambda self, text, *a, **k: drawn.append(text) or draw(self, text, *a, **k)
    )
    line = ("beginning/" + "x" * length)[: length - 4] + ".png"
    picture = heatmap_picture(PHOTO, RELEVANCE, line)
    assert picture.width == 3 * 224 + 4 * GAP
    (text,) = drawn
    width = ImageFont.load_default(FONT_SIZE).getlength(text)
    assert picture.width - 2 * GAP - 24 <= width <= picture.width - 2 * GAP
    assert text.startswith("beginning/")
    assert text.endswith("xx.png")
    assert "..." in text
    assert not ink(picture, 1)[:, -GAP // 2 :].any()


def test_a_caption_that_fits_is_left_whole():
    font = ImageFont.load_default(FONT_SIZE)
    sheet = side_by_side([Image.new("RGB", (300, 10))], "short.png")
    columns = np.flatnonzero(ink(sheet, 1).any(0))
    assert columns[0] >= GAP
    assert columns[-1] == pytest.approx(GAP + font.getlength("short.png"), abs=3)


@pytest.mark.parametrize(
    ("caption", "lines"),
    [
        ("Käse.png", 1),
        ("日本語の写真.png", 1),
        ("\N{GRINNING FACE}\N{ZERO WIDTH JOINER}.png", 1),
        ("ה.png", 1),
        ("a\nb.png\ncluster 1", 3),
        ("a\r\nb", 2),
        ("tab\there\x1b[0m\x00", 1),
        ("", 0),
        ("日" * 500, 1),
        ("\udcff.png", 1),
    ],
)
def test_any_caption_can_be_drawn(caption, lines):
    picture = heatmap_picture(PHOTO, RELEVANCE, caption)
    assert picture.height == 224 + 2 * GAP + lines * (FONT_SIZE + 5)
    assert ink(picture, lines).any() == (lines > 0)


def test_a_line_wider_than_a_narrow_panel():
    sheet = side_by_side([Image.new("RGB", (2, 10))], "ab\nc\n")
    assert sheet.width == 2 + 2 * GAP


@pytest.mark.parametrize(
    ("text", "drawn"), [("süß Äpfel", "suss Apfel"), ("Øl, œuf, łódź", "Ol, oeuf, lodz"), ("日本 a", "?? a")]
)
def test_letters_that_the_font_does_not_have(text, drawn):
    panel = Image.new("RGB", (224, 20))
    assert side_by_side([panel], text).tobytes() == side_by_side([panel], drawn).tobytes()
