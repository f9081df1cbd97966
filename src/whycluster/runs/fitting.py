"""The clusterings on offer: each fits centroids to stored features and neuralizes them."""

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from whycluster.clustering.features import FeatureStore
from whycluster.clustering.kmeans import assign
from whycluster.clustering.lloyd import KMeans
from whycluster.heads import NeuralizedKMeans
from whycluster.runs.settings import whole_number


class Fitted(NamedTuple):
    """A neuralized clustering and how it came about."""

    head: NeuralizedKMeans
    inertia: float
    n_iter: int


@dataclass(frozen=True)
class KMeansHead:
    """k-means, fitted by Lloyd's algorithm.

    Attributes:
        n_clusters: `K`.
        n_init: restarts.
        max_iter: iterations at most.
        tol: see `KMeans`.
        beta: stiffness of the head; `None`: `1 / E[f_c]` over the features.

    Raises:
        ValueError: for settings that make no sense.
    """

    n_clusters: int
    n_init: int = 10
    max_iter: int = 300
    tol: float = 1e-4
    beta: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("n_clusters", 2), ("n_init", 1), ("max_iter", 1)):
            whole_number(f"head.{name}", getattr(self, name), least)
        if not (isinstance(self.tol, int | float) and self.tol >= 0):
            raise ValueError(f"head.tol={self.tol} should be a number >= 0.")
        if self.beta is not None and not (isinstance(self.beta, int | float) and 0 <= self.beta < math.inf):
            raise ValueError(f"head.beta={self.beta} should be a number >= 0, or null.")

    def fit(self, features: FeatureStore, trainer: pl.Trainer, seed: int) -> Fitted:
        """Fits and neuralizes.

        Raises:
            ValueError: for settings that do not fit the features, or features that are not finite.
        """
        lloyd = KMeans(features, self.n_clusters, self.n_init, self.max_iter, self.tol, seed)
        trainer.fit(lloyd)
        if not math.isfinite(lloyd.inertia):
            raise ValueError("the trainer stopped before k-means had ended; leave out what limits its steps or time.")
        head = NeuralizedKMeans(lloyd.centroids.cpu())
        beta = heuristic_beta(head, features) if self.beta is None else self.beta
        return Fitted(NeuralizedKMeans(head.centroids, beta), lloyd.inertia, lloyd.n_iter)

    def settings(self) -> dict[str, Any]:
        """Plain values, for tables of hyper-parameters."""
        return asdict(self)


def heuristic_beta(head: NeuralizedKMeans, features: FeatureStore) -> float:
    """`1 / E[f_c]` over the features (Kauffmann et al., section III-B); 1 where no two clusters differ."""
    total = sum(float(head(batch).amax(1).sum()) for batch in features.batches(head.n_clusters))
    return len(features) / total if total > 0 else 1.0


def disagreements(head: NeuralizedKMeans, x: Tensor) -> int:
    """On how many rows the head decides otherwise than k-means, both in float64."""
    origin = head.centroids.mean(0)
    nearest, _ = assign(x.double() - origin, head.centroids - origin)
    decided: Tensor = head(x).argmax(1)
    return int(torch.count_nonzero(nearest != decided))
