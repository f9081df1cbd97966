"""Conversion of the colours of images by their ICC profile to sRGB."""

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

# Colour spaces of profiles (ICC.1:2022, table 19) and the modes whose numbers they can describe
MODES = {"GRAY": ("L", "LA"), "RGB": ("RGB", "RGBA"), "CMYK": ("CMYK",)}
STEPS = np.arange(0, 256, 17, dtype=np.uint8)  # of each channel, at which a profile is compared with sRGB


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Converts an image to sRGB with the perceptual intent, as browsers do.

    Args:
        image: of mode L, LA, RGB, RGBA or CMYK; alpha stays as it is.
        profile: its ICC profile.

    Returns:
        An image of the same mode, or RGB for CMYK; the image itself if the profile is sRGB, so that no number changes
        by more than 1, if it is damaged, or if it describes another colour space.
    """
    convert = _conversion(profile, image.mode)
    return image if convert is None else convert(image)


@lru_cache(maxsize=16)
def _conversion(profile: bytes, mode: str) -> Callable[[Image.Image], Image.Image] | None:
    """Returns the function that converts images of a mode by a profile; `None` if it would change nothing, or the
    profile is not usable.
    """
    grey, colour = mode in MODES["GRAY"], "RGBA" if mode == "RGBA" else "RGB"
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if mode not in MODES.get(source.profile.xcolor_space.strip(), ()):
            return None
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        # The library's optimisation is coarse for dark greys, and not needed: only 256 greys are converted.
        flags = ImageCms.Flags.NOOPTIMIZE if grey else ImageCms.Flags.NONE
        transform = ImageCms.ImageCmsTransform(source, srgb, "L" if grey else mode, colour, flags=flags)
    except (OSError, ValueError):  # the profile does not parse, or lacks what the conversion needs
        return None
    if mode == "CMYK":
        return transform.apply
    before = _lattice("L" if grey else mode)
    after = transform.apply(before)
    if np.abs(np.asarray(after, int) - np.asarray(before.convert(after.mode), int)).max() <= 1:
        return None
    if not grey:
        return transform.apply
    table = after.getchannel("G").tobytes()
    alpha = bytes(range(256)) if mode == "LA" else b""
    return lambda image: image.point(list(table + alpha))


def _lattice(mode: str) -> Image.Image:
    """Builds an image of all 256 greys, or of the colours with all combinations of the steps."""
    if mode == "L":
        return Image.frombytes("L", (256, 1), bytes(range(256)))
    colours = np.stack(np.meshgrid(STEPS, STEPS, STEPS, indexing="ij"), -1).reshape(64, 64, 3)
    return Image.fromarray(colours).convert(mode)
