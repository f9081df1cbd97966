"""Flipping: patches are removed, the most or the least relevant first, and what is left of the answer is measured.

If the most relevant go first, the answer should fall fast; if the least relevant do, slowly. SRG, the area between the
two curves (Blücher et al., TMLR 2024), says both in one number, on which the choice of the fill bears little.
Curves: Samek et al. 2017.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from whycluster.evaluation.fills import Fill

Score = Callable[[Tensor], Tensor]  # images (N, 3, H, W) -> what is measured of them, (N, S)


def patch_means(heatmaps: Tensor, patch: int) -> Tensor:
    """Mean relevance of square patches `(N, rows, columns)`; at the far edges they may be smaller.

    Example:
        >>> patch_means(torch.arange(9.0).view(1, 3, 3), 2)
        tensor([[[2.0000, 3.5000],
                 [6.5000, 8.0000]]])
    """
    return F.avg_pool2d(heatmaps[:, None], patch, ceil_mode=True)[:, 0]


def ranks(values: Tensor, generator: torch.Generator) -> Tensor:
    """The place of each value from the largest, 0, to the smallest, along the last dimension; ties are drawn."""
    shuffle = torch.rand(values.shape, generator=generator).argsort(-1).to(values.device)
    shuffled = values.gather(-1, shuffle)
    order = shuffle.gather(-1, shuffled.argsort(stable=True, dim=-1, descending=True))
    return order.argsort(-1)


def flip_counts(n_patches: int, fraction: float, steps: int) -> list[int]:
    """How many patches are gone at each point of a curve, from none to `fraction` of them, at least one; none twice.

    Example:
        >>> flip_counts(n_patches=10, fraction=0.5, steps=2)
        [0, 2, 5]
    """
    most = max(1, round(fraction * n_patches))
    return sorted({round(most * step / steps) for step in range(steps + 1)})


def flipping_curve(
    score: Score, images: Tensor, places: Tensor, patch: int, counts: Sequence[int], fill: Fill
) -> Tensor:
    """Scores as more and more patches are gone.

    Args:
        score: what is measured, `(N, S)`.
        images: `(N, 3, H, W)`, from 0 to 1.
        places: when each patch goes, `(N, rows, columns)`; see `ranks`.
        patch: side, in pixels.
        counts: how many patches are gone at each point; see `flip_counts`.
        fill: what comes in their place.

    Returns:
        `(N, len(counts), S)`.
    """
    height, width = images.shape[2:]
    of_pixels = places.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None, :height, :width]
    without = fill(images)
    return torch.stack([score(without(of_pixels < count)) for count in counts], 1)


def area(curve: Tensor, counts: Sequence[int]) -> Tensor:
    """Mean height of curves `(N, T, S)` over the patches gone, by trapezoids, `(N, S)`.

    Example:
        >>> area(torch.tensor([[[1.0], [0.0], [0.0]]]), counts=[0, 1, 2])
        tensor([[0.2500]])
    """
    at = torch.tensor(counts, dtype=curve.dtype, device=curve.device)
    return torch.trapezoid(curve, at, dim=1) / (at[-1] - at[0])
