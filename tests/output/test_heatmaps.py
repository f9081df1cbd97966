import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from whycluster.output.captions import LINE
from whycluster.output.heatmaps import GAP, colour_scale, colours, enlarged, heatmap_picture, overlay, side_by_side

PHOTO = np.random.RandomState(0).randint(0, 256, (32, 32, 3), dtype=np.uint8)
RELEVANCE = np.random.RandomState(1).randn(32, 32).astype(np.float32)


WHITE = (255, 255, 255)
RAMPS = {  # from no relevance to the most, as the README's picture has them
    1: (WHITE, (244, 109, 88), (190, 16, 24), (96, 0, 16)),
    -1: (WHITE, (104, 156, 226), (24, 72, 176), (8, 20, 88)),
}


def ramp(strength):
    """The colours of strengths from -1 to 1, `(…, 3)`."""
    found = np.zeros((*strength.shape, 3))
    for sign, stops in RAMPS.items():
        of_sign = sign * strength >= 0
        for channel in range(3):
            stop = [colour[channel] for colour in stops]
            found[of_sign, channel] = np.interp(np.abs(strength[of_sign]), [0, 1 / 3, 2 / 3, 1], stop)
    return found


def test_colours_lie_between_their_stops():
    strength = np.linspace(-1, 1, 3003).reshape(3, -1)
    np.testing.assert_allclose(colours(7 * strength, 7.0), ramp(strength), atol=0.65)  # half of it is rounding
    assert (colours(np.zeros((2, 3)), 1.0) == 255).all()


def test_a_relevance_that_is_no_number_is_white():
    assert (colours(np.array([[np.nan, 0.0]]), 1.0) == 255).all()


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


def test_the_scale_is_a_percentile():
    relevance = np.random.RandomState(3).permutation(np.arange(-500, 501)).reshape(7, 143)
    assert colour_scale(relevance) == np.sort(np.abs(relevance).ravel())[995] == 498


def test_a_few_extreme_pixels_do_not_pale_the_others():
    relevance = np.ones((100, 100))
    relevance[0, :10] = 1e6
    assert colour_scale(relevance) == 1.0


@pytest.mark.parametrize(("height", "width"), [(32, 32), (60, 224), (224, 60)])
def test_overlay_blends_the_pale_photo_with_the_colours_of_regions(height, width):
    photo = np.random.RandomState(0).randint(0, 256, (height, width, 3), dtype=np.uint8)
    relevance = np.random.RandomState(1).randn(height, width)
    regions = gaussian_filter(relevance, width / 150, truncate=3)
    strength = np.clip(regions / np.sort(np.abs(regions).ravel())[round(0.995 * (height * width - 1))], -1, 1)
    pale = 96 + photo @ np.array([0.299, 0.587, 0.114]) * 159 / 255
    opacity = np.abs(strength)[..., None] ** 0.6
    np.testing.assert_allclose(
        overlay(photo, relevance), (1 - opacity) * pale[..., None] + opacity * ramp(strength), atol=3
    )


def test_overlay_without_relevance_is_the_grey_photo():
    assert (np.ptp(overlay(PHOTO, np.zeros((32, 32))), axis=-1) == 0).all()


@pytest.mark.parametrize(("side", "factor"), [(32, 7), (8, 28), (100, 3), (223, 2), (224, 1), (500, 1)])
def test_small_images_are_enlarged_by_whole_pixels(side, factor):
    pixels = np.random.RandomState(0).randint(0, 256, (6, side, 3), dtype=np.uint8)
    expected = pixels.repeat(factor, 0).repeat(factor, 1)
    assert np.array_equal(enlarged(pixels), expected)


def test_panels_stand_side_by_side():
    left, right = (
        np.full((10, width, 3), colour, np.uint8) for width, colour in ((20, (255, 0, 0)), (30, (0, 0, 255)))
    )
    sheet = side_by_side([left, right])
    assert sheet.shape == (10 + 2 * GAP, 50 + 3 * GAP, 3)
    assert (sheet[GAP:-GAP, GAP : GAP + 20] == (255, 0, 0)).all()
    assert (sheet[GAP:-GAP, 2 * GAP + 20 : -GAP] == (0, 0, 255)).all()
    assert (sheet[:GAP] == 255).all()
    assert (sheet[:, GAP + 20 : 2 * GAP + 20] == 255).all()


def test_photo_heatmap_and_overlay():
    picture = heatmap_picture(PHOTO, RELEVANCE, "a.png\ncluster 1\nred speaks for it")
    assert (picture.dtype, picture.shape) == (np.uint8, (224 + 2 * GAP + 3 * LINE, 3 * 224 + 4 * GAP, 3))
    bottom = picture[-224 - GAP : -GAP]
    for number, panel in enumerate((PHOTO, colours(RELEVANCE, colour_scale(RELEVANCE)), overlay(PHOTO, RELEVANCE))):
        left = GAP + number * (224 + GAP)
        assert np.array_equal(bottom[3::7, left + 3 : left + 224 : 7], panel)


def test_the_caption_stands_above_the_panels_in_dark_letters():
    without, sheet = (side_by_side([PHOTO, PHOTO], text) for text in ("", "a.png\ncluster 1"))
    assert np.array_equal(sheet[GAP + 2 * LINE :], without[GAP:])
    head = sheet[: GAP + 2 * LINE]
    assert head.min((0, 1)).tolist() == [24, 24, 28]
    assert (head[:GAP] == 255).all()
    assert (head[:, :GAP] == 255).all()
    assert all((head[GAP + row * LINE : GAP + (row + 1) * LINE] < 128).any() for row in range(2))
