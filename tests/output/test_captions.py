import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from whycluster.output.captions import FONT_SIZE, LINE, ascii_letters, caption_strip, shortened

PRINTABLE = "".join(map(chr, range(32, 127)))
FONT = ImageFont.load_default(FONT_SIZE)


@pytest.mark.parametrize("line", ["Wafting jAVATA, fly.png", PRINTABLE[:48], PRINTABLE[48:], "jjj fff", "  two  "])
def test_a_line_looks_as_pillow_draws_it(line):
    expected = Image.new("RGB", (600, LINE), "white")
    ImageDraw.Draw(expected).text((0, -2), line, (24, 24, 28), FONT)
    np.testing.assert_allclose(caption_strip(line, 600), expected, atol=40)  # where letters touch, ink is not added up


def test_lines_stand_one_below_the_other():
    both = caption_strip("first\nsecond", 200)
    np.testing.assert_array_equal(both[:LINE], caption_strip("first", 200))
    np.testing.assert_array_equal(both[LINE:], caption_strip("second", 200))


@pytest.mark.parametrize("length", [120, 300, 4000])
def test_a_line_that_is_too_long_loses_its_middle(length):
    line = ("beginning/" + "lilWm" * length)[: length - 4] + ".png"
    for width in (*range(60, 100), 684):
        text = shortened(line, width)
        left, right = text.split("...")
        assert line.startswith(left)
        assert line.endswith(right)
        assert len(left) == len(right)
        longer = line[: len(left) + 1] + "..." + line[-len(right) - 1 :]
        assert FONT.getlength(text) <= width < FONT.getlength(longer)


def test_a_line_that_just_fits_is_left_whole():
    line = "a line.png"
    width = round(FONT.getlength(line))
    assert shortened(line, width) == line
    assert shortened(line, width - 1) != line


def test_a_line_wider_than_a_narrow_strip_is_cut_off():
    assert caption_strip("ab\nc\nWWWW", 3).shape == (3 * LINE, 3, 3)
    assert shortened("abcdef", 1) == "a...f"


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
    strip = caption_strip(caption, 684)
    assert strip.shape == (lines * LINE, 684, 3)
    assert (strip < 128).any() == (lines > 0)


@pytest.mark.parametrize(
    ("text", "drawn"), [("süß Äpfel", "suss Apfel"), ("Øl, œuf, łódź, Łæ", "Ol, oeuf, lodz, Lae"), ("日本 a", "?? a")]
)
def test_letters_that_the_font_does_not_have(text, drawn):
    assert ascii_letters(text) == drawn
