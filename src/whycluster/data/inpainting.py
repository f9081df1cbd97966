"""Inpainting: removed pixels, interpolated from those around them."""

import torch
from torch import Tensor
from torch.nn import functional as F


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
