"""Captions of pictures: text set in Pillow's own font, whose letters are drawn once and then reused."""

import unicodedata
from functools import cache
from itertools import accumulate

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT_SIZE = 15
LINE = FONT_SIZE + 5  # pixels from line to line
BEARING = 2  # pixels by which a letter may reach beyond its advance width
PAPER = 255
INK = (24, 24, 28)
# Letters that Unicode does not decompose into an ASCII letter and an accent.
SPELLED = str.maketrans({"ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"})

_SHADES = np.linspace((PAPER,) * 3, INK, 256).round().astype(np.uint8)  # colour of each coverage by ink


def caption_strip(caption: str, width: int) -> np.ndarray:
    """The lines of a caption, one below the other, `(lines · LINE, width, 3)` uint8.

    Args:
        caption: any text; see `ascii_letters`.
        width: in pixels; a line that is wider loses its middle.
    """
    lines = caption.splitlines()
    coverage = np.zeros((len(lines) * LINE, width + 2 * BEARING), np.uint8)  # by ink
    for number, line in enumerate(lines):
        row, left = coverage[number * LINE : (number + 1) * LINE], 0
        for letter in shortened(ascii_letters(line), width):
            cell, advance = _letter(letter)
            place = row[:, left : left + cell.shape[1]]
            np.maximum(place, cell[:, : place.shape[1]], out=place)
            left += advance
    return _SHADES.take(coverage[:, BEARING:-BEARING], 0)


def ascii_letters(line: str) -> str:
    """The line in ASCII, which the font has: accents are dropped, other scripts become question marks.

    Example:
        >>> ascii_letters("süße Äpfel, 日本")
        'susse Apfel, ??'
    """
    decomposed = unicodedata.normalize("NFKD", line.translate(SPELLED))
    letters = (letter for letter in decomposed if not unicodedata.combining(letter))
    return "".join(letters).encode("ascii", "replace").decode()


def shortened(line: str, width: int) -> str:
    """The line, with an ellipsis for its middle if it is wider than `width` pixels."""
    advances = [_letter(letter)[1] for letter in line]
    if sum(advances) <= width:
        return line
    room = width - 3 * _letter(".")[1]
    halves = accumulate(left + right for left, right in zip(advances, reversed(advances), strict=True))
    half = max(1, sum(both <= room for both in halves))
    return line[:half] + "..." + line[-half:]


@cache
def _letter(letter: str) -> tuple[np.ndarray, int]:
    """The coverage of an ASCII letter's pixels, `(LINE, advance + 2 · BEARING)`, and its advance width.

    The font has whole advances and no kerning, so that a line is its letters side by side.
    """
    font = ImageFont.load_default(FONT_SIZE)
    advance = round(font.getlength(letter))
    cell = Image.new("L", (advance + 2 * BEARING, LINE))
    ImageDraw.Draw(cell).text((BEARING, -2), letter, 255, font)
    return np.asarray(cell), advance
