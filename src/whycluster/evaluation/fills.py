"""Fills: what replaces removed pixels; with any of them, the network sees images unlike those it was trained on."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from whycluster.data.inpainting import inpainted

# Images `(N, 3, H, W)` `->` a function of the removed pixels, `(N, 1, H, W)` bool, that gives the images without them.
Fill = Callable[[Tensor], Callable[[Tensor], Tensor]]


def mean_fill(colour: Tensor) -> Fill:
    """A single colour, `(3,)`."""

    def fill(images: Tensor) -> Callable[[Tensor], Tensor]:
        constant = colour.to(images).view(1, -1, 1, 1)
        return lambda removed: torch.where(removed, constant, images)

    return fill


def blur_fill(sigma: float) -> Fill:
    """The image itself, blurred by a Gaussian of `sigma` pixels: it keeps colours and loses edges."""

    def fill(images: Tensor) -> Callable[[Tensor], Tensor]:
        blurred = gaussian_blur(images, sigma)
        return lambda removed: torch.where(removed, blurred, images)

    return fill


def inpaint_fill() -> Fill:
    """A smooth continuation of the surrounding pixels; see `inpainted`."""
    return lambda images: lambda removed: inpainted(images, removed)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Images `(N, C, H, W)` blurred by a Gaussian of `sigma` pixels, cut at `3 sigma`; edge pixels are replicated."""
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = (-0.5 * (offsets / sigma).square()).exp()
    kernel /= kernel.sum()
    n, channels, height, width = images.shape
    rows = F.pad(images, (radius, radius, 0, 0), mode="replicate").reshape(-1, 1, height, width + 2 * radius)
    rows = F.conv2d(rows, kernel.view(1, 1, 1, -1)).view(n, channels, height, width)
    columns = F.pad(rows, (0, 0, radius, radius), mode="replicate").reshape(-1, 1, height + 2 * radius, width)
    return F.conv2d(columns, kernel.view(1, 1, -1, 1)).view(n, channels, height, width)


# Name `->` the fill for images `(N, 3, H, W)` and patches of that side in pixels.
FILLS: dict[str, Callable[[Tensor, int], Fill]] = {
    "mean": lambda images, patch: mean_fill(images.mean((0, 2, 3))),
    "blur": lambda images, patch: blur_fill(float(patch)),
    "inpaint": lambda images, patch: inpaint_fill(),
}
