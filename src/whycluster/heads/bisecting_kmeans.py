"""Bisecting k-means as a neural network that makes exactly the same decisions."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from whycluster.errors import UserError
from whycluster.heads.arguments import checked_points
from whycluster.heads.head import Forward, Head, LayerRelevance
from whycluster.heads.kmeans import middle, projected_duals
from whycluster.heads.pooling import quotients


class Split(NamedTuple):
    """A node of the tree: the clusters on its two sides."""

    left: list[int]
    right: list[int]


class NeuralizedBisectingKMeans(Head):
    """The neuralized bisecting k-means of a tree of clusters.

    A row goes down the tree, at each of its `S = K - 1` splits to the side whose centre is nearer. So cluster `c` is
    chosen if and only if all splits on its path decide for it: with `h_s = |x - other side|² - |x - side of c|²`,
    `f_c = min_s h_s`. Competitor `k` leaves the path of `c` at one split, whose `h_s` is its `h_k`. Probabilities of
    clusters are the sigmoids of their logits, as in every head; in a tree they do not add up to 1.

    Args:
        splits: parents first, `K - 1` of them.
        left: centres of their left sides, `(K - 1, D)`.
        right: centres of their right sides, `(K - 1, D)`.
        beta: as in `Head`.
        projection: as in `NeuralizedKMeans`.

    Raises:
        UserError: for centres of another shape or that are not finite, or a negative `beta`.

    Example:
        >>> left, right = torch.tensor([[1.0], [0.0]]), torch.tensor([[9.0], [2.0]])
        >>> head = NeuralizedBisectingKMeans([Split([0, 1], [2]), Split([0], [1])], left, right)
        >>> head(torch.tensor([[0.0], [2.0], [9.0]])).argmax(1)
        tensor([0, 1, 2])
    """

    weight: Tensor
    midpoint: Tensor
    split_of: Tensor
    side_of: Tensor

    def __init__(
        self, splits: list[Split], left: Tensor, right: Tensor, beta: float = 1.0, projection: Tensor | None = None
    ) -> None:
        left, right = checked_points("centres", left), checked_points("centres", right)
        if left.shape != right.shape or len(left) != len(splits):
            shapes = f"{tuple(left.shape)} and {tuple(right.shape)}"
            raise UserError(f"centres of shapes {shapes} should be one for each side of {len(splits)} splits.")
        super().__init__(len(splits) + 1, middle(torch.cat([left, right])), beta)
        split_of, side_of = torch.zeros(2, self.n_clusters, self.n_clusters, dtype=torch.long)
        for number, (ones, others) in enumerate(splits):
            for one in ones:
                split_of[one, others], side_of[one, others] = number, -1
                split_of[others, one], side_of[others, one] = number, 1
        duals = projected_duals(right - left, projection)
        self.register_buffer("weight", 2 * (right - left if duals is None else duals))  # (S, D)
        self.register_buffer("midpoint", (left + right) / 2)  # (S, D)
        self.register_buffer("split_of", split_of)  # (K, K): where two clusters part
        self.register_buffer("side_of", side_of.to(left.dtype))  # (K, K): 1 where the first is on the right, else -1

    @property
    def splits(self) -> list[Split]:
        """The splits of the tree, parents first."""
        leaving = self._leaving().T
        return [Split(*(side.nonzero()[:, 0].tolist() for side in (at < 0, at > 0))) for at in leaving]

    def _leaving(self) -> Tensor:
        """Counts the competitors that leave the path of a cluster at a split, `(K, S)`; negative for clusters on its
        left.
        """
        leaving = self.side_of.new_zeros(self.n_clusters, self.n_clusters - 1)
        return leaving.scatter_add_(1, self.split_of, self.side_of)

    def _layer(self) -> tuple[Tensor, Tensor]:
        """Scores are `|x - left|² - |x - right|²` at each split."""
        return self.weight, -(self.weight * (self.midpoint - self.centre)).sum(1)

    def _paths(self, scores: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields, for each cluster, `h_s` of the splits on its path `(N, P)`, and how many competitors leave there
        `(P,)`.
        """
        for leaving in self._leaving():
            path = leaving.nonzero()[:, 0]
            yield scores[:, path] * leaving[path].sign(), leaving[path].abs()

    def _discriminants(self, scores: Tensor) -> Tensor:
        return torch.stack([h.amin(1) for h, _ in self._paths(scores)], dim=1)

    def _assigned(self, scores: Tensor) -> Tensor:
        return self._discriminants(scores).max(1).indices

    def _logits(self, scores: Tensor, stiffness: float) -> Tensor:
        return -torch.stack([(many.log() - stiffness * h).logsumexp(1) for h, many in self._paths(scores)], dim=1)

    def _margins(self, scores: Tensor, chosen: Tensor) -> Tensor:
        return scores.gather(1, self.split_of[chosen]) * self.side_of[chosen]

    def _propagate(self, forward: Forward) -> LayerRelevance:
        chosen, q = forward.chosen, quotients(forward.pooled, forward.h)
        coefficients = torch.zeros_like(forward.scores)
        coefficients.scatter_add_(1, self.split_of[chosen], q * self.side_of[chosen])
        return LayerRelevance(coefficients, lambda: (coefficients @ (self.weight * (self.midpoint - self.centre)), 0.0))
