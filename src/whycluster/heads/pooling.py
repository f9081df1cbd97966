"""Pooling over competitors: hard and soft minima of `h_k = s_c - s_k`, and the relevance of each competitor.

Formulas: Kauffmann et al., arXiv 1906.07633, section III. `N` rows, `K >= 2` clusters with scores `s`, of which the
largest decides (a negative squared distance, for example), and `c` the cluster that is explained.
"""

from typing import NamedTuple

import torch
from torch import Tensor

# Where a row is near the border of a competitor, h_k is near 0 and R_k / h_k unbounded. Where |h_k| is below this
# fraction of |f_c|, the competitor is weighted by the square of |h_k| over that bound, so that R_k / h_k is continuous
# and zero where h_k is. For the assigned cluster h_k >= f_c > 0, so all competitors have their full weight.
SMALLEST_DENOMINATOR = 1e-2
NEGLIGIBLE = 1e-30  # weight of a competitor that is set to zero


class Pooled(NamedTuple):
    """A minimum over competitors, and the weights by which its relevance is divided among them."""

    explained: Tensor  # f_c, the smallest h_k, (N, 1)
    weights: Tensor  # how much each competitor counts, p_k, (N, K); of sum 1


def discriminants(scores: Tensor) -> Tensor:
    """Computes `f_c = s_c - max_{k != c} s_k`, `(N, K)`, of scores `(N, K)`; `argmax f = argmax s`.

    Example:
        >>> discriminants(torch.tensor([[-1., -4., -9.]]))
        tensor([[ 3., -3., -8.]])
    """
    top = scores.topk(2, dim=1)
    best, second = top.values[:, :1], top.values[:, 1:]
    strongest_other: Tensor = best.expand_as(scores).scatter(1, top.indices[:, :1], second)
    return strongest_other.neg_().add_(scores)


def best_two(discriminants: Tensor) -> tuple[Tensor, Tensor]:
    """Finds the assigned cluster and the runner-up, `(N,)` each, of discriminants `(N, K)`; of equal ones the first.

    Example:
        >>> best_two(torch.tensor([[-8.0, 3.0, -3.0]]))
        (tensor([1]), tensor([2]))
    """
    cluster = discriminants.max(1).indices  # `topk` would take any of equal ones
    return cluster, discriminants.scatter(1, cluster[:, None], -torch.inf).max(1).indices


def logits(scores: Tensor, stiffness: float) -> Tensor:
    """Computes soft discriminants `-log Σ_{k != c} exp(-β h_k)`, `(N, K)`: `log(P_c / (1 - P_c))` with
    `P = softmax(β s)`.

    Divided by `β`, which is `>= 0` and finite, they approach the discriminants as it grows.

    Example:
        >>> logits(torch.tensor([[-1., -4., -9.]]), 100.0) / 100
        tensor([[ 3., -3., -8.]])
    """
    scores = stiffness * scores
    top = scores.argmax(1, keepdim=True)
    # For the largest, 1 - P_c would cancel; for all others, P_c is at most a half.
    beside_top = scores.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)
    total = torch.logaddexp(beside_top, scores.gather(1, top))
    others = total + torch.log1p(-(scores - total).exp())
    return scores - others.scatter(1, top, beside_top)


def take_most(h: Tensor, beta: float) -> Pooled:
    """Computes the minimum `f = min_k h_k` and the weights `p = softmax(-β h)`, which are largest for the nearest
    competitor.

    Args:
        h: `(N, K)`; infinite for clusters that are excluded.
        beta: stiffness, from 0 (equal weights) to infinity (the nearest competitor alone).
    """
    f = h.amin(1, keepdim=True)
    if beta > torch.finfo(h.dtype).max:
        return Pooled(f, torch.zeros_like(h).scatter_(1, h.argmin(1, keepdim=True), 1))
    exponents = (h - f).mul_(-beta)
    if beta == 0:
        exponents.masked_fill_(h == torch.inf, -torch.inf)  # where 0 · ∞ stands
    # Numbers too small to be normal would slow down products tenfold.
    p = torch.threshold_(exponents.softmax(dim=1), NEGLIGIBLE, 0)
    if (f < 0).any():  # else no |h| is below |f|
        floor, size = SMALLEST_DENOMINATOR * f.abs(), h.abs()
        p = torch.where(size < floor, p * (h / floor).square(), p)
        p = p / p.sum(1, keepdim=True)
    return Pooled(f, p)


def quotients(pooled: Pooled, h: Tensor) -> Tensor:
    """Computes `q_k = R_k / h_k = f_c p_k / h_k`, `(N, K)`, by which a linear layer multiplies its weights."""
    f, p = pooled
    ratio = f / h
    if (f <= 0).any():  # else no h is zero
        ratio.masked_fill_(h == 0, 0).masked_fill_(f == h, 1)  # 0 / 0, of duplicated centroids, is 1
    return ratio.mul_(p)


def score_coefficients(q: Tensor, chosen: Tensor) -> Tensor:
    """Computes coefficients of the scores in `Σ_k q_k h_k = Σ_k q_k (s_c - s_k)`, `(N, K)`; `c` is `chosen`, `(N,)`."""
    return (-q).scatter_(1, chosen[:, None], q.sum(1, keepdim=True))
