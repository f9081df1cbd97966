"""Bisecting k-means as a neural network, with exactly its decision.

A row goes down a tree; at each split it goes to the side whose centre is nearer. So cluster `c` is chosen if and only
if all splits on its path decide for it: with `h_s = |x - other side|² - |x - side of c|²`, `f_c = min_s h_s`. The
competitor `k` parts from `c` at one split, whose `h_s` is its `h_k`. That is k-means' network with other weights, one
for each of the `K - 1` splits.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from whycluster.heads.head import Head, Passed
from whycluster.heads.points import checked_points, duals, middle
from whycluster.heads.pooling import Pooled, quotients


class Split(NamedTuple):
    """A node of the tree: its sides are clusters, or the numbers of later splits.

    Attributes:
        left: clusters on the one side.
        right: clusters on the other side.
    """

    left: list[int]
    right: list[int]


class NeuralizedBisectingKMeans(Head):
    """The neuralized bisecting k-means of a given tree.

    Args:
        splits: parents first, `K - 1` of them.
        left: centres of their left sides, `(K - 1, D)`.
        right: centres of their right sides, `(K - 1, D)`.
        beta: stiffness of the soft assignment and of the pooling over competitors, `>= 0`.
        projection: as in `NeuralizedKMeans`.

    The probability of a cluster is, as everywhere, that of its logit; in a tree they do not add up to 1.

    Raises:
        ValueError: for centres of another shape or that are not finite, or a negative `beta`.
    """

    weight: Tensor
    midpoint: Tensor
    split_of: Tensor
    side_of: Tensor

    def __init__(
        self, splits: list[Split], left: Tensor, right: Tensor, beta: float = 1.0, projection: Tensor | None = None
    ) -> None:
        left, right = checked_points("centres", left), checked_points("centres", right)
        n_clusters = len(splits) + 1
        if left.shape != right.shape or len(left) != len(splits):
            raise ValueError(
                f"centres of shapes {tuple(left.shape)} and {tuple(right.shape)} should be one for each side of "
                f"{len(splits)} splits."
            )
        super().__init__(n_clusters, middle(torch.cat([left, right])), beta)
        away = right - left if projection is None else duals(right - left, projection)
        self.register_buffer("weight", 2 * away)  # (S, D), of |x - left|² - |x - right|²
        self.register_buffer("midpoint", (left + right) / 2)  # (S, D)
        split_of, side_of = torch.zeros(2, n_clusters, n_clusters, dtype=torch.long)
        for number, (ones, others) in enumerate(splits):
            for one in ones:
                split_of[one, others], side_of[one, others] = number, -1
                split_of[others, one], side_of[others, one] = number, 1
        self.register_buffer("split_of", split_of)  # (K, K): where two clusters part
        self.register_buffer("side_of", side_of.to(left.dtype))  # (K, K): 1 where the first is on the right

    @property
    def splits(self) -> list[Split]:
        """Parents first."""
        numbers = range(self.n_clusters - 1)
        sides = [[((self.split_of == at) & (self.side_of == side)).any(1) for side in (-1, 1)] for at in numbers]
        return [Split(*(side.nonzero()[:, 0].tolist() for side in both)) for both in sides]

    def _evidence(self, x: Tensor) -> Tensor:
        """`|x - left|² - |x - right|²` at each split, `(N, S)`."""
        bias = (self.weight * (self.midpoint - self.centre)).sum(1)
        return torch.addmm(-bias, x, self.weight.T)

    def _discriminants(self, evidence: Tensor) -> Tensor:
        f = evidence.new_full((len(evidence), self.n_clusters), math.inf)
        for t, (left, right) in zip(evidence.T, self.splits, strict=True):
            f[:, right] = torch.minimum(f[:, right], t[:, None])
            f[:, left] = torch.minimum(f[:, left], -t[:, None])
        return f

    def _logits(self, evidence: Tensor, stiffness: float) -> Tensor:
        against = evidence.new_full((len(evidence), self.n_clusters), -math.inf)
        for t, (left, right) in zip(evidence.T, self.splits, strict=True):
            for side, others, h in ((right, left, t), (left, right, -t)):
                against[:, side] = torch.logaddexp(against[:, side], math.log(len(others)) - stiffness * h[:, None])
        return -against

    def _margins(self, evidence: Tensor, chosen: Tensor) -> Tensor:
        return evidence.gather(1, self.split_of[chosen]) * self.side_of[chosen]

    def _pass(self, evidence: Tensor, chosen: Tensor, pooled: Pooled, h: Tensor) -> Passed:
        q = quotients(pooled, h) * self.side_of[chosen]
        by_split = torch.zeros_like(evidence).scatter_add_(1, self.split_of[chosen], q)
        return Passed(by_split @ self.weight, by_split @ (self.weight * (self.midpoint - self.centre)))
