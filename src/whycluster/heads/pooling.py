"""Pooling over competitors: hard and soft minima of `h_k = s_c - s_k`, and which competitor gets how much relevance.

Formulas: Kauffmann et al., arXiv 1906.07633, section III. `N` rows, `K >= 2` clusters with scores `s`, of which the
largest decides (a negative squared distance, for example), and `c` the cluster that is explained.
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


def discriminants(scores: Tensor) -> Tensor:
    """`f_c = s_c - max_{k != c} s_k` of scores `(N, K)`, `(N, K)`; `argmax f = argmax s`.

    Example:
        >>> discriminants(torch.tensor([[-1., -4., -9.]]))
        tensor([[ 3., -3., -8.]])
    """
    top = scores.topk(2, dim=1)
    best, second = top.values.split(1, dim=1)
    strongest_other = best.expand_as(scores).scatter(1, top.indices[:, :1], second)
    return scores - strongest_other


def best_two(discriminants: Tensor) -> tuple[Tensor, Tensor]:
    """The assigned cluster and the runner-up, `(N,)` each, of discriminants `(N, K)`; of equal ones the first.

    Example:
        >>> best_two(torch.tensor([[-8.0, 3.0, -3.0]]))
        (tensor([1]), tensor([2]))
    """
    cluster = discriminants.argmax(1)  # `topk` would take any of equal ones
    return cluster, discriminants.scatter(1, cluster[:, None], -torch.inf).argmax(1)


def logits(scores: Tensor, stiffness: float) -> Tensor:
    """Soft discriminants `log(P_c / (1 - P_c)) = -log Σ_{k != c} exp(-β h_k)` with `P = softmax(β s)`, `(N, K)`.

    Args:
        scores: `(N, K)`.
        stiffness: `β >= 0`, finite; divided by it, the logits approach the discriminants as it grows.

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
    """The minimum `f = min_k h_k`, and `p = softmax(-β h)`: most for the nearest competitor, none at its very border.

    Args:
        h: `(N, K)`; infinite for clusters that are excluded.
        beta: stiffness, from 0 (all competitors alike) to infinity (the nearest alone).
    """
    f, nearest = h.min(dim=1, keepdim=True)
    if beta == torch.inf:
        return Pooled(f, torch.zeros_like(h).scatter_(1, nearest, 1))
    exponents = (h - f).mul_(-beta)
    if beta == 0:
        exponents.masked_fill_(h == torch.inf, -torch.inf)  # where 0 · ∞ stands
    p = exponents.softmax(dim=1)
    floor = SMALLEST_DENOMINATOR * f.abs()
    near = h.abs() < floor
    if near.any():
        p = torch.where(near, p * (h / floor).square(), p)
        p = p / p.sum(1, keepdim=True)
    return Pooled(f, p)


def quotients(pooled: Pooled, h: Tensor) -> Tensor:
    """`q_k = R_k / h_k = f_c p_k / h_k`, what a linear layer multiplies its weights with, `(N, K)`.

    Example:
        >>> h = torch.tensor([[2.0, 4.0, torch.inf]])
        >>> quotients(take_most(h, 0.0), h)
        tensor([[0.5000, 0.2500, 0.0000]])
    """
    f, p = pooled
    ratio = f / h
    ratio.masked_fill_(h == 0, 0).masked_fill_(f == h, 1)  # 0 / 0, of duplicated centroids, is 1
    return ratio.mul_(p)


def score_coefficients(q: Tensor, chosen: Tensor) -> Tensor:
    """The coefficient of each score in `Σ_k q_k h_k = Σ_k q_k (s_c - s_k)`, `(N, K)`.

    Args:
        q: `(N, K)`; 0 for the chosen cluster.
        chosen: `c`, `(N,)`.

    Example:
        >>> score_coefficients(torch.tensor([[0.0, 0.5, 0.2]]), torch.tensor([0]))
        tensor([[ 0.7000, -0.5000, -0.2000]])
    """
    return (-q).scatter_(1, chosen[:, None], q.sum(1, keepdim=True))
