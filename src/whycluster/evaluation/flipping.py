"""Patch flipping: patches are removed, the most or the least relevant first, and the scores of what is left measured.

The curve of most relevant first should fall fast, that of least relevant first slowly (Samek et al. 2017, IEEE TNNLS
28(11), arXiv 1509.06321). SRG, the area between the two, depends little on what replaces the patches (Blücher et al.
2024, TMLR, arXiv 2401.06654).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from whycluster.evaluation.fills import Fill

Score = Callable[[Tensor], Tensor]  # images (N, 3, H, W) -> their scores (N, S)
GRID = 14  # regions along the shorter side of an image


class Flipping(NamedTuple):
    """Settings of patch flipping for images of one size."""

    patch: int  # side, in pixels
    counts: list[int]  # patches removed at each point of a curve; see `flip_counts`
    fills: Mapping[str, Fill]  # name `->` what replaces the patches


def region_side(images: Tensor) -> int:
    """Side in pixels of a region of images `(N, 3, H, W)`: of patches by default, and of the densest square."""
    return max(1, min(images.shape[2:]) // GRID)


def n_patches(images: Tensor, patch: int) -> int:
    """Number of patches of each of the images `(N, 3, H, W)`, smaller ones at the far edges included."""
    height, width = images.shape[2:]
    return -(-height // patch) * -(-width // patch)


def patch_means(heatmaps: Tensor, patch: int) -> Tensor:
    """Mean relevance of square patches `(N, rows, columns)`; at the far edges they may be smaller.

    Example:
        >>> patch_means(torch.arange(9.0).view(1, 3, 3), 2)
        tensor([[[2.0000, 3.5000],
                 [6.5000, 8.0000]]])
    """
    return F.avg_pool2d(heatmaps[:, None], patch, ceil_mode=True)[:, 0]


def ranks(values: Tensor, generator: torch.Generator) -> Tensor:
    """Rank of each value along the last dimension, 0 for the largest; the order of equal values is random."""
    shuffle = torch.rand(values.shape, generator=generator).argsort(-1).to(values.device)
    shuffled = values.gather(-1, shuffle)
    order = shuffle.gather(-1, shuffled.argsort(stable=True, dim=-1, descending=True))
    return order.argsort(-1)


def flip_counts(n_patches: int, fraction: float, steps: int) -> list[int]:
    """Number of patches removed at each point of a curve, without repetition: 0 to `fraction` of them, at least 1.

    Example:
        >>> flip_counts(n_patches=10, fraction=0.5, steps=2)
        [0, 2, 5]
    """
    most = max(1, round(fraction * n_patches))
    return sorted({round(most * step / steps) for step in range(steps + 1)})


def flipping_curve(
    score: Score, images: Tensor, patch_ranks: Tensor, patch: int, counts: Sequence[int], fill: Fill
) -> Tensor:
    """Scores of images as more and more of their patches are removed.

    Args:
        score: gives the scores, `(N, S)`.
        images: `(N, 3, H, W)`, from 0 to 1.
        patch_ranks: order in which patches are removed, `(N, rows, columns)`; see `ranks`.
        patch: side, in pixels.
        counts: patches removed at each point; see `flip_counts`.
        fill: what replaces them.

    Returns:
        `(N, len(counts), S)`.
    """
    height, width = images.shape[2:]
    pixel_ranks = patch_ranks.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None, :height, :width]
    filled = fill(images)
    return torch.stack([score(filled(pixel_ranks < count)) for count in counts], 1)


def area(curve: Tensor, counts: Sequence[int]) -> Tensor:
    """Mean height of curves `(N, T, S)` over the patches removed, by the trapezoidal rule, `(N, S)`.

    Example:
        >>> area(torch.tensor([[[1.0], [0.0], [0.0]]]), counts=[0, 1, 2])
        tensor([[0.2500]])
    """
    at = torch.tensor(counts, dtype=curve.dtype, device=curve.device)
    return torch.trapezoid(curve, at, dim=1) / (at[-1] - at[0])
