"""The nearest centroids of stored rows from one iteration of Lloyd's algorithm to the next: exact, and fast.

The labels are those of `argmin_k |x - c_k|²` in float64, the lowest `k` of several, and the sums are exact. So both
follow from the centroids alone: in whatever blocks, by however many processes, and after whatever stop they are
computed. Four identities spare most of the work:

1. With an origin `o`, `|x - c|² = |x - o|² + t` and `t = |c - o|² + 2 o·(c - o) - 2 x·(c - o)`: one product in float32,
   without centring the rows. Only where `o` is so far from the data that this would cancel, they are centred.
2. `t` is off by at most `e = γ (|c - o|² + 2 (|x - o| + 2 |o|) |c - o|)`, `γ = (D + 4) 2⁻²⁴` (Higham 2002, Accuracy and
   Stability of Numerical Algorithms, eq. 3.7). Where the two lowest `t` differ by less than `2 e`, float64 decides.
3. Triangle inequality: while centroids have moved by less than the gap between the two lowest distances, the label
   holds (Hamerly 2010, Making k-means even faster, SDM, doi 10.1137/1.9781611972801.12), and the row is not read.
4. A row that changes its cluster is taken from one sum and added to another. Rows are rounded to multiples of a power
   of two at which float64 adds up all of them without rounding, `2⁻⁵¹ N` of the largest entry of a column.

`R` restarts, `K` clusters, `D` features; rows are those of one process.
"""

import math
import warnings

import numpy as np
import torch
from torch import Tensor

from whycluster.clustering.lloyd import Sums

