"""What the clusterings of the train command are given, how they fit Lightning modules, and what they return."""

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from torch import Tensor

from whycluster.backbones import Backbone
from whycluster.clustering.collapse import collapse
from whycluster.clustering.feature_steps import FeatureSettings, FeatureSteps
from whycluster.clustering.features import FeatureStore
from whycluster.clustering.how_many import numbers_of_clusters
from whycluster.clustering.kmeans import KMeans
from whycluster.clustering.lloyd import assign
from whycluster.clustering.stability import Refit
from whycluster.data import PreparedImages
from whycluster.errors import UserError
from whycluster.heads import Beta, Head, heuristic_beta
from whycluster.heads.beta import user_beta
from whycluster.runs.ranks import is_first
from whycluster.runs.trainers import checkpointing

Assign = Callable[[Tensor], tuple[Tensor, Tensor]]


class ToCluster(NamedTuple):
    """What a clustering may work with.

    Attributes:
        features: what to cluster.
        labels: what is known of each row; only some clusterings ask for it.
        images: of each row; only clusterings that train the backbone load them.
        backbone: images to features; a clustering that trains it changes its weights in place.
        steps: what stands between the features of the backbone and those to cluster.
        batch_size: images that are loaded at once where all are computed.
        num_workers: processes that decode; `None`: as many as fit.
    """

    features: FeatureStore
    labels: Sequence[str]
    images: PreparedImages
    backbone: Backbone
    steps: FeatureSteps
    batch_size: int = 32
    num_workers: int | None = None


class Fitted(NamedTuple):
    """A neuralized clustering and how it came about.

    Attributes:
        head: the network.
        assign: the clustering itself: features `(N, D)` `->` cluster and squared distance to it, `(N,)` each.
        figures: for `metrics.json`.
        groups: names of the clusters, where they are known groups.
        features: those that it clusters, after the steps, if it trained the backbone that makes them; else `None`.
        baseline: the clusters by k-means on the features it began with, `(N,)`, for a clustering that is learned.
        refit: clusters some rows anew, by k-means where the clustering is learned; tells how stable the clusters are.
    """

    head: Head
    assign: Assign
    figures: dict[str, Any]
    groups: list[str] | None = None
    features: FeatureStore | None = None
    baseline: np.ndarray | None = None
    refit: Refit | None = None


class Fitting:
    """Fits Lightning modules in full precision, whatever the network runs in, each from a checkpoint of its own.

    Args:
        trainer: makes a Lightning trainer from its arguments.
        logger: of all fits.
        folder: of the checkpoints; a fit that was stopped goes on from its own.
    """

    def __init__(self, trainer: Callable[..., pl.Trainer], logger: Logger, folder: Path) -> None:
        self.trainer, self.logger, self.folder = trainer, logger, folder

    def __call__(self, module: pl.LightningModule, max_epochs: int, name: str) -> None:
        """Fits a module for so many epochs at most; `name` is that of its checkpoint."""
        checkpoint = self.folder / f"{name}.ckpt"
        settings = {"logger": self.logger, "max_epochs": max_epochs, "precision": "32-true"}
        trainer = self.trainer(**settings, **checkpointing(checkpoint))
        trainer.fit(module, ckpt_path=checkpoint if checkpoint.exists() else None)


class Clustering(Protocol):
    """What `head=` stands for: settings that can be fitted."""

    @property
    def n_clusters(self) -> int | str:
        """`K`, the least that it can be, or numbers to choose from; see `numbers_of_clusters`."""

    def check_input(self, backbone: Backbone, features: FeatureSettings, labels: Sequence[str], what: str) -> None:
        """Checks that it can cluster such images, before the work as well as after the features are there.

        Args:
            backbone: images to features.
            features: which steps they take.
            labels: what is known of each image; empty where nothing is.
            what: `files`, or `readable images`.

        Raises:
            UserError: if it cannot.
        """

    def fit(self, given: ToCluster, fitting: Fitting, seed: int) -> Fitted:
        """Fits and neuralizes.

        Args:
            given: what to cluster.
            fitting: fits the modules that this takes.
            seed: same seed, same result.

        Raises:
            UserError: for settings that do not fit the features, or features that are not finite.
        """

    def settings(self) -> dict[str, Any]:
        """Plain values that tell it from all others, for tables of hyper-parameters."""


def check_size(n_clusters: int | str, n_images: int, what: str) -> None:
    """Refuses more clusters than images; `auto` goes as far as there are.

    Raises:
        UserError: if there are fewer.
    """
    if n_images < numbers_of_clusters(n_clusters)[0 if n_clusters == "auto" else -1]:
        raise UserError(f"head.n_clusters={n_clusters} should be <= the number of {what}, {n_images}; lower it.")


def fit_kmeans(lloyd: KMeans, fitting: Fitting) -> None:
    """Fits k-means.

    Raises:
        UserError: if settings of the trainer end the fit too early, and as `KMeans` does.
    """
    fitting(lloyd, lloyd.max_iter + 1, "kmeans")  # the last epoch measures the result
    if not math.isfinite(lloyd.inertia):
        raise UserError("the trainer stopped before k-means had ended; leave out what limits its steps or time.")


def nearest_centroid(centroids: Tensor) -> Assign:
    """Returns what maps features `(N, D)` to the nearest centroid and the squared distance to it."""
    origin = centroids.mean(0)
    return lambda x: assign(x.double() - origin, centroids - origin)


def clusters_of(features: FeatureStore, assign: Assign) -> np.ndarray:
    """Returns the cluster of each row, `(N,)`."""
    return np.concatenate([assign(batch)[0].numpy() for batch in features.batches()])


def warn_of_collapse(clusters: np.ndarray, baseline: np.ndarray, n_clusters: int, cure: str) -> None:
    """Warns, once for all processes, of a learned clustering `(N,)` that has collapsed, and k-means `(N,)` has not."""
    sizes, kmeans_sizes = (np.bincount(found, minlength=n_clusters) for found in (clusters, baseline))
    collapsed = collapse(sizes, kmeans_sizes)
    if collapsed and is_first():
        warnings.warn(f"{collapsed[:-1]}; {cure}", stacklevel=2)


def with_beta(head: Head, beta: Beta, features: FeatureStore) -> Head:
    """Gives a head the stiffness that was asked for, or the heuristic one."""
    given = user_beta(beta)
    head.beta.fill_(heuristic_beta(head, features.batches(head.width)) if given is None else given)
    return head
