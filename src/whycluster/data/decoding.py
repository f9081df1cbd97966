"""Any image file `->` plain 8-bit RGB as a person would see it, or the reason why not."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Raster formats that Pillow decodes by itself. PostScript is left out on purpose: to read it, a program in the file is run.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")


class UnreadableImageError(Exception):
    """An image that cannot be used; the message is the reason, without the path."""


def read_image(path: Path) -> Image.Image:
    """Decodes a file by its content, whatever its ending.

    Rotation by EXIF is applied, transparency put on white, 16-bit grey scaled to 8 bits; of an animation the first
    frame is taken.

    Returns:
        An RGB image.

    Raises:
        UnreadableImageError: with the reason.
    """
    try:
        if path.stat().st_size == 0:
            raise UnreadableImageError("the file is empty")
        with Image.open(path, formats=FORMATS) as image:
            return to_rgb(image)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError("not an image, or in a format that is not known") from None
    except PermissionError:
        raise UnreadableImageError("no permission to read the file") from None
    except FileNotFoundError:
        raise UnreadableImageError("the file does not exist (any more), or the link is broken") from None
    except Exception as error:  # on damaged files Pillow's decoders raise whatever their parsers stumble over
        reason = str(error).replace(str(path), path.name) or type(error).__name__
        raise UnreadableImageError(f"damaged: {reason}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Turns an image of any mode upright and into RGB.

    Raises:
        UnreadableImageError: for numbers of an unknown range.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _grey(np.asarray(image).astype(np.float64) / 257)  # 65535 becomes 255
    elif image.mode == "F":
        image = _grey(_to_255(np.asarray(image)))
    elif "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _to_255(values: np.ndarray) -> np.ndarray:
    """Grey values given as floats, either from 0 to 1 or from 0 to 255."""
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 255):
        raise UnreadableImageError(f"float pixels from {low:g} to {high:g}: the range that is white is not known")
    return values * 255 if high <= 1 else values


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
