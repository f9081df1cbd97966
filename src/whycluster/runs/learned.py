"""Clusterings that are learned by gradient on stored features."""

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from whycluster.clustering.features import FeatureStore
from whycluster.clustering.kmeans import KMeans
from whycluster.clustering.temi import Temi
from whycluster.clustering.temi_heads import TemiSettings, collapse
from whycluster.errors import UserError
from whycluster.heads import Beta, NeuralizedLinear
from whycluster.runs.trainers import fit_next
from whycluster.runs.clusterers import Fitted, KMeansClusterer, ToCluster, _nearest, _with_beta


@dataclass(frozen=True, kw_only=True)
class TemiClusterer(TemiSettings):
    """TEMI: prototypes that give neighbouring images the same cluster; they begin from k-means.

    Attributes:
        n_clusters: `K`.
        beta: stiffness of the head; `auto`: `1 / E[f_c]` over the features.

    Raises:
        UserError: for settings that make no sense.
    """

    n_clusters: int
    beta: Beta = "auto"
    max_epochs: ClassVar[int] = KMeansClusterer.max_iter + 1  # of the k-means before it

    def __post_init__(self) -> None:
        self.check("head.")
        KMeansClusterer(self.n_clusters, self.n_init, beta=self.beta)  # which checks the rest

    def fit(self, given: ToCluster, trainer: pl.Trainer, seed: int, checkpoint: Path) -> Fitted:
        features = given.features
        kmeans = KMeans(features, self.n_clusters, self.n_init, seed=seed)
        trainer.fit(kmeans, ckpt_path=checkpoint if checkpoint.exists() else None)
        starts = kmeans.candidates.detach().cpu()
        if not math.isfinite(kmeans.inertia):
            raise UserError("the trainer stopped before k-means had ended; leave out what limits its steps or time.")
        if kmeans.scatter == 0:
            raise UserError("all images have the same features; there is nothing to cluster.")
        settings = TemiSettings(**{field.name: getattr(self, field.name) for field in fields(TemiSettings)})
        temi = Temi(features, starts, settings, seed)
        fit_next(trainer, temi, checkpoint.with_name("temi.ckpt"), self.epochs)
        if trainer.current_epoch < self.epochs:
            raise UserError("the trainer stopped before TEMI had ended; leave out what limits its steps or time.")
        prototypes, centroids = temi.heads.prototypes.cpu(), kmeans.centroids.cpu()
        assign = _most_similar(prototypes, kmeans.mean)
        collapsed = collapse(np.bincount(_clusters(features, assign), minlength=self.n_clusters))
        if collapsed and trainer.is_global_zero:
            warnings.warn(f"{collapsed} See docs/deep_clustering.md.", stacklevel=2)
        head = _with_beta(NeuralizedLinear(prototypes, centre=kmeans.mean), self.beta, features)
        figures = {"loss": float(temi.heads.loss.min())}
        return Fitted(head, assign, figures, baseline=_clusters(features, _nearest(centroids)))

    def settings(self) -> dict[str, Any]:
        return {"name": "temi", **asdict(self)}


Assign = Callable[[Tensor], tuple[Tensor, Tensor]]


def _most_similar(prototypes: Tensor, origin: Tensor) -> Assign:
    """Features `(N, D)` `->` the prototype of greatest cosine similarity, and its squared distance on the unit sphere."""

    def assign(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.double()
        # Relative to the origin, as the head computes: rows of zeros are equally similar to all.
        products, cluster = torch.addmm(prototypes @ origin, x - origin, prototypes.T).max(1)
        return cluster, 2 - 2 * products / torch.linalg.vector_norm(x, dim=1).clamp(min=1e-12)

    return assign


def _clusters(features: FeatureStore, assign: Assign) -> np.ndarray:
    """The cluster of each row, `(N,)`."""
    return np.concatenate([assign(batch)[0].numpy() for batch in features.batches()])
