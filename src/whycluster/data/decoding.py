"""Any image file `->` plain 8-bit RGB as a person would see it, or the reason why not."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from whycluster.errors import UserError

# Raster formats that Pillow decodes by itself (MPO comes with JPEG). PostScript is left out on purpose: to read it, a
# program in the file is run.
KNOWN_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
ORIENTATION = 0x0112  # in EXIF

Image.init()
# `Image.open` fails on every file if it is given one format that this build of Pillow does not have.
FORMATS = [name for name in KNOWN_FORMATS if name in Image.OPEN]


class UnreadableImageError(UserError):
    """An image that cannot be used; the message is the reason, without the path."""


def read_image(path: Path) -> Image.Image:
    """Decodes a file by its content, whatever its ending.

    Rotation by EXIF is applied, transparency put on white, 16-bit and float grey scaled to 8 bits; of an animation the
    first frame is taken.

    Returns:
        An RGB image.

    Raises:
        UnreadableImageError: with the reason.
    """
    try:
        if path.stat().st_size == 0:
            raise UnreadableImageError("the file is empty")
        with _opened(path) as image:
            image.load()  # here, so that what is wrong with the pixels is not blamed on what follows
            return to_rgb(image)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError("not an image, or in a format that is not known") from None
    except PermissionError:
        raise UnreadableImageError("no permission to read the file") from None
    except FileNotFoundError:
        raise UnreadableImageError("the file does not exist (any more), or the link is broken") from None
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"too many pixels to be decoded safely, scale it down first: {error}") from None
    except MemoryError:
        raise UnreadableImageError("there is not enough memory to decode it; scale it down first") from None
    except Exception as error:  # on damaged files Pillow's decoders raise whatever their parsers stumble over
        if isinstance(error, OSError) and error.strerror:
            raise UnreadableImageError(f"cannot be read: {error.strerror}") from error
        reason = str(error).replace(str(path), path.name) or type(error).__name__
        raise UnreadableImageError(f"damaged: {reason}") from error


def _opened(path: Path) -> Image.Image:
    """An image whose pixels are not read yet; of very many Pillow warns, and from twice as many on it refuses them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path, formats=FORMATS)


def to_rgb(image: Image.Image) -> Image.Image:
    """Turns an image of any mode upright and into RGB; one that is both already is returned as it is.

    Raises:
        UnreadableImageError: for numbers of an unknown range.
    """
    image = _upright(image)
    if image.mode == "F":
        return _grey(_floats_to_255(np.asarray(image)))
    if image.mode.startswith("I"):  # `I`, and `I;16` in both byte orders
        return _grey(_integers_to_255(np.asarray(image)))
    if image.mode == "LAB":
        raise UnreadableImageError("its colours are in the Lab space, which is not supported; save it as RGB")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image) if image.getexif().get(ORIENTATION, 1) != 1 else image
    except Exception:  # EXIF data that do not parse, in any of many ways, say nothing against the pixels
        return image


def _floats_to_255(values: np.ndarray) -> np.ndarray:
    """Grey values given as floats, either from 0 to 1 or from 0 to 255."""
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 255):
        raise UnreadableImageError(f"float pixels from {low:g} to {high:g}: the range that is white is not known")
    scaled = values * np.float32(255) if high <= 1 else values.copy()
    grey: np.ndarray = np.rint(scaled, out=scaled).astype(np.uint8)
    return grey


def _integers_to_255(values: np.ndarray) -> np.ndarray:
    """Grey values of 16 bits, wherever they are kept: 65535 becomes 255."""
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 65535):
        raise UnreadableImageError(f"integer pixels from {low:g} to {high:g}: the range that is white is not known")
    scaled = values.astype(np.uint32)
    scaled += 128  # rounds, as no whole number over 257 ends in a half
    scaled //= 257
    return scaled.astype(np.uint8)


def _grey(values: np.ndarray) -> Image.Image:
    """Grey values `(H, W)` of 8 bits as RGB."""
    return Image.fromarray(values).convert("RGB")
