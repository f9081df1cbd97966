"""Ranges of an image's numbers: which are black and white, and scaling by them to 8 bits a sample.

The range depends on what the file holds:

============================  ========================================================================================
what the file holds           black and white
============================  ========================================================================================
a range that it declares      that range, if it holds all numbers: SMinSampleValue and SMaxSampleValue of TIFF, else
                              MinSampleValue (or 0) and MaxSampleValue; 12 bits a sample of TIFF; maxval of PGM;
                              the precision of JPEG 2000; sBIT of PNG, by which the numbers fill 16 bits
integers from 0 up            0 and the least of 1, 255, 1023, 4095, 16383, 65535 that no number exceeds (*), or the
                              largest number of the type, if that comes next; also if all numbers are multiples of
                              257, as 8 bits scaled to 16 are
larger integers               0 and the largest number of the type, if they reach a quarter of it; else their own
                              range (*)
floats from 0 to 1            0 and 1, if they exceed 1/16; else their own range (*)
whole floats from 0 to 65535  as integers (*)
other floats                  0 and 1, 255 or 65535, if 98 % of the numbers lie between -0.1 and 1.1 times that, and
                              more than 1 % above a quarter of it (*); else their own range (*)
NaN or infinite               the image is refused
============================  ========================================================================================

Their own range is from the smallest number (0, if none is negative) to the largest, less 0.1 % of the pixels at either
end. Numbers outside of a range are clipped, and all are inverted where TIFF says WhiteIsZero. Ranges marked (*) are
guesses; the first guess causes a warning.
"""

import mmap
import warnings

import numpy as np

from whycluster.errors import UserError

WHITES = (1, 255, 1023, 4095, 16383, 65535)  # 1, 8, 10, 12, 14 and 16 bits
FLOAT_WHITES = (1, 255, 65535)
DARK = 1 / 4  # of white; if no pixel is brighter, another number is more likely white
DARK_FLOAT = 1 / 16  # of white, for floats, most of which range from 0 to 1
OVERSHOOT = 0.1  # of white, by which resampling may exceed it at edges
ROWS_AT_ONCE = 64  # rows scaled at once, so that their floats stay in the cache
Bounds = tuple[float, float]  # the numbers that are black and white
# One byte in memory shared with forked DataLoader workers, so that all processes together warn once.
_warned = mmap.mmap(-1, 1)


class UnreadableImageError(UserError):
    """Raised for an image that cannot be used; the message is the reason, without the path."""


def to_8_bits(values: np.ndarray, declared: Bounds | None, name: str) -> np.ndarray:
    """Scales numbers of any range to 0…255; warns of the first range in this program that had to be guessed.

    Args:
        values: integers or floats of any shape, in the type that the file stores them in.
        declared: the range that the file declares, if it does.
        name: of the image, for the warning.

    Returns:
        uint8 of the same shape.

    Raises:
        UnreadableImageError: if no range makes sense.
    """
    black, white, known = range_of(values, declared)
    if not known and not _warned[0]:
        _warned[0] = 1
        warnings.warn(
            f"{name} has numbers from {values.min():g} to {values.max():g} and does not say which are black and white; "
            f"it is read as ranging from {black:g} to {white:g}. Other images like it are read by their own numbers, "
            "without another warning. To decide it yourself, save them with 8 bits a channel.",
            stacklevel=2,
        )
    precise = np.float64 if values.dtype.kind != "f" and values.dtype.itemsize > 2 else np.float32
    grey = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), ROWS_AT_ONCE):
        part = np.subtract(values[start : start + ROWS_AT_ONCE], black, dtype=precise)
        part *= precise(255 / (white - black))
        grey[start : start + ROWS_AT_ONCE] = np.clip(np.rint(part, out=part), 0, 255, out=part)
    return grey


def range_of(values: np.ndarray, declared: Bounds | None = None) -> tuple[float, float, bool]:
    """Finds the range of numbers by the table of this module: black, white, and whether they are known or guessed.

    Raises:
        UnreadableImageError: if no range makes sense.

    Example:
        >>> range_of(np.array([0, 3000], np.uint16))
        (0, 4095, False)
    """
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UnreadableImageError(f"float pixels from {low:g} to {high:g}: the range that is white is not known")
    if declared is not None and declared[0] <= low and high <= declared[1] and declared[0] < declared[1]:
        return *declared, True
    if low >= 0 and values.dtype.kind in "iu":
        return _of_integers(values, int(high))
    if low >= 0 and high <= 1 and (high > DARK_FLOAT or high == 0):
        return 0, 1, True
    if low >= 0 and 1 < high <= WHITES[-1] and np.array_equal(values, np.rint(values)):
        return 0, _least_white(high), False
    if values.dtype.kind == "f":
        least, most = np.quantile(values, (0.01, 0.99))
        for white in FLOAT_WHITES:
            if least >= -OVERSHOOT * white and DARK * white < most <= (1 + OVERSHOOT) * white:
                return 0, white, False
    return _own(values)


def _of_integers(values: np.ndarray, high: int) -> tuple[float, float, bool]:
    largest = int(np.iinfo(values.dtype).max)
    if high > WHITES[-1]:
        return (0, largest, True) if high >= DARK * largest else _own(values)
    white = _least_white(high)
    scaled_from_8_bits = largest == WHITES[-1] and not np.any(values % 257)
    return (0, largest, True) if white >= largest or scaled_from_8_bits else (0, white, False)


def _least_white(high: float) -> int:
    return next(white for white in WHITES if high <= white)


def _own(values: np.ndarray) -> tuple[float, float, bool]:
    """Computes the range of the numbers themselves, without the few at either end that may be defective pixels."""
    for black, white in (np.quantile(values, (0.001, 0.999)), (values.min(), values.max())):
        black = 0.0 if values.min() >= 0 else float(black)
        if white > black:
            return black, float(white), False
    raise UnreadableImageError(f"all pixels are {values.min():g}: the range that is white is not known")