GATHERED = 50  # reading one row out of order takes as long as its products with so many centroids
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
        labels: `(R, n_rows)` int32; -1 before the first iteration.
    """

    def __init__(self, n_rows: int, n_total: int, origin: Tensor, scatter: float, largest: Tensor) -> None:
        self.n_rows, self.origin = n_rows, origin
        self.offset = float(origin.double().norm())
        self.centring = self.offset > FOLDED * math.sqrt(scatter / n_total)
        if self.centring:
            self.offset = 0.0
        exponents = torch.frexp(largest.double() * n_total).exponent.to(origin.device)
        self.quantum = torch.ldexp(torch.ones_like(origin, dtype=torch.float64), exponents - 51)
        self.norms = origin.new_empty(n_rows)  # |x - o|
        self.centroids = origin.new_empty(0).double()  # (R, K, D)

    def move(self, centroids: Tensor) -> None:
        """Begins an iteration with centroids `(R, K, D)` float64."""
        restarts, clusters, _ = centroids.shape
        if not len(self.centroids):
            self.labels = torch.full((restarts, self.n_rows), -1, dtype=torch.int32, device=centroids.device)
            self.gaps = torch.full_like(self.labels, -math.inf, dtype=torch.float32)
            self._whole = torch.zeros_like(centroids)  # sums, in multiples of the quantum
            self._counts = centroids.new_zeros(restarts, clusters)
            self.centroids = centroids.clone()
        moved = (centroids - self.centroids).norm(dim=2)  # (R, K)
        first, second = moved.topk(2).values[:, :, None].unbind(1)
        others = torch.where(torch.arange(clusters, device=moved.device) == moved.argmax(1)[:, None], second, first)
        self._shift = (moved + others).float() * (1 + 2**-20)
        self.centroids = centroids.clone()
        relative = centroids - self.origin.double()
        bias = relative.square().sum(2)
        self._radius = bias.amax(1).sqrt().float()  # (R,)
        if not self.centring:
            bias = bias + 2 * relative @ self.origin.double()
        self._bias, self._relative = bias.float(), relative.float()

    def keep(self, restarts: Tensor) -> None:
        """Drops all restarts but some, `(R,)` bool."""
        for name in ("labels", "gaps", "centroids", "_whole", "_counts"):
            setattr(self, name, getattr(self, name)[restarts])

    def sums(self) -> Sums:
        """Sums over the rows of this process, exact in any order."""
        return Sums(self._whole * self.quantum, self._counts.clone())

    def update(self, first: int, block: np.ndarray) -> None:
        """Assigns the rows `block` `(n, D)` float32, which begin at number `first`, to the centroids of now."""
        at = slice(first, first + len(block))
        x = borrowed(block)
        if (self.labels[:, at] < 0).any():
            x = x.to(self.origin.device)
            self.norms[at] = torch.linalg.vector_norm(x - self.origin, dim=1)
        else:
            self.gaps[:, at] -= self._shift.gather(1, self.labels[:, at].long())
        undecided = ~(self.gaps[:, at] > 0)  # (R, n)
        clusters = self._bias.shape[1]
        if int(undecided.sum()) * (clusters + GATHERED) > undecided.numel() * clusters:
            self._assign(slice(None), at, x)
            return
        for restart, rows in enumerate(undecided):
            chosen = rows.nonzero()[:, 0]
            if len(chosen):
                self._assign(slice(restart, restart + 1), chosen + first, x[chosen.to(x.device)])

    def _assign(self, restarts: slice, rows: slice | Tensor, x: Tensor) -> None:
        """Assigns rows `x` `(n, D)` with the numbers `rows` in some restarts."""
        x = x.to(self.origin.device)
        relative, bias = self._relative[restarts], self._bias[restarts]
        near = x - self.origin if self.centring else x
        t = torch.addmm(bias.flatten(), near, relative.flatten(0, 1).T, alpha=-2).view(len(x), *bias.shape)
        lowest, labels = t.amin(2), self.labels[restarts, rows].T.long().clamp(min=0)  # (n, R)
        row, restart = (t.gather(2, labels[..., None])[..., 0] > lowest).nonzero().T  # that do not stay where they were
        labels[row, restart] = t[row, restart].argmin(1)
        second = t.scatter_(2, labels[..., None], math.inf).amin(2)
        norms = self.norms[rows][:, None]
        own, other = (lowest + norms.square()).clamp(min=0), (second + norms.square()).clamp(min=0)
        # No centroid farther out than that can be the nearest, and errors of those that are need not count.
        radius = torch.minimum(self._radius[restarts], 3 * (norms + own.sqrt()) + self.offset)
        gamma = (x.shape[1] + 4) * 2**-24
        error = gamma * (radius + 2 * norms + 4 * self.offset) * radius
        gaps = (second - lowest - 2 * error) / ((own + error).sqrt() + (other + error).sqrt())
        gaps *= max(0.0, 1 - 16 * gamma - 1e-4)  # the errors of those far out, and of the arithmetic here
        ties = (~(gaps > 0)).nonzero()  # (T, 2)
        if len(ties):
            row, restart = ties.T
            close = t[row, restart] <= (lowest + 2 * error)[row, restart, None]
            close.scatter_(1, labels[row, restart, None], True)
            labels[row, restart] = _nearest(x[row], self.centroids[restarts], restart, close)
        self._count(restarts, rows, x, labels.T)
        self.gaps[restarts, rows] = gaps.T

    def _count(self, restarts: slice, rows: slice | Tensor, x: Tensor, labels: Tensor) -> None:
        """Takes rows from the sums of the clusters that they leave, and adds them to those of their new ones."""
        before = self.labels[restarts, rows].clone()  # (R, n)
        self.labels[restarts, rows] = labels.int()
        steps = [(labels, 1), (before, -1)]
        if (before < 0).any():  # the first time no row leaves a cluster
            del steps[1]
        whole, counts = self._whole[restarts].flatten(0, 1), self._counts[restarts].flatten()  # views
        for pairs in (before != labels).nonzero().split(max(1, BLOCK // x.shape[1])):
            restart, row = pairs.T
            values = x[row].double().div_(self.quantum).round_()
            for clusters, sign in steps:
                at = clusters[restart, row] + restart * self._counts.shape[1]
                whole.index_add_(0, at, values, alpha=sign)
                counts.index_add_(0, at, values.new_full((len(at),), sign))


def _nearest(x: Tensor, centroids: Tensor, restart: Tensor, close: Tensor) -> Tensor:
    """The nearest of the centroids that come into question, in float64, and the first of several.

    Args:
        x: `(T, D)`.
        centroids: `(R, K, D)` float64.
        restart: of each row, `(T,)`.
        close: which come into question, `(T, K)`.
    """
    distances = torch.full_like(close, math.inf, dtype=torch.float64)
    for pairs in close.nonzero().split(max(1, BLOCK // x.shape[1])):
        row, cluster = pairs.T
        distances[row, cluster] = (x[row].double() - centroids[restart[row], cluster]).square().sum(1)
    return distances.argmin(1)


def borrowed(block: np.ndarray) -> Tensor:
    """A mapped array as a tensor that nobody writes to, without a copy."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that it is not writable
        return torch.from_numpy(block)
