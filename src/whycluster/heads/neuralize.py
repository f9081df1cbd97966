"""Neuralization of a fitted clustering in one call."""

from typing import Any

import numpy as np
import torch
from sklearn.base import is_classifier
from sklearn.cluster import BisectingKMeans
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from whycluster.clustering.kernel_kmeans import KernelKMeans
from whycluster.clustering.temi_clustering import TemiClustering
from whycluster.errors import UserError
from whycluster.heads.arguments import as_tensor
from whycluster.heads.beta import Beta, heuristic_beta, user_beta
from whycluster.heads.bisecting_kmeans import NeuralizedBisectingKMeans, Split
from whycluster.heads.head import Head
from whycluster.heads.kernel_kmeans import NeuralizedKernelKMeans
from whycluster.heads.kmeans import NeuralizedKMeans
from whycluster.heads.linear import NeuralizedLinear
from whycluster.heads.pipelines import Folded, fitted_names

BATCH_ROWS = 1024


def neuralize(model: Any, X: Any = None, *, beta: Beta = "auto") -> Head:  # noqa: N803
    """Rewrites a fitted clustering as a neural network with the same decisions.

    Args:
        model: a fitted `KMeans`, `MiniBatchKMeans`, `BisectingKMeans`, `KernelKMeans` or `TemiClustering`; a pipeline
            that ends in one of them, whose scalers, PCA, truncated SVD or feature selections are folded, so that
            relevance arrives at the original columns; a fitted linear classifier of scikit-learn, also behind such
            steps; centroids, a `(K, D)` array or tensor; or `(weight, bias)` of linear scores, `(K, D)` and `(K,)`.
        X: the training data `(N, D)`, for `beta="auto"`.
        beta: stiffness of the pooling over competitors, `>= 0`. `auto`: `1 / E[f_c]` over `X`; without `X` over the
            supports of a `KernelKMeans`, and over the cluster means of other clusterings: it then comes out smaller, as
            `f_c` of a mean is at least the mean of `f_c`. For linear scores and a `TemiClustering` without `X` it is 1.

    Raises:
        UserError: if the model is not fitted (scikit-learn's `NotFittedError`), of another kind, has one cluster only,
            or if a step of a pipeline is not affine.

    Example:
        >>> from sklearn.cluster import KMeans
        >>> x = np.array([[0.0], [1.0], [8.0], [9.0]])
        >>> head = neuralize(KMeans(2, n_init=1, random_state=0).fit(x))
        >>> head(torch.tensor([[4.0]])).abs()
        tensor([[8., 8.]], dtype=torch.float64)
    """
    stiffness = user_beta(beta)
    head, typical, counts = _rewritten(model)
    head.feature_names_in_ = fitted_names(model)
    if stiffness is None and X is not None:
        stiffness = heuristic_beta(head, torch.split(as_tensor(X), BATCH_ROWS))
    elif stiffness is None:
        total = float((head(typical).amax(1) * counts).sum())
        stiffness = float(counts.sum()) / total if total > 0 else 1.0
    head.beta.fill_(stiffness)
    return head


def _rewritten(model: Any) -> tuple[Head, Tensor, Tensor]:
    """Builds a head; also returns points that are typical of the training data `(T, D)`, and how many rows each of them
    represents `(T,)`.
    """
    if isinstance(model, tuple):
        weight, bias = model
        return _linear(as_tensor(weight), None if bias is None else as_tensor(bias))
    if isinstance(model, Tensor | np.ndarray):
        head = NeuralizedKMeans(as_tensor(model))
        return head, head.centroids, torch.ones(head.n_clusters)
    folded = Folded(model)
    estimator, projection = folded.estimator, folded.projection
    if hasattr(estimator, "fit"):
        check_is_fitted(estimator)
    if isinstance(estimator, KernelKMeans):
        supports, labels = folded.back(estimator.supports_), torch.as_tensor(estimator.support_labels_)
        kernel = NeuralizedKernelKMeans(supports, labels, estimator.gamma_, projection=projection)
        return kernel, kernel.supports, torch.ones(len(supports))
    if isinstance(estimator, TemiClustering):
        prototypes = as_tensor(estimator.prototypes_).double()
        weight, bias = folded.scores_back(prototypes, -prototypes @ as_tensor(estimator.origin_).double())
        return NeuralizedLinear(weight, bias), weight[:0], torch.ones(0)
    if hasattr(estimator, "coef_") and is_classifier(estimator):
        weight = as_tensor(np.atleast_2d(estimator.coef_)).double()
        bias = as_tensor(np.broadcast_to(estimator.intercept_, len(weight))).double()
        return _linear(*folded.scores_back(weight, bias))
    if not hasattr(estimator, "cluster_centers_"):
        raise UserError(
            f"cannot neuralize a {type(estimator).__name__}; give a fitted KMeans, BisectingKMeans, KernelKMeans, "
            "TemiClustering or linear classifier, a pipeline that ends in one, (K, D) centroids, or (weight, bias) of "
            "linear scores."
        )
    means = folded.back(estimator.cluster_centers_)
    assigned = getattr(estimator, "labels_", range(len(means)))  # a MiniBatchKMeans may have none
    counts = torch.bincount(torch.as_tensor(assigned).long(), minlength=len(means))
    if isinstance(estimator, BisectingKMeans):
        splits, centres = _tree(estimator)
        left, right = folded.back(centres).view(len(splits), 2, -1).unbind(1)
        return NeuralizedBisectingKMeans(splits, left, right, projection=projection), means, counts
    return NeuralizedKMeans(means, projection=projection), means, counts


def _linear(weight: Tensor, bias: Tensor | None) -> tuple[Head, Tensor, Tensor]:
    """Builds the head of linear scores; without training data no points are known to be typical."""
    if weight.ndim == 2 and len(weight) == 1:  # one score against zero
        weight = torch.cat([torch.zeros_like(weight), weight])
        bias = None if bias is None else torch.cat([torch.zeros_like(bias), bias])
    return NeuralizedLinear(weight, bias), weight[:0], torch.ones(0)


def _tree(model: BisectingKMeans) -> tuple[list[Split], np.ndarray]:
    """Reads the splits of a tree, parents first, and the centres of their left and right sides, `(2 (K - 1), D)`."""
    splits, centres = [], []
    waiting = [model._bisecting_tree]
    for node in waiting:  # grows
        if node.left is not None:
            sides = [node.left, node.right]
            splits.append(Split(*([leaf.label for leaf in side.iter_leaves()] for side in sides)))
            centres += [side.center + getattr(model, "_X_mean", 0) for side in sides]
            waiting += sides
    if not splits:
        raise UserError("n_clusters=1 should be >= 2, as one cluster alone has no competitor.")
    return splits, np.stack(centres)
