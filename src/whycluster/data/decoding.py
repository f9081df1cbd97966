"""Decoding of image files to RGB with 8 bits a channel, as a viewer shows them."""

import errno
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from whycluster.data.bit_depths import to_8_bit_mode, unsupported_tiff
from whycluster.data.colour_profiles import to_srgb
from whycluster.data.sample_ranges import UnreadableImageError

__all__ = ["FORMATS", "UnreadableImageError", "read_image", "to_rgb"]

# Raster formats that Pillow decodes by itself (MPO comes with JPEG). PostScript is left out on purpose: to read it, a
# program in the file is run.
KNOWN_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
ORIENTATION = 0x0112  # in EXIF
# Too many open files, or a network drive that was lost: the run ends, and goes on later with all images.
FAULTS_OF_THE_SYSTEM = {errno.EMFILE, errno.ENFILE, errno.ESTALE}

Image.init()
# `Image.open` fails on every file if one of the formats is not in this build of Pillow.
FORMATS = [name for name in KNOWN_FORMATS if name in Image.OPEN]


def read_image(path: Path) -> Image.Image:
    """Decodes an image file by its content, whatever its ending.

    Numbers are scaled to 8 bits (see `sample_ranges`), rotation by EXIF is applied, an ICC profile is converted to
    sRGB, and transparency is put on white, in this order. Of an animation the first frame is taken.

    Returns:
        An RGB image.

    Raises:
        UnreadableImageError: with the reason.
        OSError: where the system is at fault, and not the file.
    """
    try:
        if path.stat().st_size == 0:
            raise UnreadableImageError("the file is empty")
        with _opened(path) as image:
            return to_rgb(image)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError(unsupported_tiff(path) or "not an image, or in a format that is not known") from None
    except PermissionError:
        raise UnreadableImageError("no permission to read the file") from None
    except FileNotFoundError:
        raise UnreadableImageError("the file does not exist (any more), or the link is broken") from None
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"too many pixels to be decoded safely, scale it down first: {error}") from None
    except MemoryError:
        raise UnreadableImageError("there is not enough memory to decode it; scale it down first") from None
    except Exception as error:  # on damaged files Pillow's decoders raise errors of many kinds
        if isinstance(error, OSError) and error.errno in FAULTS_OF_THE_SYSTEM:
            raise
        if isinstance(error, OSError) and error.strerror:
            raise UnreadableImageError(f"cannot be read: {error.strerror}") from error
        reason = str(error).replace(str(path), path.name) or type(error).__name__
        raise UnreadableImageError(f"damaged: {reason}") from error


def _opened(path: Path) -> Image.Image:
    """Opens a file without reading its pixels; Pillow's warning of many pixels is left out, its limit is not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path, formats=FORMATS)


def to_rgb(image: Image.Image) -> Image.Image:
    """Turns an image of any mode into upright RGB, as `read_image` does with a file.

    Args:
        image: any image. Colours of more than 8 bits a channel are read exactly only if Pillow has opened the file but
            not read its pixels yet.

    Returns:
        An RGB image; the image itself if it is upright and in sRGB already.

    Raises:
        UnreadableImageError: for numbers of an unknown range.
    """
    image = _upright(to_8_bit_mode(image))
    if image.mode == "LAB":
        raise UnreadableImageError("its colours are in the Lab space, which is not supported; save it as RGB")
    image = _in_basic_mode(image)
    profile = image.info.get("icc_profile")
    if profile and isinstance(profile, bytes):  # in a damaged file it may be anything
        image = to_srgb(image, profile)
    if image.mode in ("LA", "RGBA"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _in_basic_mode(image: Image.Image) -> Image.Image:
    """Converts an image to mode L, LA, RGB, RGBA or CMYK; transparency becomes alpha before colours change."""
    if image.mode in ("La", "RGBa"):
        return image.convert(image.mode.upper())
    if "transparency" in image.info and image.mode in ("1", "L", "P", "RGB"):
        return image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    if image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return image
    return image.convert("L" if image.mode == "1" else "RGBA" if image.mode == "PA" else "RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Rotates and mirrors an image as its EXIF data say."""
    try:
        return ImageOps.exif_transpose(image) if image.getexif().get(ORIENTATION, 1) != 1 else image
    except Exception:  # EXIF data that do not parse, in any of many ways, say nothing against the pixels
        return image
