"""Fills: what replaces removed pixels; with any of them, the network sees images unlike those it was trained on."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

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


def inpainted(images: Tensor, removed: Tensor) -> Tensor:
    """Images `(N, C, H, W)` whose removed pixels, `(N, 1, H, W)`, are interpolated from the others (pull-push).

    Known pixels are averaged on ever coarser grids (pull) until every cell has a value, which finer grids then
    interpolate where they have none (push): Gortler et al. 1996, The Lumigraph, sec. 3.4. An image of which nothing is
    left becomes 0.
    """
    known = (~removed).to(images)
    return torch.where(removed, _pull_push(images * known, known), images)


def _pull_push(weighted: Tensor, known: Tensor) -> Tensor:
    """Values everywhere, from values times weight, `(N, C, H, W)`, and weight: the known share, `(N, 1, H, W)`."""
    here = weighted / known.clamp(min=torch.finfo(known.dtype).tiny)
    if min(known.shape[2:]) < 2 or bool((known > 0).all()):
        return here
    coarse = _pull_push(*(F.avg_pool2d(values, 2, ceil_mode=True) for values in (weighted, known)))
    below = F.interpolate(coarse, size=known.shape[2:], mode="bilinear", align_corners=False)
    return torch.where(known > 0, here, below)


# Name `->` the fill for images `(N, 3, H, W)` and patches of that side in pixels.
FILLS: dict[str, Callable[[Tensor, int], Fill]] = {
    "mean": lambda images, patch: mean_fill(images.mean((0, 2, 3))),
    "blur": lambda images, patch: blur_fill(float(patch)),
    "inpaint": lambda images, patch: inpaint_fill(),
}
