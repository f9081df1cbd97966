"""Reduction of images of any bit depth to 8 bits a sample.

Pillow itself scales 1, 2, 4 and 8 bits of every format, and inverts them where TIFF says WhiteIsZero. It scales PPM by
its maxval, and JPEG 2000 by its precision (to 16 bits if grey, else to 8). This module does what Pillow leaves out:

- grey of 12, 16 and 32 bits, signed or float, which Pillow returns as stored, also where TIFF says WhiteIsZero;
- colour, and grey with alpha, of 16 bits, of which Pillow keeps the high bytes (0 to 15 if white is 4095);
- the transparent grey or colour of a PNG (tRNS) of 2, 4 and 16 bits, which Pillow compares with pixels scaled to 8;
- TIFF of 16 bits without compression with each channel apart, which Pillow reads as if it had 8 bits.
"""

import numbers
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin

from whycluster.data.sample_ranges import DARK, Bounds, UnreadableImageError, to_8_bits

# Tags of TIFF (TIFF 6.0, sections 8 and 19)
BITS, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 262, 284, 339
RANGES = ((340, 341), (280, 281))  # SMinSampleValue and SMaxSampleValue; MinSampleValue and MaxSampleValue
WHITE_IS_ZERO, SEPARATE, UNSIGNED, SIGNED = 0, 2, 1, 2
FULL = (0.0, 65535.0)
# Last letter of Pillow's raw modes (little-endian, big-endian, native) `->` the letter that selects the other bytes.
SWAPPED = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
KEY_SCALES = {"L;2": 85, "L;4": 17}  # raw mode `->` the factor of pixels, which Pillow does not apply to the key


def to_8_bit_mode(image: Image.Image) -> Image.Image:
    """Reads the pixels of an image and scales them to 8 bits a sample.

    Returns:
        The image itself if it has 8 bits or less, else a new one of mode L, LA, RGB or RGBA with the same `info`, in
        which a transparent grey or colour has become alpha.

    Raises:
        UnreadableImageError: if it is not known which numbers are black and white.
    """
    raw_mode = _layout(image)
    deep = ";16" in raw_mode
    # The image itself stays unread: its low bytes may be needed next, and all of it by the next call.
    read = _opened_again(image, raw_mode) if deep else image
    read.load()
    key = read.info.get("transparency")
    if deep and read.mode in ("RGB", "RGBX", "RGBA"):
        return _colour(image, read, raw_mode)
    if read.mode == "F" or read.mode.startswith("I") or (read.mode == "L" and _tag(read, SAMPLE_FORMAT) == SIGNED):
        values = _grey_values(read)
        grey = to_8_bits(values, _declared(image, values), _name(read))
        grey = 255 - grey if _tag(read, PHOTOMETRIC) == WHITE_IS_ZERO else grey
        return _rebuilt(read, grey, 255 * (values != key) if isinstance(key, int) else None)
    if raw_mode in KEY_SCALES and isinstance(key, int):
        read.info["transparency"] = key * KEY_SCALES[raw_mode]
    return read


def _layout(image: Image.Image) -> str:
    """Returns the raw mode of a file that is not read yet, such as `RGB;16B`; empty where it is not known."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return ""
    raw_mode = _raw_mode(image.tile[0])
    if isinstance(image, TiffImagePlugin.TiffImageFile) and len(raw_mode) == 1 and _tag(image, BITS) == 16:
        raw_mode += ";16L" if image.tag_v2.prefix == b"II" else ";16B"
    return raw_mode


def _raw_mode(tile: Any) -> str:
    """Returns the layout of a pixel in a tile of Pillow's; empty for decoders that have none."""
    first = tile.args if isinstance(tile.args, str) else tile.args[0] if tile.args else ""
    return first if isinstance(first, str) else ""


def _opened_again(image: Any, raw_mode: str) -> Any:
    """Opens an image again, from the stream of one that is not read yet, with another raw mode."""
    image.fp.seek(0)
    again = type(image)(image.fp, image.filename)
    again.seek(image.tell())
    tiles, again.tile = again.tile, []
    for tile in tiles:
        channel = _raw_mode(tile)
        changed = channel + raw_mode[1:] if len(channel) == 1 else raw_mode  # one channel keeps its letter
        if channel != ";":  # as Pillow calls a fourth channel that is to be ignored
            again.tile.append(tile._replace(args=changed if isinstance(tile.args, str) else (changed, *tile.args[1:])))
    return again


def _png_significant_bits(file: Any) -> int | None:
    """Reads the significant bits of a sample from the sBIT chunk, the most of all channels (PNG, third edition,
    11.3.2.6).
    """
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"sBIT":
            bits = max(file.read(min(length, 4)), default=0)
            return bits if 1 <= bits <= 16 else None
        file.seek(length + 4, 1)
    return None


