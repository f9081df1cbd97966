"""Heatmaps as pictures: red relevance speaks for the target, blue against it, white is no relevance."""

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from whycluster.output.captions import FONT_SIZE, PAPER, caption_strip

RED_RAMP = ((255, 255, 255), (244, 109, 88), (190, 16, 24), (96, 0, 16))  # equally spaced, from no relevance to most
BLUE_RAMP = ((255, 255, 255), (104, 156, 226), (24, 72, 176), (8, 20, 88))
LEVELS = 4095  # levels of relevance on either side of zero, each with a colour in the tables below
PERCENTILE = 99.5  # of |relevance|, gets the full colour: with the maximum, few extreme pixels make all others pale
PANEL = 224  # pixels, the least width of a panel
BLUR = 1 / 150  # of a photo's width: standard deviation of the blur of the overlay, which shows regions, not pixels
GAP = 6  # pixels around panels

_STRENGTH = np.linspace(-1, 1, 2 * LEVELS + 1)  # of each level
_STOPS = np.array([*BLUE_RAMP[:0:-1], *RED_RAMP])  # (7, 3), from the strongest blue to the strongest red
_COLOUR = np.stack([np.interp(_STRENGTH, np.linspace(-1, 1, len(_STOPS)), channel) for channel in _STOPS.T], -1)
_COLOUR = _COLOUR.round().astype(np.uint8)  # (levels, 3)
_OPACITY = (255 * np.abs(_STRENGTH) ** 0.6).round().astype(np.uint8)  # of the overlay's colours
_PALE = [round(96 + grey * 159 / 255) for grey in range(256)]  # grey of the photo below them


def colour_scale(relevance: np.ndarray) -> float:
    """Computes the relevance that gets the full colour, of one image `(H, W)`; above 0."""
    size = np.abs(relevance).ravel()
    rank = round(PERCENTILE / 100 * (len(size) - 1))
    peak = float(np.partition(size, rank)[rank]) or float(size.max())
    return peak if np.isfinite(peak) and peak > 0 else 1.0


def colours(relevance: np.ndarray, scale: float) -> np.ndarray:
    """Converts relevance `(H, W)` to colours, `(H, W, 3)` uint8, of equal strength for `+r` and `-r`.

    Example:
        >>> colours(np.array([[0.0, 1.0, -1.0]]), scale=1.0).tolist()
        [[[255, 255, 255], [96, 0, 16], [8, 20, 88]]]
    """
    pixels: np.ndarray = _COLOUR.take(_level(relevance, scale), 0)
    return pixels


def _level(relevance: np.ndarray, scale: float) -> np.ndarray:
    """Returns the row of each pixel in the tables of colours, `(H, W)`; NaN counts as no relevance."""
    strength = np.nan_to_num(relevance / scale)
    level: np.ndarray = np.rint(strength.clip(-1, 1) * LEVELS).astype(np.intp) + LEVELS
    return level


def overlay(photo: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    """Blends the photo `(H, W, 3)` uint8 in pale grey with the colours of its blurred relevance `(H, W)`."""
    regions = gaussian_filter(relevance, BLUR * relevance.shape[1], truncate=3)
    level = _level(regions, colour_scale(regions))
    paper = Image.fromarray(photo).convert("L").point(_PALE).convert("RGB")
    ink, opacity = Image.fromarray(_COLOUR.take(level, 0)), Image.fromarray(_OPACITY.take(level))
    return np.asarray(Image.composite(ink, paper, opacity))


def layer(relevance: np.ndarray) -> np.ndarray:
    """Converts relevance `(H, W)` to colours with opacity, `(H, W, 4)` uint8, to be laid over a photo.

    Example:
        >>> layer(np.array([[0.0, 1.0, -1.0]])).tolist()
        [[[255, 255, 255, 0], [96, 0, 16, 255], [8, 20, 88, 255]]]
    """
    level = _level(relevance, colour_scale(relevance))
    return np.dstack([_COLOUR.take(level, 0), _OPACITY.take(level)])


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """Enlarges small pictures `(H, W, 3)` by a whole number, so that each pixel stays a square."""
    factor = _factor(pixels.shape[1])
    return pixels.repeat(factor, 0).repeat(factor, 1) if factor > 1 else pixels


def _factor(width: int) -> int:
    return max(1, -(-PANEL // width))


def side_by_side(panels: list[np.ndarray], caption: str = "", size: int = FONT_SIZE) -> np.ndarray:
    """Places panels in a row, the caption above them, `(H, W, 3)` uint8.

    Args:
        panels: at least one, `(H, W, 3)` uint8, all of one height.
        caption: may have several lines; lines that are too long are shortened.
        size: of its font, in pixels.
    """
    height, width = panels[0].shape[0], sum(panel.shape[1] for panel in panels) + GAP * (len(panels) + 1)
    strip = caption_strip(caption, width - 2 * GAP, size)
    sheet = np.full((2 * GAP + len(strip) + height, width, 3), PAPER, np.uint8)
    sheet[GAP : GAP + len(strip), GAP:-GAP] = strip
    left = GAP
    for panel in panels:
        sheet[-GAP - height : -GAP, left : left + panel.shape[1]] = panel
        left += panel.shape[1] + GAP
    return sheet


def heatmap_picture(photo: np.ndarray, relevance: np.ndarray, caption: str) -> np.ndarray:
    """Places photo, heatmap and overlay side by side, `(H, W, 3)` uint8.

    Args:
        photo: `(H, W, 3)` uint8, as the network saw it.
        relevance: `(H, W)`.
        caption: the text above.
    """
    photo = np.ascontiguousarray(photo)  # a tensor's channels stand apart, and are slow to gather twice
    panels = (photo, colours(relevance, colour_scale(relevance)), overlay(photo, relevance))
    return side_by_side([enlarged(panel) for panel in panels], caption)


def photo_in(picture: Image.Image, height: int, width: int) -> np.ndarray:
    """Cuts the photo out of what `heatmap_picture` returned, `(height, width, 3)` uint8, exactly as it was."""
    factor = _factor(width)
    top = picture.height - GAP - height * factor
    panel = picture.crop((GAP, top, GAP + width * factor, picture.height - GAP)).convert("RGB")
    photo: np.ndarray = np.asarray(panel)[::factor, ::factor]
    return photo
