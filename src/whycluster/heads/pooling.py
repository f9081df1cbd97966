"""Pooling over competitors: hard and soft minima of `h_k`, and who gets how much of their relevance.

Formulas: Kauffmann et al., arXiv 1906.07633, section III. `N` rows, `K` clusters, `c` the cluster that is explained.
"""

from typing import NamedTuple

import torch
from torch import Tensor

# A competitor at whose border a row lies has h_k near 0, and R_k / h_k without bound. Where |h_k| is below this share
# of |f_c| it counts by the square of |h_k| over it, so that R_k / h_k passes through 0 where h_k does, without a jump.
# For the assigned cluster h_k >= f_c > 0, so all count in full.
SMALLEST_DENOMINATOR = 1e-2


class Pooled(NamedTuple):
    """A minimum over competitors and what becomes of its relevance.

    Attributes:
        explained: `f_c`, the smallest `h_k`, `(N, 1)`.
        weights: how much each competitor counts, `p_k`, `(N, K)`; of sum 1.
    """

    explained: Tensor
    weights: Tensor


def discriminants(distances: Tensor) -> Tensor:
    """How much nearer each cluster is than its nearest competitor.

    Args:
        distances: squared distances `(N, K)`, up to a constant for each row; `K >= 2`.

    Returns:
        `f_c = min_{k != c} d_k - d_c`, `(N, K)`; `argmax f = argmin d`.

    Example:
        >>> discriminants(torch.tensor([[1., 4., 9.]]))
        tensor([[ 3., -3., -8.]])
    """
    nearest = distances.topk(2, dim=1, largest=False)
    best, second = nearest.values[:, :1], nearest.values[:, 1:]
    others: Tensor = best.expand_as(distances).scatter(1, nearest.indices[:, :1], second)
    return others.sub_(distances)


def best_two(discriminants: Tensor) -> tuple[Tensor, Tensor]:
    """The assigned cluster and the runner-up, `(N,)` each, of discriminants `(N, K)`; of equal ones the first.

    Example:
        >>> best_two(torch.tensor([[-8.0, 3.0, -3.0]]))
        (tensor([1]), tensor([2]))
    """
    cluster = discriminants.argmax(1)  # `topk` would take any of equal ones
    return cluster, discriminants.scatter(1, cluster[:, None], -torch.inf).argmax(1)


def logits(distances: Tensor, stiffness: float) -> Tensor:
    """The soft discriminants, `log(P_c / (1 - P_c)) = -log Σ_{k != c} exp(-s h_k)` with `P = softmax(-s d)`.

    Args:
        distances: squared distances `(N, K)`, up to a constant for each row; `K >= 2`.
        stiffness: `s >= 0`, finite; divided by it, the logits approach the discriminants as it grows.

    Returns:
        `(N, K)`.

    Example:
        >>> logits(torch.tensor([[1., 4., 9.]]), 100.0) / 100
        tensor([[ 3., -3., -8.]])
    """
    scores = -stiffness * distances
    top = scores.argmax(1, keepdim=True)
    # For the largest, 1 - P_c would cancel; for all others, P_c is at most a half.
    beside_top = scores.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)
    total = torch.logaddexp(beside_top, scores.gather(1, top))
    others = total + torch.log1p(-(scores - total).exp())
    return scores - others.scatter(1, top, beside_top)


def take_most(h: Tensor, beta: float) -> Pooled:
    """Spreads the smallest `h_k` over the competitors, most to the nearest, none to those at whose border a row lies.

    Args:
        h: `(N, K)`; infinite for clusters that do not compete.
        beta: stiffness, from 0 (all competitors alike) to infinity (the nearest alone).

    Returns:
        `f = min_k h_k` and `p = softmax(-beta h)`.
    """
    f, nearest = h.min(dim=1, keepdim=True)
    if beta == torch.inf:
        return Pooled(f, torch.zeros_like(h).scatter_(1, nearest, 1))
    exponents = (h - f).mul_(-beta)
    if beta == 0:
        exponents.masked_fill_(h == torch.inf, -torch.inf)  # where 0 · ∞ stands
    p = exponents.softmax(dim=1)
    if (f > 0).all():
        return Pooled(f, p)  # no border is nearer than f
    floor = SMALLEST_DENOMINATOR * f.abs()
    near = h.abs() < floor
    if near.any():
        p = torch.where(near, p * (h / floor).square(), p)
        p = p / p.sum(1, keepdim=True)
    return Pooled(f, p)


def quotients(pooled: Pooled, h: Tensor) -> Tensor:
    """`R_k / h_k = f_c p_k / h_k`, what a linear layer multiplies its weights with, `(N, K)`; `h` as in `take_most`."""
    f, p = pooled
    ratio = f / h
    ratio.masked_fill_(h == 0, 0).masked_fill_(f == h, 1)  # 0 / 0, of duplicated centroids, is 1
    return ratio.mul_(p)
