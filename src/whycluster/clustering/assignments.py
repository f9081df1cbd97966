"""Exact and fast updates of the nearest centroids of stored rows, from one iteration of Lloyd's algorithm to the next.

The labels are those of `argmin_k |x - c_k|²` in float64, the lowest `k` of several, and the sums are exact. So both
depend on the centroids alone, and not on the size of blocks, the number of processes, or a restart from a checkpoint.
Four identities avoid most of the work:

1. With an origin `o`, `|x - c|² = |x - o|² + t` and `t = |c - o|² + 2 o·(c - o) - 2 x·(c - o)`: one product in float32,
   without centring the rows. Only where `o` is so far from zero that this would cancel, they are centred.
2. The rounding error of `t` is at most `e = γ (|c - o|² + 2 (|x - o| + 2 |o|) |c - o|)`, `γ = (D + 4) 2⁻²⁴` (Higham
   2002, Accuracy and Stability of Numerical Algorithms, eq. 3.7). Where the two lowest `t` differ by less than `2 e`,
   distances are computed in float64.
3. Triangle inequality: while centroids have moved by less than the gap between the two lowest distances, the label
   holds, and the row is not read (Hamerly 2010, Making k-means even faster, doi 10.1137/1.9781611972801.12).
4. A row that changes its cluster is taken from one sum and added to another. Rows are rounded to multiples of a power
   of two at which float64 adds up all of them without rounding, about `2⁻⁵¹ N` of the largest value of a column.

`R` restarts, `K` clusters, `D` features; rows are those of one process.
"""

import math
import warnings

import numpy as np
import torch
from torch import Tensor

from whycluster.clustering.lloyd import Sums

# Reading a row, in order or scattered, takes as long as its products with this many centroids.
READ_IN_ORDER, READ_SCATTERED = 20, 50
FLOAT64_ENTRIES = 2**18  # computed at once in float64: memory of this size is reused, not requested from the system
FAR_ORIGIN = 4  # an origin farther from zero, in root mean square distances of rows to their mean, needs centred rows


