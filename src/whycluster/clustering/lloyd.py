"""Lloyd's algorithm as functions: nearest centroids, and the steps that are computed from sums over clusters.

Lloyd 1982, doi 10.1109/TIT.1982.1056489. All functions but `assign` work on several restarts at once, so that the data
is read once an iteration, whatever `n_init`. `R` restarts, `K` clusters, `D` features, `N` rows.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from sklearn.cluster import kmeans_plusplus
from torch import Tensor


class Sums(NamedTuple):
    """The sums of the rows of each cluster; those of several processes add up to the sums of all rows.

    Attributes:
        features: sum of the rows of each cluster, `(R, K, D)` float64.
        counts: rows of each cluster, `(R, K)` float64.
    """

    features: Tensor
    counts: Tensor

    @property
    def means(self) -> Tensor:
        """The mean of each cluster, `(R, K, D)`; zero for a cluster without rows."""
        return self.features / self.counts.clamp(min=1)[..., None]


def assign(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Finds the nearest centroid of each row: `argmin_k |x - c_k|² = argmin_k |c_k|² - 2 x·c_k`.

    Args:
        x: `(N, D)`, relative to an origin near the data, as squares of large numbers would cancel.
        centroids: `(K, D)`, relative to the same origin.

    Returns:
        Cluster and squared distance to it, `(N,)` each.

    Example:
        >>> assign(torch.tensor([[1.0], [7.0]]), torch.tensor([[0.0], [10.0]]))
        (tensor([0, 1]), tensor([1., 9.]))
    """
    lowest = torch.addmm(centroids.square().sum(1), x, centroids.T, alpha=-2).min(1)  # over (N, K)
    return lowest.indices, (lowest.values + x.square().sum(1)).clamp(min=0)


def moments(batches: Iterable[Tensor], origin: Tensor) -> tuple[Tensor, float, Tensor]:
    """Computes mean, scatter and range of rows in one pass, relative to an origin near them, which keeps squares from
    cancelling.

    Returns:
        The mean row `(D,)` float64, the scatter `Σ|x - mean|²`, and the largest absolute value of each column `(D,)`.
    """
    n_rows, first, second, largest = 0, torch.zeros_like(origin).double(), 0.0, torch.zeros_like(origin)
    for batch in batches:
        relative = batch.double() - origin
        first += relative.sum(0)
        second += float(torch.linalg.vector_norm(relative)) ** 2
        largest = torch.maximum(largest, batch.abs().amax(0))
        n_rows += len(batch)
    first /= n_rows
    return origin + first, second - n_rows * float(first.square().sum()), largest


def inertia(sums: Sums, centroids: Tensor, mean: Tensor, scatter: float) -> Tensor:
    """Computes the sum of squared distances to the assigned centroids from the sums alone.

    About the mean `m_k` of a cluster, `Σ|x - c_k|² = Σ|x - m_k|² + n_k |m_k - c_k|²`, and the `Σ|x - m_k|²` of all
    clusters together are the scatter about the mean of all rows less `Σ_k n_k |m_k - mean|²` (Huygens).

    Args:
        sums: of all rows.
        centroids: that the rows were assigned to, `(R, K, D)` float64.
        mean: of all rows, `(D,)` float64.
        scatter: `Σ|x - mean|²` of all rows.

    Returns:
        `(R,)` float64.
    """
    between = (sums.means - mean).square().sum(2) - (sums.means - centroids).square().sum(2)
    return (scatter - (sums.counts * between).sum(1)).clamp(min=0)


def update(sums: Sums, centroids: Tensor, spherical: bool = False) -> tuple[Tensor, Tensor]:
    """Moves centroids to the means of their clusters; that of a cluster without rows stays where it was.

    Args:
        sums: of all rows.
        centroids: `(R, K, D)` float64.
        spherical: whether centroids have length 1. Then they move to the directions of the means: of all vectors of
            length 1 those are nearest to the rows, as `Σ|x - c|² = Σ|x|² - 2 c·Σx + n`. A mean of zero has none.

    Returns:
        New centroids, and how far they moved: `Σ_k |new - old|²`, `(R,)`.
    """
    new = torch.where(sums.counts[..., None] > 0, sums.means, centroids)
    if spherical:
        lengths = torch.linalg.vector_norm(new, dim=2, keepdim=True)
        new = torch.where(lengths > 0, new / lengths, centroids)
    return new, (new - centroids).square().sum((1, 2))


def reseed(sums: Sums, far: Tensor, far_clusters: Tensor) -> Sums:
    """Gives every empty cluster one of the rows that lie farthest from their centroids (as scikit-learn does).

    Args:
        sums: of all rows, one restart `(1, K, D)`.
        far: the rows farthest from their centroids, farthest first, as many as clusters could be empty, `(F, D)`.
        far_clusters: the cluster each of them leaves, `(F,)`.

    Returns:
        The sums after the moves.
    """
    features, counts = sums.features.clone(), sums.counts.clone()
    donors = iter(zip(far.double(), far_clusters.tolist(), strict=True))
    for empty in (counts[0] == 0).nonzero()[:, 0].tolist():
        for row, donor in donors:
            if counts[0, donor] > 1:  # taking its only row would empty another cluster
                features[0, empty], counts[0, empty] = row, 1
                features[0, donor] -= row
                counts[0, donor] -= 1
                break
    return Sums(features, counts)


def spherical_centroids(x: Tensor, start: Tensor, max_iter: int = 300, tol: float = 1e-4) -> Tensor:
    """Fits spherical k-means to rows in memory (Dhillon and Modha 2001, doi 10.1023/A:1007612920971).

    Args:
        x: rows of length 1, `(N, D)`.
        start: centroids to begin with, of any length, `(K, D)`.
        max_iter: iterations at most.
        tol: it ends when centroids move by no more than `tol` times the variance of the features, as in `KMeans`.

    Returns:
        Centroids of length 1, `(K, D)` in the type of `x`.
    """
    origin, n_clusters = x.mean(0), len(start)
    near = x - origin
    threshold = tol * float(near.square().mean())
    centroids = torch.nn.functional.normalize(start.double())[None]  # (1, K, D)
    for _ in range(max_iter):
        clusters, distances = assign(near, centroids[0].to(x) - origin)
        features = torch.zeros_like(start, dtype=x.dtype).index_add_(0, clusters, x)
        sums = Sums(features.double()[None], clusters.bincount(minlength=n_clusters).double()[None])
        far = distances.topk(n_clusters).indices
        centroids, shift = update(reseed(sums, x[far], clusters[far]), centroids, spherical=True)
        if shift <= threshold:
            break
    return centroids[0].to(x)


def starts(sample: np.ndarray, n_clusters: int, n_init: int, seed: int) -> Tensor:
    """Draws greedy k-means++ starts (Arthur and Vassilvitskii 2007).

    Args:
        sample: `(N, D)`.
        n_clusters: `K`, at most `N`.
        n_init: `R`.
        seed: same seed, same starts.

    Returns:
        `(R, K, D)` in the sample's type.
    """
    random = np.random.RandomState(seed)
    return torch.stack(
        [torch.as_tensor(kmeans_plusplus(sample, n_clusters, random_state=random)[0]) for _ in range(n_init)]
    )
