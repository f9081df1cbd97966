"""Clusterings that have collapsed: what is learned may give up clusters, or give nearly all rows to one of them."""

import numpy as np


def collapse(sizes: np.ndarray, kmeans_sizes: np.ndarray | None = None) -> str:
    """Describes a clustering that has collapsed: a cluster is empty, or one has more than the mean of `N / K` and `N`.

    It has not where k-means on the same features has as many empty clusters, or one as large as that.

    Args:
        sizes: of the clusters, `(K,)`.
        kmeans_sizes: of the clusters by k-means, `(K,)`, where they are known.

    Returns:
        A sentence; empty for a clustering as it should be.

    Example:
        >>> collapse(np.array([30, 40, 20])), collapse(np.array([90, 0, 0]))
        ('', 'the clustering has collapsed: 2 of 3 clusters are empty, and the largest has 90 of 90 rows.')
    """
    baseline = np.ones_like(sizes) if kmeans_sizes is None else kmeans_sizes
    n_empty, n_empty_before = (np.count_nonzero(found == 0) for found in (sizes, baseline))
    if n_empty <= n_empty_before and (_has_giant(baseline) or not _has_giant(sizes)):
        return ""
    found = f"{n_empty} of {len(sizes)} clusters are empty, and the largest has"
    return f"the clustering has collapsed: {found} {sizes.max()} of {sizes.sum()} rows."


def _has_giant(sizes: np.ndarray) -> bool:
    return bool(sizes.max() > (sizes.mean() + sizes.sum()) / 2)
