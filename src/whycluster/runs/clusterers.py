"""Clusterings of stored features: each fits them and neuralizes what it found."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from whycluster.backbones import Backbone
from whycluster.clustering.feature_steps import FeatureSettings
from whycluster.clustering.features import FeatureStore, sample_rows, sample_size
from whycluster.clustering.how_many import choose_n_clusters, numbers_of_clusters
from whycluster.clustering.kernel_kmeans import KernelKMeans, check_gamma
from whycluster.clustering.kmeans import KMeans
from whycluster.clustering.soft_distances import assign_softly
from whycluster.clustering.stability import refit_kmeans, refit_spherical_kmeans
from whycluster.data import has_labels
from whycluster.errors import UserError, real_number, whole_number
from whycluster.heads import Beta, NeuralizedKernelKMeans, NeuralizedKMeans
from whycluster.heads.beta import user_beta
from whycluster.runs.fitting import Fitted, Fitting, ToCluster, check_size, fit_kmeans, nearest_centroid, with_beta
from whycluster.runs.ranks import by_first

KERNEL_ROWS = 2000  # of which kernel k-means is fitted again, to tell how stable its clusters are


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
        check_clusterer(self, may_choose=True)
        real_number("head.tol", self.tol, least=0)

    def check_input(self, backbone: Backbone, features: FeatureSettings, labels: Sequence[str], what: str) -> None:
        check_size(self.n_clusters, len(labels), what)

    def fit(self, given: ToCluster, fitting: Fitting, seed: int) -> Fitted:
        n_clusters, figures = _chosen(self.n_clusters, given.features, fitting, seed)
        lloyd = KMeans(given.features, n_clusters, self.n_init, self.max_iter, self.tol, seed, self.spherical)
        fit_kmeans(lloyd, fitting)
        centroids = lloyd.centroids.cpu()
        head = with_beta(NeuralizedKMeans(centroids), self.beta, given.features)
        figures |= {"inertia": lloyd.inertia, "n_iter": lloyd.n_iter}
        refit = refit_spherical_kmeans if self.spherical else refit_kmeans
        return Fitted(head, nearest_centroid(centroids), figures, refit=refit(n_clusters))

    def settings(self) -> dict[str, Any]:
        return {"name": "spherical_kmeans" if self.spherical else "kmeans", **asdict(self)}


@dataclass(frozen=True)
class SphericalKMeansClusterer(KMeansClusterer):
    """Spherical k-means (Dhillon and Modha 2001, doi 10.1023/A:1007612920971): k-means of vectors of length 1, whose
    centroids are kept at length 1, too. The nearest centroid is that of the largest cosine.
    """

    spherical: ClassVar[bool] = True

    def check_input(self, backbone: Backbone, features: FeatureSettings, labels: Sequence[str], what: str) -> None:
        super().check_input(backbone, features, labels, what)
        if features.normalize != "l2":
            raise UserError("head=spherical_kmeans clusters vectors of length 1; leave features.normalize at l2.")


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

    def __post_init__(self) -> None:
        check_clusterer(self)
        check_gamma(self.gamma)
        if self.max_supports is not None:
            whole_number("head.max_supports", self.max_supports, self.n_clusters)

    def check_input(self, backbone: Backbone, features: FeatureSettings, labels: Sequence[str], what: str) -> None:
        check_size(self.n_clusters, len(labels), what)

    def fit(self, given: ToCluster, fitting: Fitting, seed: int) -> Fitted:
        settings = asdict(self)
        del settings["beta"]
        model = KernelKMeans(**settings, random_state=seed).fit(given.features.open())
        fitting.logger.log_metrics({"kernel_kmeans/inertia": model.inertia_}, step=model.n_iter_)
        supports, clusters = torch.from_numpy(model.supports_).double(), torch.from_numpy(model.support_labels_)

        def nearest(x: Tensor) -> tuple[Tensor, Tensor]:
            return assign_softly(x.double(), supports, clusters, model.gamma_)

        figures = {"inertia": model.inertia_, "n_iter": model.n_iter_, "gamma": model.gamma_}
        figures |= {"n_supports": len(supports), "agreement_of_supports": model.agreement_}
        head = with_beta(NeuralizedKernelKMeans(supports, clusters, model.gamma_), self.beta, given.features)
        again = settings | {"gamma": model.gamma_, "n_init": 1, "max_supports": None}

        def refit(rows: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
            # Drawn in random order, so that the first ones are a sample; a fit takes all pairs of its rows.
            return KernelKMeans(**again, random_state=seed).fit(rows[: max(KERNEL_ROWS, self.n_clusters)]).predict

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

    def __post_init__(self) -> None:
        check_clusterer(self)

    def check_input(self, backbone: Backbone, features: FeatureSettings, labels: Sequence[str], what: str) -> None:
        check_size(self.n_clusters, len(labels), what)
        self._check_labels([label for label in labels if label])  # a file without one may not be an image

    def fit(self, given: ToCluster, fitting: Fitting, seed: int) -> Fitted:
        features, labels = given.features, given.labels
        self._check_labels(labels)
        groups, of_row = np.unique(np.asarray(labels), return_inverse=True)
        means = features.means(of_row, len(groups))
        head = with_beta(NeuralizedKMeans(means), self.beta, features)
        return Fitted(head, nearest_centroid(means), {}, groups.tolist())

    def settings(self) -> dict[str, Any]:
        return {"name": "group_means", **asdict(self)}

    def _check_labels(self, labels: Sequence[str]) -> None:
        if not has_labels(labels):
            raise UserError(
                "head=group_means takes the labels of images for groups, and not all images have one of two; lay "
                "each group into a sub-folder of its own, or take head=kmeans."
            )


def _chosen(n_clusters: int | str, features: FeatureStore, fitting: Fitting, seed: int) -> tuple[int, dict[str, Any]]:
    """The number of clusters, chosen where it is to be chosen, and what `metrics.json` says about the choice."""
    numbers = numbers_of_clusters(n_clusters)
    if len(numbers) == 1:
        return numbers[0], {}
    sample = sample_rows(len(features), sample_size(features.n_features, numbers[-1]), seed)
    choice = by_first(
        lambda: choose_n_clusters(features.rows(sample), numbers, seed)
    )  # processes may round differently
    curve = [one._asdict() for one in choice.curve]
    for row in curve:
        named = {f"how_many/{name}": value for name, value in row.items() if name != "n_clusters"}
        fitting.logger.log_metrics(named, step=row["n_clusters"])
    return choice.n_clusters, {"how_many": curve, "how_many_sure": choice.sure, "how_many_verdict": choice.verdict}


def check_clusterer(head: Any, may_choose: bool = False) -> None:
    """Checks the settings that clusterings share; some may choose the number of clusters.

    Raises:
        UserError: for the first that makes no sense.
    """
    if isinstance(head.n_clusters, str) and not may_choose:
        raise UserError(
            f"head.n_clusters={head.n_clusters!r} should be a number; only head=kmeans and head=spherical_kmeans "
            "choose one."
        )
    numbers_of_clusters(head.n_clusters)
    for name in ("n_init", "max_iter"):
        if hasattr(head, name):
            whole_number(f"head.{name}", getattr(head, name), 1)
    user_beta(head.beta, "head.beta")
