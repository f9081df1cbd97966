"""Kernel k-means with a Gaussian kernel as functions: a fit by alternating assignments, and the choice of supports.

The distance of standard kernel k-means (Dhillon, Guan, Kulis 2004, doi 10.1145/1014052.1014118) also contains the mean
similarity within a cluster. The fit minimises that objective first; then it assigns without that term until nothing
changes, so that all labels are decisions by soft distance.

`R` restarts, `K` clusters, `N` rows.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from whycluster.clustering.soft_distances import MATRIX_ENTRIES, squares

KEPT = 2**27  # most entries of a kernel matrix that is kept; a larger one is computed again in each iteration


class KernelFit(NamedTuple):
    """A fitted kernel k-means.

    Attributes:
        labels: cluster of each row, `(N,)`; all rows are supports.
        inertia: sum of squared distances to the means in kernel space.
        n_iter: iterations of the best restart.
        converged: whether the labels are the decisions by soft distance.
    """

    labels: Tensor
    inertia: float
    n_iter: int
    converged: bool


def fit_kernel_kmeans(x: Tensor, n_clusters: int, gamma: float, n_init: int, max_iter: int, seed: Any) -> KernelFit:
    """Fits by alternating assignments, all restarts at once, each from a k-means++ start in kernel space.

    Args:
        x: `(N, D)`.
        n_clusters: `K`, at most `N`.
        gamma: of the kernel.
        n_init: `R`; the one of least inertia wins.
        max_iter: iterations at most.
        seed: whatever scikit-learn's `check_random_state` takes.
    """
    kernel, random = _Kernel(x, gamma), check_random_state(seed)
    labels = torch.stack([_start(kernel, n_clusters, random) for _ in range(n_init)])  # (R, N)
    iterations = torch.zeros(n_init, dtype=torch.long)
    settling, done = torch.zeros(n_init, dtype=torch.bool), torch.zeros(n_init, dtype=torch.bool)
    for _ in range(max_iter):
        going = (~done).nonzero()[:, 0]
        if not len(going):
            break
        similarity, within, counts = _similarities(kernel, labels[going], n_clusters)
        settled = settling[going].to(x.device)[:, None, None]
        new = torch.where(settled, similarity, 2 * similarity - within[:, None]).argmax(2)
        new = _filled(new, similarity, n_clusters)
        unchanged = (new == labels[going]).all(1).cpu()
        done[going] = unchanged & settling[going]
        settling[going] |= unchanged
        labels[going] = new
        iterations[going] += 1
    _, within, counts = _similarities(kernel, labels, n_clusters)
    inertia = len(x) - (counts * within).sum(1, dtype=torch.float64)
    best = int(inertia.argmin())
    return KernelFit(labels[best], float(inertia[best]), int(iterations[best]), bool(done[best]))


def representatives(x: Tensor, labels: Tensor, gamma: float, max_supports: int) -> Tensor:
    """Chooses rows whose mean kernels approximate those of whole clusters, by kernel herding (Chen, Welling, Smola
    2010, arXiv 1203.3472).

    Args:
        x: `(N, D)`.
        labels: `(N,)`, every cluster with at least one row.
        gamma: of the kernel.
        max_supports: how many rows in all, at least `K`; each cluster gets some in proportion, and at least one.

    Returns:
        Row numbers, ascending, `(M,)`.
    """
    kernel, counts = _Kernel(x, gamma), torch.bincount(labels)
    chosen = []
    for cluster, wanted in enumerate(_quotas(counts, max_supports)):
        rows = (labels == cluster).nonzero()[:, 0]
        goal = torch.cat(
            [kernel.between(part, rows).mean(1) for part in torch.split(rows, max(1, MATRIX_ENTRIES // len(rows)))]
        )
        covered = torch.zeros_like(goal)
        for number in range(1, wanted + 1):
            at = (goal - covered / number).argmax()
            covered += kernel.between(rows, rows[at : at + 1])[:, 0]
            goal[at] = -torch.inf  # taken
            chosen.append(rows[at])
    return torch.stack(chosen).sort().values


class _Kernel:
    """The kernel matrix of all rows, block by block.

    Args:
        x: `(N, D)`.
        gamma: of the kernel.
    """

    def __init__(self, x: Tensor, gamma: float) -> None:
        self.x, self.gamma = x - x.median(0).values, gamma
        self.step = max(1, MATRIX_ENTRIES // len(x))
        self._kept: list[Tensor] = []

    def blocks(self) -> Iterator[Tensor]:
        """Yields all rows in order, `(n, N)` each."""
        if self._kept:
            yield from self._kept
            return
        keep = len(self.x) ** 2 <= KEPT
        for part in torch.split(self.x, self.step):
            block = self._similar(part, self.x)
            if keep:
                self._kept.append(block)
            yield block

    def between(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Computes the similarity of some rows and others, by their numbers."""
        return self._similar(self.x[rows], self.x[columns])

    def _similar(self, x: Tensor, others: Tensor) -> Tensor:
        return squares(x, others).mul_(-self.gamma).exp_()


