"""The nearest centroids of stored rows from one iteration of Lloyd's algorithm to the next: exact, and fast.

The labels are those of `argmin_k |x - c_k|²` in float64, the lowest `k` of several, and the sums are exact. So both
follow from the centroids alone: in whatever blocks, by however many processes, and after whatever stop they are
computed. Four identities spare most of the work:

1. With an origin `o`, `|x - c|² = |x - o|² + t` and `t = |c - o|² + 2 o·(c - o) - 2 x·(c - o)`: one product in float32,
   without centring the rows. Only where `o` is so far from zero that this would cancel, they are centred.
2. `t` is off by at most `e = γ (|c - o|² + 2 (|x - o| + 2 |o|) |c - o|)`, `γ = (D + 4) 2⁻²⁴` (Higham 2002, Accuracy and
   Stability of Numerical Algorithms, eq. 3.7). Where the two lowest `t` differ by less than `2 e`, float64 decides.
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

IN_ORDER, GATHERED = 20, 50  # reading a row takes as long as its products with so many centroids
BLOCK = 2**18  # entries in float64 at once; more would come fresh from the system each time
FOLDED = 4  # times the spread of the data that the origin may be away from zero


class Assignments:
    """The cluster of each row in each restart, and for how long it holds.

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
        self.centring = self.offset > FOLDED * math.sqrt(scatter / n_total)
        if self.centring:
            self.offset = 0.0
        exponents = torch.frexp(largest.double() * n_total).exponent.to(origin.device)
        self.quantum = torch.ldexp(torch.ones_like(origin, dtype=torch.float64), exponents - 51)
        self.squares = origin.new_empty(n_rows)  # |x - o|²

    def move(self, centroids: Tensor) -> None:
        """Begins an iteration with centroids `(R, K, D)` float64."""
        restarts, clusters, _ = centroids.shape
        self._is_first = self._is_first is None
        if self._is_first:
            self.labels = torch.full((restarts, self.n_rows), -1, device=centroids.device)
            self.gaps = self.origin.new_full(self.labels.shape, -math.inf)  # at most what lies between two distances
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
        """Drops all restarts but some, `(R,)` bool."""
        if not restarts.all():
            for name in ("labels", "gaps", "centroids", "_whole", "_counts"):
                setattr(self, name, getattr(self, name)[restarts])

    def sums(self) -> Sums:
        """Sums over the rows of this process."""
        return Sums(self._whole * self.quantum, self._counts.clone())

    def update(self, first: int, block: np.ndarray) -> None:
        """Assigns the rows `block` `(n, D)` float32, which begin at number `first`, to the centroids of now."""
        at, x = slice(first, first + len(block)), borrowed(block)
        restarts, clusters = self._bias.shape
        if self._is_first:
            x = x.to(self.origin.device)
            self.squares[at] = torch.linalg.vector_norm(x - self.origin, dim=1).square_()
        else:
            self.gaps[:, at] -= self._shift.gather(1, self.labels[:, at])
        decided = self.gaps[:, at] > 0  # (R, n)
        n_undecided = decided.numel() - int(decided.sum())
        if n_undecided * (clusters + GATHERED) >= len(x) * (restarts * clusters + IN_ORDER):
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
        row, restart = (t.gather(2, labels[..., None])[..., 0] > lowest).nonzero().T  # that do not stay where they were
        labels[row, restart] = t[row, restart].argmin(1)
        second = t.scatter_(2, labels[..., None], math.inf).amin(2)
        squares = self.squares[rows][:, None]
        own, other, norms = (lowest + squares).clamp_(min=0), (second + squares).clamp_(min=0), squares.sqrt()
        # A centroid farther out than that cannot be the nearest, so its error does not count.
        radius = torch.minimum(self._radius[restarts], 3 * (norms + own.sqrt()) + self.offset)
        gamma = (x.shape[1] + 4) * 2**-24
        error = gamma * radius * (radius + 2 * norms + 4 * self.offset)
        gaps = (second - lowest - 2 * error) / ((own + error).sqrt_() + (other + error).sqrt_())
        gaps *= max(0.0, 1 - 16 * gamma - 1e-4)  # the errors of those far out, and of the arithmetic here
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
        for moved in torch.split((before != labels).nonzero(), max(1, BLOCK // x.shape[1])):
            row, restart = moved.T
            values = x[row].double().div_(self.quantum).round_()
            for clusters, sign in ((labels, 1), (before, -1))[: 1 if self._is_first else 2]:
                at = clusters[row, restart] + restart * self._counts.shape[1]
                whole.index_add_(0, at, values, alpha=sign)
                counts.index_add_(0, at, counts.new_full((len(at),), sign))


def _nearest(x: Tensor, centroids: Tensor, restart: Tensor, close: Tensor) -> Tensor:
    """The nearest of the centroids that come into question, in float64, and the first of several.

    Args:
        x: `(T, D)`.
        centroids: `(R, K, D)` float64.
        restart: of each row, `(T,)`.
        close: which come into question, `(T, K)`.
    """
    distances = torch.full_like(close, math.inf, dtype=torch.float64)
    for pairs in torch.split(close.nonzero(), max(1, BLOCK // x.shape[1])):
        row, cluster = pairs.T
        distances[row, cluster] = (x[row].double() - centroids[restart[row], cluster]).square_().sum(1)
    return distances.argmin(1)


def borrowed(block: np.ndarray) -> Tensor:
    """A mapped array as a tensor that nobody writes to, without a copy."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that it is not writable
        return torch.from_numpy(block)
