"""Measures of the quality of a clustering, by itself and against labels."""

import itertools
from collections.abc import Sequence

import numpy as np
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score
from sklearn.metrics.cluster import contingency_matrix

SILHOUETTE_ROWS = 2000  # all pairs of them are compared


def label_agreement(clusters: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
    """Computes normalized mutual information, adjusted Rand index, and accuracy by the best matching of clusters to
    labels.

    Args:
        clusters: `(N,)`.
        labels: `(N,)`.

    Example:
        >>> label_agreement(np.array([1, 1, 0, 0]), ["cat", "cat", "dog", "cat"])["accuracy"]
        0.75
    """
    counts = _matchable(contingency_matrix(labels, clusters, sparse=True).tocsc())
    matched = counts[linear_sum_assignment(counts, maximize=True)].sum()
    return {
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
        "accuracy": float(matched / len(clusters)),
    }


def _matchable(counts: sparse.csc_matrix) -> np.ndarray:
    """Drops the labels that no best matching needs from counts `(L, K)`, however many there are.

    In a best matching of `K` clusters each can have one of its `K` most frequent labels: the others take `K - 1`.
    """
    n_clusters = counts.shape[1]
    wanted = [np.empty(0, dtype=np.intp)]
    for start, end in itertools.pairwise(counts.indptr):
        most = np.argsort(-counts.data[start:end], kind="stable")[:n_clusters]
        wanted.append(counts.indices[start:end][most])
    matchable: np.ndarray = counts.tocsr()[np.unique(np.concatenate(wanted))].toarray()
    return matchable


def silhouette(features: np.ndarray, clusters: np.ndarray) -> float:
    """Computes the mean silhouette of rows `(N, D)` (Rousseeuw 1987), from -1 to 1; NaN for fewer than 2 clusters."""
    if not 2 <= len(np.unique(clusters)) < len(clusters):
        return float("nan")
    return float(silhouette_score(features, clusters))