class Assignments:
    """The cluster of each row in each restart, with a bound that tells for how long it remains the nearest.

    Args:
        n_rows: of this process.
        n_total: of all processes.
        origin: near the data, `(D,)` float32, on the device that computes.
        scatter: sum of squared distances of all rows to their mean.
        largest: absolute value in each column of all rows, `(D,)`.

    Attributes:
        labels: `(R, n_rows)`; -1 before the first iteration.
    """

    labels: Tensor
    centroids: Tensor  # (R, K, D)
    _is_first: bool | None = None  # iteration

    def __init__(self, n_rows: int, n_total: int, origin: Tensor, scatter: float, largest: Tensor) -> None:
        self.n_rows, self.origin = n_rows, origin
        self.offset = float(origin.double().norm())
        self.centring = self.offset > FAR_ORIGIN * math.sqrt(scatter / n_total)
        if self.centring:
            self.offset = 0.0
        exponents = torch.frexp(largest.double() * n_total).exponent.to(origin.device)
        self.quantum = torch.ldexp(torch.ones_like(origin, dtype=torch.float64), exponents - 51)
        self.squares = origin.new_empty(n_rows)  # |x - o|²

    def move(self, centroids: Tensor) -> None:
        """Begins an iteration with new centroids `(R, K, D)` float64."""
        restarts, clusters, _ = centroids.shape
        self._is_first = self._is_first is None
        if self._is_first:
            self.labels = torch.full((restarts, self.n_rows), -1, device=centroids.device)
            self.gaps = self.origin.new_full(self.labels.shape, -math.inf)  # lower bounds of second - nearest distance
            self._whole = torch.zeros_like(centroids)  # sums, in multiples of the quantum
            self._counts = centroids.new_zeros(restarts, clusters)
            self.centroids = centroids
        moved = (centroids - self.centroids).norm(dim=2)  # (R, K)
        two = moved.topk(2).values
        others = torch.where(moved < two[:, :1], two[:, :1], two[:, 1:])  # the most that any other centroid moved
        self._shift = (moved + others).float() * (1 + 2**-20)
        self.centroids = centroids.clone()
        relative = centroids - self.origin
        bias = relative.square().sum(2)
        self._radius = bias.amax(1).sqrt().float()  # (R,)
        if not self.centring:
            bias += 2 * relative @ self.origin.double()
        self._bias, self._relative = bias.float(), relative.float()

    def keep(self, restarts: Tensor) -> None:
        """Keeps the restarts where `restarts` `(R,)` bool is true, and drops the others."""
        if not restarts.all():
            for name in ("labels", "gaps", "centroids", "_whole", "_counts"):
                setattr(self, name, getattr(self, name)[restarts])

    def sums(self) -> Sums:
        """Returns the sums over the rows of this process."""
        return Sums(self._whole * self.quantum, self._counts.clone())

    def update(self, first: int, block: np.ndarray) -> None:
        """Assigns the rows `block` `(n, D)` float32, which begin at number `first`, to the current centroids."""
        at, x = slice(first, first + len(block)), readonly_tensor(block)
        restarts, clusters = self._bias.shape
        if self._is_first:
            x = x.to(self.origin.device)
            self.squares[at] = torch.linalg.vector_norm(x - self.origin, dim=1).square_()
        else:
            self.gaps[:, at] -= self._shift.gather(1, self.labels[:, at])
        decided = self.gaps[:, at] > 0  # (R, n)
        n_undecided = decided.numel() - int(decided.sum())
        if n_undecided * (clusters + READ_SCATTERED) >= len(x) * (restarts * clusters + READ_IN_ORDER):
            self._assign(slice(None), at, x.to(self.origin.device))
        elif n_undecided:
            for restart, row in enumerate(decided):
                chosen = (~row).nonzero()[:, 0]
                rows = x[chosen.to(x.device)].to(self.origin.device)
                self._assign(slice(restart, restart + 1), chosen + first, rows)

    def _assign(self, restarts: slice, rows: slice | Tensor, x: Tensor) -> None:
        """Assigns rows `x` `(n, D)` with the numbers `rows` in some restarts."""
        relative, bias = self._relative[restarts], self._bias[restarts]
        near = x - self.origin if self.centring else x
        t = torch.addmm(bias.flatten(), near, relative.flatten(0, 1).T, alpha=-2).view(len(x), *bias.shape)
        before = self.labels[restarts, rows].T  # (n, R)
        lowest, labels = t.amin(2), before.clamp(min=0)
        row, restart = (t.gather(2, labels[..., None])[..., 0] > lowest).nonzero().T  # those that change their cluster
        labels[row, restart] = t[row, restart].argmin(1)
        second = t.scatter_(2, labels[..., None], math.inf).amin(2)
        squares = self.squares[rows][:, None]
        own, other, norms = (lowest + squares).clamp_(min=0), (second + squares).clamp_(min=0), squares.sqrt()
        # A centroid farther out than this cannot be the nearest, so its error does not matter.
        radius = torch.minimum(self._radius[restarts], 3 * (norms + own.sqrt()) + self.offset)
        gamma = (x.shape[1] + 4) * 2**-24
        error = gamma * radius * (radius + 2 * norms + 4 * self.offset)
        gaps = (second - lowest - 2 * error) / ((own + error).sqrt_() + (other + error).sqrt_())
        gaps *= max(0.0, 1 - 16 * gamma - 1e-4)  # bounds the errors of distant centroids, and of the lines above
        row, restart = (~(gaps > 0)).nonzero().T
        if len(row):
            close = ~(t[row, restart] > (lowest + 2 * error)[row, restart, None])  # all of them after an overflow
            close.scatter_(1, labels[row, restart, None], True)
            labels[row, restart] = _nearest(x[row], self.centroids[restarts], restart, close)
        self._count(restarts, x, before, labels)
        self.labels[restarts, rows], self.gaps[restarts, rows] = labels.T, gaps.T

    def _count(self, restarts: slice, x: Tensor, before: Tensor, labels: Tensor) -> None:
        """Takes rows from the sums of the clusters that they leave, and adds them to those of their new ones."""
        whole, counts = self._whole[restarts].flatten(0, 1), self._counts[restarts].flatten()  # views
        for moved in torch.split((before != labels).nonzero(), max(1, FLOAT64_ENTRIES // x.shape[1])):
            row, restart = moved.T
            values = x[row].double().div_(self.quantum).round_()
            for clusters, sign in ((labels, 1), (before, -1))[: 1 if self._is_first else 2]:
                at = clusters[row, restart] + restart * self._counts.shape[1]
                whole.index_add_(0, at, values, alpha=sign)
                counts.index_add_(0, at, counts.new_full((len(at),), sign))


def _nearest(x: Tensor, centroids: Tensor, restart: Tensor, close: Tensor) -> Tensor:
    """Finds the nearest of some candidate centroids in float64, the first of several at the same distance.

    Args:
        x: `(T, D)`.
        centroids: `(R, K, D)` float64.
        restart: of each row, `(T,)`.
        close: which centroids are candidates, `(T, K)`.
    """
    distances = torch.full_like(close, math.inf, dtype=torch.float64)
    for pairs in torch.split(close.nonzero(), max(1, FLOAT64_ENTRIES // x.shape[1])):
        row, cluster = pairs.T
        distances[row, cluster] = (x[row].double() - centroids[restart[row], cluster]).square_().sum(1)
    return distances.argmin(1)


def readonly_tensor(block: np.ndarray) -> Tensor:
    """Makes a tensor of a mapped array without a copy; it must not be written to."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that it is not writable
        return torch.from_numpy(block)
