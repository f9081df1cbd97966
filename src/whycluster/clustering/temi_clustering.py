"""TEMI as a scikit-learn estimator: clusters from the neighbourhoods of rows, whose decision is one linear layer.

Adaloglou et al. 2023, arXiv 2303.17896; see `temi_heads`.
"""

from dataclasses import fields
from typing import Any, Self
from warnings import warn

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from whycluster.clustering.collapse import collapse
from whycluster.clustering.kernel_kmeans import DTYPES, readable
from whycluster.clustering.neighbours import nearest_neighbours, query_blocks, unit_rows
from whycluster.clustering.temi_heads import (
    MEAN_SHARE,
    TemiHeads,
    TemiSettings,
    cosine_spread,
    epoch_pairs,
    n_steps,
    start_rows,
    warm_starts,
)
from whycluster.errors import UserError, whole_number


class TemiClustering(ClusterMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """TEMI: prototypes that give neighbouring rows the same cluster, as a scikit-learn estimator.

    A row belongs to the prototype of greatest cosine similarity with it, relative to half of the mean row. Rows whose
    zeros mean nothing should be centred before.

    Args:
        n_clusters: `K`.
        n_init: restarts of k-means.
        n_heads: heads, which begin from the restarts of least inertia; the head of least loss wins.
        n_neighbours: of each row, of which an epoch draws one.
        temperature: of the softmax over cosine similarities, in standard deviations of those of different rows.
        exponent: `β` of the mutual information, above 0, at most 1.
        momentum: of the teachers, between 0 and 1.
        learning_rate: of Adam at the beginning.
        epochs: passes over the rows.
        random_state: as in scikit-learn.

    Attributes:
        labels_: cluster of each row, `(N,)`, as `predict` returns it.
        prototypes_: of length 1, relative to `origin_`, `(K, D)`.
        origin_: half of the mean row, `(D,)`.
        loss_: mean loss of the best head over the last epoch.

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
        n_heads: int = TemiSettings.n_heads,
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
        self.n_heads = n_heads
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
        seed = int(check_random_state(self.random_state).randint(2**31))
        self.origin_ = (MEAN_SHARE * rows.mean(0, dtype=np.float64)).astype(rows.dtype)
        heads = _trained(unit_rows(rows, torch.from_numpy(self.origin_)), self.n_clusters, settings, seed)
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
        clusters: np.ndarray = ((rows - self.origin_) @ self.prototypes_.T).argmax(1)
        return clusters


def _trained(z: Tensor, n_clusters: int, settings: TemiSettings, seed: int) -> TemiHeads:
    """Trains heads on unit rows `(N, D)`."""
    blocks, origin = query_blocks(len(z)), z.new_zeros(z.shape[1])
    found = [nearest_neighbours(z.numpy(), origin, settings.n_neighbours, block) for block in blocks]
    neighbours, steps = torch.cat(found).numpy(), n_steps(len(z))
    some = z[start_rows(len(z), z.shape[1], n_clusters, seed)]
    heads = TemiHeads(warm_starts(some.numpy(), n_clusters, settings, seed), settings, cosine_spread(some))
    optimizer = heads.optimizer()
    for epoch in range(settings.epochs):
        for some, near in epoch_pairs(neighbours, steps, seed, epoch):
            heads.learn(z[some], z[near], optimizer, steps)
    return heads
