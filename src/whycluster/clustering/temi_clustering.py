"""TEMI as a scikit-learn estimator: clusters from the neighbourhoods of rows, whose decision is one linear layer.

Adaloglou et al. 2023, arXiv 2303.17896; see `temi_heads`.
"""

from dataclasses import fields
from typing import Any, Self
from warnings import warn

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from whycluster.clustering.kernel_kmeans import DTYPES, readable
from whycluster.clustering.neighbours import nearest_neighbours, query_blocks
from whycluster.clustering.temi_heads import TemiHeads, TemiSettings, collapse, epoch_pairs, n_steps
from whycluster.errors import UserError, whole_number


class TemiClustering(ClusterMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """TEMI: prototypes that give neighbouring rows the same cluster, as a scikit-learn estimator.

    A row belongs to the prototype of greatest cosine similarity. Data without a natural origin should be centred first.

    Args:
        n_clusters: `K`.
        n_init: heads, each of which begins from a k-means of its own; the one of least loss wins.
        n_neighbours: of each row, of which an epoch draws one.
        temperature: of the softmax over cosine similarities.
        exponent: `β` of the mutual information, above 0, at most 1.
        momentum: of the teachers, between 0 and 1.
        learning_rate: of Adam at the beginning.
        epochs: passes over the rows.
        random_state: as in scikit-learn.

    Attributes:
        labels_: cluster of each row, `(N,)`, as `predict` returns it.
        prototypes_: of length 1, `(K, D)`.
        loss_: mean loss of the best head over the last epoch.
        kmeans_labels_: clusters by the k-means of least inertia that it began from, `(N,)`.

    Example:
        >>> from sklearn.datasets import make_blobs
        >>> x, blob = make_blobs(90, centers=[[9, 0, 0], [0, 9, 0], [0, 0, 9]], random_state=0)
        >>> model = TemiClustering(3, epochs=20, random_state=0).fit(x)
        >>> sorted(np.bincount(model.labels_).tolist()), len(set(zip(model.labels_, blob)))
        ([30, 30, 30], 3)
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        n_init: int = TemiSettings.n_init,
        n_neighbours: int = TemiSettings.n_neighbours,
        temperature: float = TemiSettings.temperature,
        exponent: float = TemiSettings.exponent,
        momentum: float = TemiSettings.momentum,
        learning_rate: float = TemiSettings.learning_rate,
        epochs: int = TemiSettings.epochs,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.n_init = n_init
        self.n_neighbours = n_neighbours
        self.temperature = temperature
        self.exponent = exponent
        self.momentum = momentum
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803
        """Fits rows `(N, D)`.

        Raises:
            UserError: for invalid settings, more clusters or neighbours than rows, rows that are not finite, or all
                alike.
        """
        settings = TemiSettings(**{field.name: getattr(self, field.name) for field in fields(TemiSettings)})
        settings.check()
        whole_number("n_clusters", self.n_clusters, 1)
        rows = validate_data(self, readable(X), dtype=DTYPES, copy=True)
        if len(rows) < self.n_clusters:
            raise UserError(f"n_samples={len(rows)} should be >= n_clusters={self.n_clusters}.")
        if len(rows) <= self.n_neighbours:
            raise UserError(f"n_samples={len(rows)} should be > n_neighbours={self.n_neighbours}.")
        if (rows == rows[0]).all():
            raise UserError("all rows are equal; there is nothing to cluster.")
        seeds = check_random_state(self.random_state).randint(2**31, size=self.n_init + 1).tolist()
        fits = [KMeans(self.n_clusters, n_init=1, random_state=seed).fit(rows) for seed in seeds[:-1]]
        heads = _trained(rows, np.stack([fit.cluster_centers_ for fit in fits]), settings, seeds[-1])
        self.kmeans_labels_ = min(fits, key=lambda fit: float(fit.inertia_)).labels_
        self.prototypes_ = heads.prototypes.numpy().astype(rows.dtype)
        self.loss_ = float(heads.loss.min())
        self.labels_ = self._decide(rows)
        collapsed = collapse(np.bincount(self.labels_, minlength=self.n_clusters))
        if collapsed:
            warn(collapsed, ConvergenceWarning, stacklevel=2)
        return self

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Assigns rows to clusters, `(N,)`.

        Raises:
            UserError: for rows of another width, or not finite; scikit-learn's `NotFittedError` before `fit`.
        """
        check_is_fitted(self)
        return self._decide(validate_data(self, readable(X), dtype=DTYPES, copy=True, reset=False))

    def _decide(self, rows: np.ndarray) -> np.ndarray:
        clusters: np.ndarray = (rows @ self.prototypes_.T).argmax(1)
        return clusters


def _trained(rows: np.ndarray, starts: np.ndarray, settings: TemiSettings, seed: int) -> TemiHeads:
    """Trains heads on rows `(N, D)`, from the centroids of k-means `(H, K, D)`."""
    blocks = query_blocks(len(rows))
    neighbours = torch.cat([nearest_neighbours(rows, settings.n_neighbours, block) for block in blocks]).numpy()
    heads, steps = TemiHeads(torch.from_numpy(starts), settings), n_steps(len(rows))
    optimizer, x = heads.optimizer(), torch.from_numpy(rows).float()
    for epoch in range(settings.epochs):
        for some, near in epoch_pairs(neighbours, steps, seed, epoch):
            heads.learn(x[some], x[near], optimizer, steps)
    return heads