def _tag(image: Image.Image, tag: int, default: Any = None) -> Any:
    """Returns the value of a TIFF tag, or the largest of its values."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return max(value, default=default) if isinstance(value, tuple) else value


def _tagged_range(image: Image.Image) -> Bounds | None:
    """Returns the range that tags of TIFF declare."""
    for low, high in RANGES:
        black, white = _tag(image, low, 0), _tag(image, high)
        if isinstance(black, numbers.Real) and isinstance(white, numbers.Real):
            return float(black), float(white)
    return None


def _declared(image: Any, values: np.ndarray) -> Bounds | None:
    """Returns the range that a file declares of its numbers, of a PNG as long as it is open."""
    tagged = _tagged_range(image)
    if tagged is not None:
        return tagged
    if _tag(image, BITS) == 12:
        return 0, 4095
    # JPEG 2000 of fewer than 16 bits Pillow has shifted up.
    if (image.format == "PPM" and image.mode == "I") or (image.format == "JPEG2000" and not np.any(values % 4)):
        return FULL
    png = isinstance(image, PngImagePlugin.PngImageFile) and image.fp is not None
    bits = _png_significant_bits(image.fp) if png else None
    return None if bits is None else _significant_range(values, bits)


def _grey_values(image: Image.Image) -> np.ndarray:
    """Returns grey pixels in the type that the file stores them in."""
    values, bits = np.asarray(image), _tag(image, BITS)
    if image.mode == "F" or bits in (None, 12):
        return values
    return values.astype(f"{'i' if _tag(image, SAMPLE_FORMAT, UNSIGNED) == SIGNED else 'u'}{bits // 8}")


def _significant_range(values: np.ndarray, bits: int) -> Bounds:
    """Returns the range of a 16-bit PNG with sBIT: all 16 bits, as PNG requires, unless the numbers clearly were not
    scaled.
    """
    unscaled = values.max() < 2**bits and np.any(values % 2 ** (16 - bits) > 1)
    return (0, 2**bits - 1) if unscaled else FULL


def _colour(unread: Any, image: Image.Image, raw_mode: str) -> Image.Image:
    """Reduces colour, or grey with alpha, of 16 bits: to the high bytes, as Pillow reads them, unless all colours are
    dark.
    """
    high, key, grey = np.asarray(image), image.info.get("transparency"), raw_mode.startswith("LA")
    enough = high[..., :3].max() >= 256 * DARK and _tagged_range(image) in (None, FULL)
    if enough and key is None:
        return image.convert("LA") if grey else image
    planar = unread.tile[0].codec_name == "libtiff" and _tag(image, PLANAR) == SEPARATE
    if raw_mode.startswith("RGBa") or planar:  # Pillow cannot read their low bytes
        raise UnreadableImageError(
            "its colours are dark, of 16 bits, and multiplied by alpha or compressed channel by channel; save it with "
            "8 bits a channel"
        )
    values, n = _sixteen_bits(unread, high, raw_mode), 1 if grey else 3
    colours, alpha = values[..., :n], values[..., n] if image.mode == "RGBA" else None
    scaled = high[..., :n] if enough else to_8_bits(colours, _declared(unread, colours), _name(image))
    if key is not None:
        alpha = 255 * np.any(colours != np.asarray(key), axis=-1)
    elif alpha is not None:
        alpha = alpha >> 8 if alpha.max() >= 65536 * DARK else to_8_bits(alpha, None, _name(image))
    return _rebuilt(image, scaled, alpha)


def _sixteen_bits(unread: Image.Image, high: np.ndarray, raw_mode: str) -> np.ndarray:
    """Reads the low bytes of an image `(H, W, channels)` and joins them to the high bytes, which are read already."""
    if raw_mode.startswith("LA"):  # Pillow has no raw mode for the low bytes of these, but one for four bytes as such
        both = np.asarray(_opened_again(unread, "RGBA"))
        high, low = both[..., ::2], both[..., 1::2]
    else:
        low = np.asarray(_opened_again(unread, raw_mode[:-1] + SWAPPED[raw_mode[-1]]))
    values: np.ndarray = 256 * high.astype(np.uint16) + low
    return values


def _rebuilt(image: Image.Image, samples: np.ndarray, alpha: np.ndarray | None) -> Image.Image:
    """Builds an image of 8-bit samples `(H, W)` or `(H, W, 1 or 3)`, with the `info` of another."""
    bands = [np.atleast_3d(samples)] + ([] if alpha is None else [alpha[..., None].astype(np.uint8)])
    stacked = np.concatenate(bands, -1)
    rebuilt = Image.fromarray(stacked[..., 0] if stacked.shape[-1] == 1 else np.ascontiguousarray(stacked))
    rebuilt.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return rebuilt


def unsupported_tiff(path: Path) -> str | None:
    """Returns the reason why Pillow does not open a file, if that is a TIFF, from its tags."""
    try:
        with path.open("rb") as file:
            tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
        found = [tags[BITS], *(tags.get(tag, "missing") for tag in (SAMPLE_FORMAT, PHOTOMETRIC))]
    except Exception:  # on files of other formats, and damaged ones, the parser raises errors of many kinds
        return None
    bits, kind, photometric = (" ".join(map(str, value)) if isinstance(value, tuple) else value for value in found)
    return (
        f"a damaged TIFF, or of a kind that is not supported (BitsPerSample {bits}, SampleFormat {kind}, "
        f"PhotometricInterpretation {photometric}); save it with 8 bits a channel"
    )


def _name(image: Image.Image) -> str:
    return os.path.basename(getattr(image, "filename", "")) or "an image"
