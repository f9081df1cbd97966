"""Which clusters to trust: those that are found again in bootstrap samples.

After Hennig 2007, Cluster-wise assessment of cluster stability, doi 10.1016/j.csda.2006.11.025.

`N` rows, `K` clusters, `D` features.
"""

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics.cluster import contingency_matrix
from threadpoolctl import threadpool_limits

from whycluster.clustering.lloyd import spherical_centroids, starts

REFITS = 20
STABLE, DOUBTFUL = 0.75, 0.6  # Hennig's limits: stable from the first on, and unstable below the second

Refit = Callable[[np.ndarray, int], Callable[[np.ndarray], np.ndarray]]
"""Rows `(n, D)` and a seed `->` a function from rows to the clusters of a new fit, whose numbers need not match."""


def largest_jaccard(clusters: np.ndarray, others: np.ndarray, n_clusters: int) -> np.ndarray:
    """Computes the Jaccard index `|A ∩ B| / |A ∪ B|` of each cluster `A` with the `B` of another clustering that is
    most similar to it.

    Args:
        clusters: `(N,)`, from 0 to `K - 1`.
        others: the clusters of the same rows in the other clustering, `(N,)`.
        n_clusters: `K`.

    Returns:
        `(K,)`, from 0 to 1; NaN for a cluster without rows.

    Example:
        >>> largest_jaccard(np.array([0, 0, 0, 1]), np.array([5, 5, 7, 7]), 3).round(2)
        array([0.67, 0.5 ,  nan])
    """
    found = np.unique(clusters)
    both = contingency_matrix(clusters, others)  # (clusters with rows, other clusters)
    either = both.sum(1, keepdims=True) + both.sum(0, keepdims=True) - both
    indices = np.full(n_clusters, np.nan)
    indices[found] = (both / either).max(1)
    return indices


def bootstrap_clusters(x: np.ndarray, refit: Refit, n_refits: int, seed: int) -> Iterator[np.ndarray]:
    """Yields the clusters of all rows by fits to bootstrap samples of them.

    A refit begins anew, and not from clusters that were found: what depends on the start is not stable either.

    Args:
        x: `(N, D)`.
        refit: the clustering.
        n_refits: bootstrap samples.
        seed: same seed, same samples.

    Yields:
        `(N,)`; rows outside of a sample are assigned, too, and rows that were drawn twice count once.
    """
    random = np.random.RandomState(seed)
    for _ in range(n_refits):
        drawn = random.randint(len(x), size=len(x))
        with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):  # fewer distinct rows are drawn
            assign = refit(x[drawn], random.randint(2**31 - 1))
        yield assign(x)


def stability(
    x: np.ndarray, clusters: np.ndarray, n_clusters: int, refit: Refit, n_refits: int = REFITS, seed: int = 0
) -> np.ndarray:
    """Computes how well each cluster is found again in bootstrap samples.

    Args:
        x: `(N, D)`.
        clusters: `(N,)`, from 0 to `K - 1`.
        n_clusters: `K`.
        refit: the clustering; this and what follows as in `bootstrap_clusters`.

    Returns:
        The mean over the refits of the largest Jaccard index, `(K,)`; NaN for a cluster without rows.
    """
    with threadpool_limits(1):  # several threads of scikit-learn add up in any order
        refits = bootstrap_clusters(x, refit, n_refits, seed)
        means: np.ndarray = np.mean([largest_jaccard(clusters, others, n_clusters) for others in refits], axis=0)
    return means


def refit_kmeans(n_clusters: int, n_init: int = 1) -> Refit:
    """Returns a refit by k-means from k-means++ starts."""

    def refit(rows: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
        model = KMeans(n_clusters, n_init=n_init, random_state=seed).fit(rows)
        return lambda x: np.asarray(model.predict(x))

    return refit


def refit_spherical_kmeans(n_clusters: int) -> Refit:
    """Returns a refit by spherical k-means, of rows of length 1, from a k-means++ start."""

    def refit(rows: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
        centroids = spherical_centroids(torch.from_numpy(rows), starts(rows, n_clusters, 1, seed)[0]).numpy()
        return lambda x: np.asarray((x @ centroids.T).argmax(1))

    return refit


def verdict(index: float) -> str:
    """Says what a stability, rounded as people see it, means by Hennig's limits.

    Example:
        >>> verdict(0.8), verdict(0.7), verdict(0.3)
        ('stable', 'doubtful', 'unstable')
    """
    if np.isnan(index):
        return "not measured"
    index = round(index, 2)
    return "stable" if index >= STABLE else "doubtful" if index >= DOUBTFUL else "unstable"
