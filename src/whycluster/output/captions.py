"""Captions of pictures, in the font that comes with Pillow."""

import unicodedata
from bisect import bisect
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT_SIZE = 15
LINE = 20  # pixels from line to line at this size
PAPER = 255
INK = (24, 24, 28)
# Letters that Unicode does not decompose into an ASCII letter and an accent.
SPELLED = str.maketrans({"ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"})


def caption_strip(caption: str, width: int, size: int = FONT_SIZE) -> np.ndarray:
    """Draws the lines of a caption, one below the other, `(lines · LINE, width, 3)` uint8 at the usual size.

    Args:
        caption: any text; see `ascii_letters`.
        width: in pixels; the middle of a wider line is replaced by an ellipsis.
        size: of the font, in pixels.
    """
    lines = [shortened(ascii_letters(line), width, size) for line in caption.splitlines()]
    step = round(LINE * size / FONT_SIZE)
    strip = Image.new("RGB", (width, len(lines) * step), (PAPER,) * 3)
    for number, line in enumerate(lines):
        ImageDraw.Draw(strip).text((0, number * step - 2), line, INK, _font(size))
    return np.asarray(strip)


def ascii_letters(line: str) -> str:
    """Converts a line to ASCII, for which the font has letters: accents are dropped, other scripts become question
    marks.

    Example:
        >>> ascii_letters("süße Äpfel, 日本")
        'susse Apfel, ??'
    """
    decomposed = unicodedata.normalize("NFKD", line.translate(SPELLED))
    letters = (letter for letter in decomposed if not unicodedata.combining(letter))
    return "".join(letters).encode("ascii", "replace").decode()


def shortened(line: str, width: int, size: int = FONT_SIZE) -> str:
    """Replaces the middle of a line by an ellipsis if it is wider than `width` pixels in a font of this size."""
    if _font(size).getlength(line) <= width:
        return line
    halves = range(1, len(line) // 2 + 1)
    half = bisect(halves, float(width), key=lambda half: _font(size).getlength(line[:half] + "..." + line[-half:])) or 1
    return line[:half] + "..." + line[-half:]


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
