"""A fitted clustering `->` its neuralized head, in one call."""

from typing import Any

import numpy as np
import torch
from sklearn.cluster import BisectingKMeans
from torch import Tensor

from whycluster.heads.kmeans import NeuralizedKMeans


def neuralize(model: Any, beta: float = 1.0) -> NeuralizedKMeans:
    """Rewrites a fitted k-means as a neural network with the same decisions.

    Args:
        model: an estimator with `cluster_centers_` (scikit-learn's `KMeans` or `MiniBatchKMeans`), or centroids as a
            `(K, D)` array or tensor.
        beta: stiffness of the pooling over competitors; see `NeuralizedKMeans`.

    Raises:
        ValueError: if the estimator is not fitted or not a k-means.

    Example:
        >>> from sklearn.cluster import KMeans
        >>> x = np.array([[0.0], [1.0], [8.0], [9.0]])
        >>> head = neuralize(KMeans(2, n_init=1, random_state=0).fit(x))
        >>> head(torch.tensor([[4.0]])).abs()
        tensor([[8., 8.]], dtype=torch.float64)
    """
    if isinstance(model, Tensor | np.ndarray):
        return NeuralizedKMeans(torch.as_tensor(model), beta)
    if hasattr(model, "fit") and not hasattr(model, "cluster_centers_"):
        raise ValueError(f"this {type(model).__name__} has no cluster_centers_; fit it first, and let it be a k-means.")
    if isinstance(model, BisectingKMeans):
        raise ValueError("a BisectingKMeans decides along a tree, not by the nearest centroid; fit a KMeans.")
    if not hasattr(model, "cluster_centers_"):
        raise ValueError(f"cannot neuralize a {type(model).__name__}; give a fitted KMeans or (K, D) centroids.")
    return NeuralizedKMeans(torch.as_tensor(model.cluster_centers_), beta)
