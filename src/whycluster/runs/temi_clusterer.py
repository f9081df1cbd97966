"""TEMI for the train command: fitted, neuralized, and beside k-means."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from whycluster.backbones import Backbone
from whycluster.clustering.feature_steps import FeatureSettings
from whycluster.clustering.kmeans import KMeans
from whycluster.clustering.stability import refit_kmeans
from whycluster.clustering.temi import Temi
from whycluster.clustering.temi_heads import MEAN_SHARE, TemiSettings
from whycluster.errors import UserError
from whycluster.heads import Beta, NeuralizedLinear
from whycluster.runs.clusterers import check_clusterer
from whycluster.runs.fitting import (
    Assign,
    Fitted,
    Fitting,
    ToCluster,
    check_size,
    clusters_of,
    fit_kmeans,
    nearest_centroid,
    warn_of_collapse,
    with_beta,
)


@dataclass(frozen=True, kw_only=True)
class TemiClusterer(TemiSettings):
    """TEMI: prototypes that give neighbouring images the same cluster; k-means is fitted, too, as the baseline.

    Attributes:
        n_clusters: `K`.
        beta: stiffness of the head; `auto`: `1 / E[f_c]` over the features.

    Raises:
        UserError: for settings that make no sense.
    """

    n_clusters: int
    beta: Beta = "auto"

    def __post_init__(self) -> None:
        self.check("head.")
        check_clusterer(self)

    def check_input(self, backbone: Backbone, features: FeatureSettings, labels: Sequence[str], what: str) -> None:
        check_size(self.n_clusters, len(labels), what)
        if len(labels) <= self.n_neighbours:
            raise UserError(f"head.n_neighbours={self.n_neighbours} should be < the number of {what}, {len(labels)}.")

    def fit(self, given: ToCluster, fitting: Fitting, seed: int) -> Fitted:
        features = given.features
        kmeans = KMeans(features, self.n_clusters, seed=seed)
        fit_kmeans(kmeans, fitting)
        if kmeans.scatter == 0:
            raise UserError("all images have the same features; there is nothing to cluster.")
        settings = TemiSettings(**{field.name: getattr(self, field.name) for field in fields(TemiSettings)})
        origin = MEAN_SHARE * kmeans.mean
        temi = Temi(features, self.n_clusters, origin, settings, seed)
        fitting(temi, self.epochs, "temi")
        if temi.heads.step < self.epochs * temi.steps:
            raise UserError("the trainer stopped before TEMI had ended; leave out what limits its steps or time.")
        prototypes = temi.heads.prototypes.cpu()
        assign = _most_similar(prototypes, origin)
        baseline = clusters_of(features, nearest_centroid(kmeans.centroids.cpu()))
        warn_of_collapse(clusters_of(features, assign), baseline, self.n_clusters, "see docs/deep_clustering.md.")
        # argmax_k <p_k, (x - o) / |x - o|> = argmax_k p_k·x - p_k·o
        head = with_beta(NeuralizedLinear(prototypes, -prototypes @ origin, centre=origin), self.beta, features)
        figures = {"loss": float(temi.heads.loss.min())}
        return Fitted(head, assign, figures, baseline=baseline, refit=refit_kmeans(self.n_clusters))

    def settings(self) -> dict[str, Any]:
        return {"name": "temi", **asdict(self)}


def _most_similar(prototypes: Tensor, origin: Tensor) -> Assign:
    """Features `(N, D)` `->` the most similar prototype, and the squared distance to it on the unit sphere."""

    def assign(x: Tensor) -> tuple[Tensor, Tensor]:
        similarity, cluster = (F.normalize(x.double() - origin) @ prototypes.T).max(1)
        return cluster, 2 - 2 * similarity

    return assign
