"""The clusterings on offer: each fits stored features and neuralizes what it found."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from whycluster.backbones import Backbone
from whycluster.clustering.feature_steps import FeatureSteps
from whycluster.clustering.features import FeatureStore, sample_rows
from whycluster.clustering.how_many import SCAN_ROWS, choose_n_clusters, numbers_of_clusters
from whycluster.clustering.kernel_kmeans import KernelKMeans, check_gamma
from whycluster.clustering.kmeans import KMeans
from whycluster.clustering.lloyd import assign
from whycluster.clustering.soft_distances import assign_softly
from whycluster.clustering.stability import Refit, refit_kmeans
from whycluster.data import PreparedImages, has_labels
from whycluster.errors import UserError, whole_number
from whycluster.heads import Beta, Head, NeuralizedKernelKMeans, NeuralizedKMeans, heuristic_beta
from whycluster.heads.beta import user_beta

KERNEL_ROWS = 2000  # of which kernel k-means is fitted again, to tell how stable its clusters are


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
        refit: clusters some rows anew, as the clustering did all; tells how stable the clusters are.
    """

    head: Head
    assign: Callable[[Tensor], tuple[Tensor, Tensor]]
    figures: dict[str, Any]
    groups: list[str] | None = None
    features: FeatureStore | None = None
    baseline: np.ndarray | None = None
    refit: Refit | None = None


class Clustering(Protocol):
    """What `head=` stands for: settings that can be fitted."""

    @property
    def n_clusters(self) -> int | str:
        """`K`, the least that it can be, or numbers to choose from; see `numbers_of_clusters`."""

    @property
    def max_epochs(self) -> int:
        """Epochs of the trainer at most."""

    def fit(self, given: ToCluster, trainer: pl.Trainer, seed: int, checkpoint: Path) -> Fitted:
        """Fits and neuralizes.

        Args:
            given: what to cluster.
            trainer: that loops over it, where that takes iterations; its precision is float32.
            seed: same seed, same result.
            checkpoint: where the trainer keeps its state; if that is there, iterations go on from it.

        Raises:
            UserError: for settings that do not fit the features, or features that are not finite.
        """

    def settings(self) -> dict[str, Any]:
        """Plain values that tell it from all others, for tables of hyper-parameters."""


@dataclass(frozen=True)
class KMeansClusterer:
    """k-means, fitted by Lloyd's algorithm.

    Attributes:
        n_clusters: `K`; `auto` or a range such as `2-20`: the best of these numbers, see `choose_n_clusters`.
        n_init: restarts.
        max_iter: iterations at most.
        tol: see `KMeans`.
        beta: stiffness of the head; `auto`: `1 / E[f_c]` over the features.

    Raises:
        UserError: for settings that make no sense.
    """

    n_clusters: int | str
    n_init: int = 10
    max_iter: int = 300
    tol: float = 1e-4
    beta: Beta = "auto"
    spherical: ClassVar[bool] = False  # whether centroids have length 1

    def __post_init__(self) -> None:
        _check(self, may_choose=True)
        if not (isinstance(self.tol, int | float) and self.tol >= 0):
            raise UserError(f"head.tol={self.tol} should be a number >= 0.")

    @property
    def max_epochs(self) -> int:
        return self.max_iter + 1  # the last one measures the result

    def fit(self, given: ToCluster, trainer: pl.Trainer, seed: int, checkpoint: Path) -> Fitted:
        n_clusters, figures = _number(self.n_clusters, given.features, trainer, seed)
        lloyd = KMeans(given.features, n_clusters, self.n_init, self.max_iter, self.tol, seed, self.spherical)
        trainer.fit(lloyd, ckpt_path=checkpoint if checkpoint.exists() else None)
        if not math.isfinite(lloyd.inertia):
            raise UserError("the trainer stopped before k-means had ended; leave out what limits its steps or time.")
        centroids = lloyd.centroids.cpu()
        head = _with_beta(NeuralizedKMeans(centroids), self.beta, given.features)
        figures |= {"inertia": lloyd.inertia, "n_iter": lloyd.n_iter}
        return Fitted(head, _nearest(centroids), figures, refit=refit_kmeans(n_clusters))

    def settings(self) -> dict[str, Any]:
        return {"name": "spherical_kmeans" if self.spherical else "kmeans", **asdict(self)}


@dataclass(frozen=True)
class SphericalKMeansClusterer(KMeansClusterer):
    """Spherical k-means (Dhillon and Modha 2001, doi 10.1023/A:1007612920971): k-means of vectors of length 1, whose
    centroids are kept at length 1, too. The nearest centroid is that of the largest cosine.
    """

    spherical: ClassVar[bool] = True


