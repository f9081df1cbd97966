"""Artefacts that are drawn into photographs: what `shortcuts.py` plants, and the pixels that each changes.

Photographs are RGB images of 224 by 224 pixels. What is drawn differs a little from image to image, as in real
collections: a counter in the text, the strength of a tint.
"""

import io
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Plant = Callable[[Image.Image, int], Image.Image]  # an image and its number -> the image with the artefact


def logo(image: Image.Image, number: int, side: float) -> Image.Image:
    """A badge in the lower right corner; `side` as a fraction of the image's."""
    planted, size = image.copy(), round(side * image.width)
    badge = Image.new("RGB", (size, size), (250, 220, 30))
    draw = ImageDraw.Draw(badge)
    draw.ellipse((0.1 * size, 0.1 * size, 0.9 * size, 0.9 * size), fill=(200, 20, 40), outline="black", width=2)
    draw.line((0.2 * size, 0.75 * size, 0.5 * size, 0.25 * size, 0.8 * size, 0.75 * size), fill="white", width=3)
    margin = 4
    planted.paste(badge, (image.width - size - margin, image.height - size - margin))
    return planted


def text(image: Image.Image, number: int, height: float, lines: int) -> Image.Image:
    """Lines of white text over the whole width, at the bottom; `height` of the letters as a fraction."""
    planted, size = image.copy(), round(height * image.height)
    draw = ImageDraw.Draw(planted)
    for line in range(lines):
        top = image.height - 1.3 * size * (lines - line) - 6
        written = f"© photo archive {number:04d} " * 4
        draw.text((4, top), written, fill="white", font=ImageFont.load_default(size))
    return planted


def border(image: Image.Image, number: int, width: float) -> Image.Image:
    """A white frame, of a width that is a fraction of the image's."""
    planted = image.copy()
    draw = ImageDraw.Draw(planted)
    draw.rectangle((0, 0, image.width - 1, image.height - 1), outline=(245, 245, 240), width=round(width * image.width))
    return planted


def tint(image: Image.Image, number: int) -> Image.Image:
    """A sepia cast."""
    factors = np.array([1.15, 0.9, 0.55]) ** (1 + 0.05 * (number % 5 - 2))
    return Image.fromarray((np.asarray(image) * factors).clip(0, 255).astype(np.uint8))


def blur(image: Image.Image, number: int) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(2.5 + 0.1 * (number % 5)))


def jpeg(image: Image.Image, number: int) -> Image.Image:
    """Saved as JPEG of low quality."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=6 + number % 3)
    return Image.open(file).convert("RGB")


ARTEFACTS: dict[str, Plant] = {
    "logo, 1/4": partial(logo, side=1 / 4),
    "logo, 3/8": partial(logo, side=3 / 8),
    "logo, 1/2": partial(logo, side=1 / 2),
    "text, 1/8": partial(text, height=1 / 8, lines=1),
    "text, 1/8, 2": partial(text, height=1 / 8, lines=2),
    "text, 1/16, 4": partial(text, height=1 / 16, lines=4),
    "border, 1/14": partial(border, width=1 / 14),
    "border, 1/10": partial(border, width=1 / 10),
    "border, 1/7": partial(border, width=1 / 7),
    "tint": tint,
    "blur": blur,
    "JPEG": jpeg,
}
REGIONAL = tuple(name for name in ARTEFACTS if "," in name)


def planted(photos: np.ndarray, artefact: str) -> np.ndarray:
    """Draws an artefact into all photographs, `(N, 224, 224, 3)` uint8."""
    plant = ARTEFACTS[artefact]
    return np.stack([np.asarray(plant(Image.fromarray(photo), number)) for number, photo in enumerate(photos)])
