"""What takes the place of pixels that are removed; whatever it is, the network has never seen the like."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

# Images `(N, 3, H, W)` `->` a function of the pixels that are gone, `(N, 1, H, W)` bool, which gives what is left.
Fill = Callable[[Tensor], Callable[[Tensor], Tensor]]


def mean_fill(colour: Tensor) -> Fill:
    """One colour, `(3,)`."""

    def fill(images: Tensor) -> Callable[[Tensor], Tensor]:
        plain = colour.to(images).view(1, -1, 1, 1)
        return lambda gone: torch.where(gone, plain, images)

    return fill


def blur_fill(sigma: float) -> Fill:
    """The image itself, blurred by a Gaussian of `sigma` pixels: colours stay, edges go."""

    def fill(images: Tensor) -> Callable[[Tensor], Tensor]:
        blurred = gaussian_blur(images, sigma)
        return lambda gone: torch.where(gone, blurred, images)

    return fill


def inpaint_fill() -> Fill:
    """What is around the hole, smoothly continued into it: means of ever coarser grids, then back (pull and push)."""
    return lambda images: lambda gone: inpainted(images, gone)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Images `(N, C, H, W)` blurred; beyond the edge stands what is at the edge."""
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = (-0.5 * (offsets / sigma).square()).exp()
    kernel /= kernel.sum()
    n, channels, height, width = images.shape
    rows = F.pad(images, (radius, radius, 0, 0), mode="replicate").reshape(-1, 1, height, width + 2 * radius)
    rows = F.conv2d(rows, kernel.view(1, 1, 1, -1)).view(n, channels, height, width)
    columns = F.pad(rows, (0, 0, radius, radius), mode="replicate").reshape(-1, 1, height + 2 * radius, width)
    return F.conv2d(columns, kernel.view(1, 1, -1, 1)).view(n, channels, height, width)


def inpainted(images: Tensor, gone: Tensor) -> Tensor:
    """Images `(N, C, H, W)` with the pixels that are gone, `(N, 1, H, W)`, made up from those around them.

    Where nothing of an image is left, the result is 0.
    """
    known = (~gone).to(images)
    return torch.where(gone, _continued(images * known, known), images)


def _continued(weighted: Tensor, known: Tensor) -> Tensor:
    """Values everywhere, from values times how much is known of them, `(N, C, H, W)`, and that, `(N, 1, H, W)`."""
    here = weighted / known.clamp(min=torch.finfo(known.dtype).tiny)
    if min(known.shape[2:]) < 2 or bool((known > 0).all()):
        return here
    coarse = _continued(*(F.avg_pool2d(values, 2, ceil_mode=True) for values in (weighted, known)))
    below = F.interpolate(coarse, size=known.shape[2:], mode="bilinear", align_corners=False)
    return torch.where(known > 0, here, below)


# Name `->` the fill for images `(N, 3, H, W)` that lose patches of so many pixels.
FILLS: dict[str, Callable[[Tensor, int], Fill]] = {
    "mean": lambda images, patch: mean_fill(images.mean((0, 2, 3))),
    "blur": lambda images, patch: blur_fill(float(patch)),
    "inpaint": lambda images, patch: inpaint_fill(),
}
