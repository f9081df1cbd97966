"""Relevance as pictures: red supports, blue speaks against, white is neither."""

import unicodedata
from bisect import bisect

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

RED = ((255, 255, 255), (244, 109, 88), (190, 16, 24), (96, 0, 16))  # from no relevance to the most
BLUE = ((255, 255, 255), (104, 156, 226), (24, 72, 176), (8, 20, 88))
PEAK = 99.5  # percentile of |relevance| that gets the full colour: a few extreme pixels would pale all others
PANEL = 224  # pixels, the least width of a panel
BLUR = 1 / 150  # of a photo's width: what the overlay (never the heatmap) is blurred by, to show regions, not dots
FONT_SIZE = 15
TEXT, PAPER = (24, 24, 28), (255, 255, 255)
GAP = 6
# Letters that are no others with an accent.
SPELLED = str.maketrans({"ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"})


def colour_scale(relevance: np.ndarray) -> float:
    """The relevance that gets the full colour, of one image `(H, W)`; above 0."""
    size = np.abs(relevance)
    peak = float(np.percentile(size, PEAK)) or float(size.max())
    return peak if np.isfinite(peak) and peak > 0 else 1.0


def colours(relevance: np.ndarray, scale: float) -> np.ndarray:
    """Relevance `(H, W)` as colours, `(H, W, 3)` uint8, the same strength for `+r` and `-r`.

    Example:
        >>> colours(np.array([[0.0, 1.0, -1.0]]), scale=1.0).tolist()
        [[[255, 255, 255], [96, 0, 16], [8, 20, 88]]]
    """
    strength = np.clip(np.abs(relevance) / scale, 0, 1)
    red, blue = (_ramp(strength, stops) for stops in (RED, BLUE))
    pixels: np.ndarray = np.where(relevance[..., None] > 0, red, blue).round().astype(np.uint8)
    return pixels


def _ramp(strength: np.ndarray, stops: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """Colours between the stops, `(H, W, 3)`."""
    places = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(strength, places, channel) for channel in zip(*stops, strict=True)], -1)


def overlay(photo: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    """The photo `(H, W, 3)` in pale grey, its relevant regions coloured over it."""
    grey = photo.astype(np.float64) @ (0.299, 0.587, 0.114)
    paper = np.repeat((96 + grey * (159 / 255))[..., None], 3, -1)
    regions = gaussian_filter(relevance, BLUR * relevance.shape[1])
    scale = colour_scale(regions)
    strength = np.clip(np.abs(regions) / scale, 0, 1)[..., None] ** 0.6
    blended: np.ndarray = (paper * (1 - strength) + colours(regions, scale) * strength).round().astype(np.uint8)
    return blended


def enlarged(pixels: np.ndarray) -> Image.Image:
    """`(H, W, 3)` as a picture, small ones enlarged by whole numbers so that each pixel stays a square."""
    factor = max(1, -(-PANEL // pixels.shape[1]))
    return Image.fromarray(np.ascontiguousarray(pixels)).resize(
        (pixels.shape[1] * factor, pixels.shape[0] * factor), Image.Resampling.NEAREST
    )


def side_by_side(panels: list[Image.Image], caption: str = "") -> Image.Image:
    """Panels of one height in a row, the caption above them.

    Args:
        panels: at least one.
        caption: may have several lines; lines that are too long are cut.
    """
    font = ImageFont.load_default(FONT_SIZE)
    width = sum(panel.width for panel in panels) + GAP * (len(panels) + 1)
    lines = [_fitting(_plain(line), font, width - 2 * GAP) for line in caption.splitlines()]
    head = GAP + len(lines) * (FONT_SIZE + 5)
    sheet = Image.new("RGB", (width, head + panels[0].height + GAP), PAPER)
    for number, line in enumerate(lines):
        ImageDraw.Draw(sheet).text((GAP, GAP - 2 + number * (FONT_SIZE + 5)), line, TEXT, font)
    left = GAP
    for panel in panels:
        sheet.paste(panel, (left, head))
        left += panel.width + GAP
    return sheet


def _plain(line: str) -> str:
    """The line in the letters that Pillow's own font has: accents fall off, other scripts become question marks."""
    decomposed = unicodedata.normalize("NFKD", line.translate(SPELLED))
    letters = (letter for letter in decomposed if not unicodedata.combining(letter))
    return "".join(letters).encode("ascii", "replace").decode()


def _fitting(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The line, its middle left out if it is wider than `width` pixels."""
    if font.getlength(line) <= width:
        return line
    halves = range(1, len(line) // 2 + 1)
    half = bisect(halves, float(width), key=lambda half: font.getlength(line[:half] + "..." + line[-half:])) or 1
    return line[:half] + "..." + line[-half:]


def heatmap_picture(photo: np.ndarray, relevance: np.ndarray, caption: str) -> Image.Image:
    """Photo, heatmap and overlay.

    Args:
        photo: `(H, W, 3)` uint8, as the network saw it.
        relevance: `(H, W)`.
        caption: what the picture says.
    """
    panels = (photo, colours(relevance, colour_scale(relevance)), overlay(photo, relevance))
    return side_by_side([enlarged(panel) for panel in panels], caption)