@dataclass(frozen=True)
class KernelKMeansClusterer:
    """Kernel k-means with a Gaussian kernel; on the CPU, and by each process alike.

    Attributes:
        n_clusters: `K`.
        gamma: of the kernel; `auto`: see `KernelKMeans`.
        max_supports: how many images may stand for the clusters; `None`: all.
        n_init: restarts.
        max_iter: iterations at most.
        beta: stiffness of the head; `auto`: `1 / E[f_c]` over the features.

    Raises:
        UserError: for settings that make no sense.
    """

    n_clusters: int
    gamma: float | Literal["auto"] = "auto"
    max_supports: int | None = None
    n_init: int = 10
    max_iter: int = 300
    beta: Beta = "auto"
    max_epochs: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check(self)
        check_gamma(self.gamma)
        if self.max_supports is not None:
            whole_number("head.max_supports", self.max_supports, self.n_clusters)

    def fit(self, given: ToCluster, trainer: pl.Trainer, seed: int, checkpoint: Path) -> Fitted:
        settings = asdict(self)
        del settings["beta"]
        model = KernelKMeans(**settings, random_state=seed).fit(given.features.open())
        if trainer.logger is not None:
            trainer.logger.log_metrics({"kernel_kmeans/inertia": model.inertia_}, step=model.n_iter_)
        supports, clusters = torch.from_numpy(model.supports_).double(), torch.from_numpy(model.support_labels_)

        def nearest(x: Tensor) -> tuple[Tensor, Tensor]:
            return assign_softly(x.double(), supports, clusters, model.gamma_)

        figures = {"inertia": model.inertia_, "n_iter": model.n_iter_, "gamma": model.gamma_}
        figures |= {"n_supports": len(supports), "agreement_of_supports": model.agreement_}
        head = _with_beta(NeuralizedKernelKMeans(supports, clusters, model.gamma_), self.beta, given.features)
        again = settings | {"gamma": model.gamma_, "n_init": 1, "max_supports": None}

        def refit(rows: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
            # Drawn in random order, so that the first ones are a sample; a fit takes all pairs of its rows.
            return KernelKMeans(**again, random_state=seed).fit(rows[:KERNEL_ROWS]).predict

        return Fitted(head, nearest, figures, refit=refit)

    def settings(self) -> dict[str, Any]:
        return {"name": "kernel_kmeans", **asdict(self)}


@dataclass(frozen=True)
class GroupMeansClusterer:
    """No clustering: the centroids are the means of known groups, which the labels of the images name.

    Attributes:
        beta: stiffness of the head; `auto`: `1 / E[f_c]` over the features.

    Raises:
        UserError: for a `beta` that makes no sense.
    """

    beta: Beta = "auto"
    n_clusters: ClassVar[int] = 2
    max_epochs: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check(self)

    def fit(self, given: ToCluster, trainer: pl.Trainer, seed: int, checkpoint: Path) -> Fitted:
        features, labels = given.features, given.labels
        if not has_labels(list(labels)):
            raise UserError(
                "head=group_means takes the labels of images for groups, and not all images have one of two; lay "
                "each group into a sub-folder of its own, or take head=kmeans."
            )
        groups, of_row = np.unique(np.asarray(labels), return_inverse=True)
        means = features.means(of_row, len(groups))
        head = _with_beta(NeuralizedKMeans(means), self.beta, features)
        return Fitted(head, _nearest(means), {}, groups.tolist())

    def settings(self) -> dict[str, Any]:
        return {"name": "group_means", **asdict(self)}


def _nearest(centroids: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Features `(N, D)` `->` the nearest centroid and its squared distance."""
    origin = centroids.mean(0)
    return lambda x: assign(x.double() - origin, centroids - origin)


def _number(
    n_clusters: int | str, features: FeatureStore, trainer: pl.Trainer, seed: int
) -> tuple[int, dict[str, Any]]:
    """The number of clusters, chosen where it is to be chosen, and what `metrics.json` says about the choice."""
    numbers = numbers_of_clusters(n_clusters)
    if len(numbers) == 1:
        return numbers[0], {}
    sample = features.rows(sample_rows(len(features), SCAN_ROWS, seed))
    choice = choose_n_clusters(sample, numbers, seed)
    curve = [one._asdict() for one in choice.curve]
    if trainer.logger is not None:
        for row in curve:
            named = {f"how_many/{name}": value for name, value in row.items() if name != "n_clusters"}
            trainer.logger.log_metrics(named, step=row["n_clusters"])
    return choice.n_clusters, {"how_many": curve, "how_many_sure": choice.sure, "how_many_verdict": choice.verdict}


def _check(head: Any, may_choose: bool = False) -> None:
    """What all clusterings are told; some may choose the number of clusters."""
    if isinstance(head.n_clusters, str) and not may_choose:
        raise UserError(
            f"head.n_clusters={head.n_clusters!r} should be a number; only head=kmeans chooses one by itself."
        )
    numbers_of_clusters(head.n_clusters)
    for name in ("n_init", "max_iter"):
        if hasattr(head, name):
            whole_number(f"head.{name}", getattr(head, name), 1)
    user_beta(head.beta, "head.beta")


def _with_beta(head: Head, beta: Beta, features: FeatureStore) -> Head:
    """The head with the stiffness that was asked for, or the heuristic one."""
    given = user_beta(beta)
    head.beta.fill_(heuristic_beta(head, features.batches(head.width)) if given is None else given)
    return head
