"""What is known of each cluster: its size, and whether to trust it."""

import math
from typing import Any

import numpy as np
import torch
from sklearn.metrics import silhouette_samples

from whycluster.clustering.features import FeatureStore, sample_rows, sample_size
from whycluster.clustering.metrics import SILHOUETTE_ROWS
from whycluster.clustering.stability import Refit, stability, verdict


def assess_clusters(
    features: FeatureStore,
    clusters: np.ndarray,
    discriminants: np.ndarray,
    n_clusters: int,
    refit: Refit | None,
    seed: int,
) -> list[dict[str, Any]]:
    """Describes each cluster.

    Args:
        features: that were clustered.
        clusters: of each row, `(N,)`, from 0 to `K - 1`.
        discriminants: of each row, `(N,)`.
        n_clusters: `K`.
        refit: the clustering, to be fitted to bootstrap samples; `None` where there is nothing to fit.
        seed: same seed, same result.

    Returns:
        By number: `cluster`, `size`, `stability` (mean Jaccard index) and its `verdict`, `silhouette` (mean over a
        sample of rows), `margin` (mean discriminant), `nearest` (the other cluster of nearest mean) and the `distance`
        of the two means. `None` stands for what cannot be known.
    """
    sample = sample_rows(len(clusters), sample_size(features.n_features, n_clusters), seed)
    x, own = features.rows(sample), clusters[sample]
    stable = np.full(n_clusters, math.nan) if refit is None else stability(x, own, n_clusters, refit, seed=seed)
    few = sample_rows(len(sample), SILHOUETTE_ROWS, seed)
    silhouettes = _silhouettes(x[few], own[few], n_clusters)
    means = features.means(clusters, n_clusters)
    between = torch.cdist(means, means).nan_to_num(math.inf).fill_diagonal_(math.inf).min(1)
    sizes = np.bincount(clusters, minlength=n_clusters)
    with np.errstate(invalid="ignore"):
        margins = np.bincount(clusters, discriminants, n_clusters) / sizes
    return [
        {
            "cluster": k,
            "size": int(sizes[k]),
            "stability": _known(stable[k]),
            "verdict": verdict(stable[k]),
            "silhouette": _known(silhouettes[k]),
            "margin": _known(margins[k]),
            "nearest": int(between.indices[k]) if between.values[k].isfinite() else None,
            "distance": _known(float(between.values[k])),
        }
        for k in range(n_clusters)
    ]


def _silhouettes(x: np.ndarray, clusters: np.ndarray, n_clusters: int) -> np.ndarray:
    """Computes the mean silhouette of each cluster, `(K,)`; NaN for one without rows, and if there is no other."""
    found = np.unique(clusters)
    means = np.full(n_clusters, math.nan)
    if 2 <= len(found) < len(clusters):
        samples = silhouette_samples(x, clusters)
        means[found] = [samples[clusters == k].mean() for k in found]
    return means


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