def _start(kernel: _Kernel, n_clusters: int, random: np.random.RandomState) -> Tensor:
    """Draws labels `(N,)` by greedy k-means++ in kernel space (Arthur and Vassilvitskii 2007)."""
    rows = torch.arange(len(kernel.x), device=kernel.x.device)
    similarity = [kernel.between(rows, rows[random.randint(len(rows))][None])[:, 0]]
    distance = (2 - 2 * similarity[0]).clamp(min=0).double()
    trials = 2 + int(np.log(n_clusters))
    for _ in range(n_clusters - 1):
        weights = distance.cpu().numpy()
        probabilities = weights / weights.sum() if weights.sum() > 0 else None  # None: all rows are equal
        drawn = torch.as_tensor(random.choice(len(rows), trials, p=probabilities), device=rows.device)
        candidates = kernel.between(rows, drawn)  # (N, trials)
        nearer = torch.minimum(distance[:, None], (2 - 2 * candidates).clamp(min=0).double())
        best = nearer.sum(0).argmin()
        similarity.append(candidates[:, best])
        distance = nearer[:, best]
    return _filled(torch.stack(similarity, 1).argmax(1)[None], torch.stack(similarity, 1)[None], n_clusters)[0]


def _similarities(kernel: _Kernel, labels: Tensor, n_clusters: int) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the mean similarity of each row to each cluster `(R, N, K)`, its mean within clusters `(R, K)`, and
    their sizes.
    """
    members = torch.nn.functional.one_hot(labels, n_clusters).to(kernel.x.dtype)  # (R, N, K)
    counts = members.sum(1)
    means = (members / counts[:, None].clamp(min=1)).movedim(1, 0).flatten(1)  # (N, R·K)
    similarity = torch.cat([block @ means for block in kernel.blocks()])
    similarity = similarity.view(-1, *counts.shape).movedim(0, 1)
    within = (similarity * members).sum(1, dtype=torch.float64) / counts.clamp(min=1)
    return similarity, within.to(similarity.dtype), counts


def _filled(labels: Tensor, similarity: Tensor, n_clusters: int) -> Tensor:
    """Gives every empty cluster the row that is least similar to its own cluster; labels are `(R, N)`."""
    labels = labels.clone()
    for restart in range(len(labels)):
        counts = torch.bincount(labels[restart], minlength=n_clusters)
        if counts.all():
            continue
        own = similarity[restart].gather(1, labels[restart][:, None])[:, 0]
        outliers = iter(own.argsort(stable=True).tolist())
        for empty in (counts == 0).nonzero()[:, 0].tolist():
            row = next(row for row in outliers if counts[labels[restart, row]] > 1)
            counts[labels[restart, row]] -= 1
            counts[empty] += 1
            labels[restart, row] = empty
    return labels


def _quotas(counts: Tensor, total: int) -> list[int]:
    """Computes how many of `total` supports each cluster gets: in proportion to its rows, at least one, at most all of
    them.
    """
    wanted = counts.double() / counts.sum() * total
    quotas = wanted.floor().clamp(min=1).long()
    while quotas.sum() > total:  # as some were lifted to one
        quotas[(quotas - wanted).masked_fill(quotas == 1, -torch.inf).argmax()] -= 1
    for cluster in (wanted - quotas).argsort(descending=True)[: int(total - quotas.sum())]:
        quotas[cluster] += 1
    return torch.minimum(quotas, counts).tolist()
