"""Deep embedded clustering for the train command: fitted, neuralized, and with the features of the trained backbone."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from whycluster.backbones import Backbone
from whycluster.backbones.stage import default_stage, stage_parameters
from whycluster.clustering.dec import DecSettings, DeepEmbeddedClustering, Inputs
from whycluster.clustering.extraction import features_in
from whycluster.clustering.feature_steps import FeatureSettings
from whycluster.clustering.features import FeatureStore
from whycluster.clustering.kmeans import KMeans
from whycluster.clustering.stability import refit_kmeans
from whycluster.data import PreparedImages, Shards
from whycluster.data.augmentation import AugmentedImages
from whycluster.errors import UserError, real_number, whole_number
from whycluster.heads import Beta, NeuralizedKMeans
from whycluster.runs.clusterers import check_clusterer
from whycluster.runs.extracting import compute_features
from whycluster.runs.fitting import (
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

Transform = Callable[[Tensor], Tensor]
SAME = 1e-10  # of the scatter: what rounding leaves within clusters of one image each
CURE = "raise head.anchor, lower head.learning_rate, or take head.finetune=null."


class Start(NamedTuple):
    """The k-means that a fit begins with.

    Attributes:
        centroids: `(K, D)` float64.
        clusters: `(N,)`.
        spread: mean squared distance of a row to its centroid.
    """

    centroids: Tensor
    clusters: Tensor
    spread: float


@dataclass(frozen=True)
class DecClusterer:
    """Deep embedded clustering: k-means, then centroids and the last stage of the backbone learned together.

    Attributes:
        n_clusters: `K`.
        finetune: the stage of the backbone to train, or several, by the names of modules; `auto`: see
            `default_stage`; `None` or none: centroids alone, on the features as they are.
        augment: transforms of images `(3, H, W)` uint8, applied in turn to each image of a training step.
        alpha: degrees of freedom of the Student-t kernel.
        sharpness: squared distances are multiplied by it, in units of the mean squared distance to the centroid.
        anchor: weight of the squared distance of features from where they began.
        learning_rate: of the stage.
        centroid_rate: of the centroids.
        batch_size: images of a training step, in all processes together.
        max_epochs: at most.
        tol: the fit ends when at most this fraction of the images changed their cluster in each of the last epochs.
        n_init: restarts of the k-means that it begins with.
        beta: stiffness of the head; `auto`: `1 / E[f_c]` over the features.

    Raises:
        UserError: for settings that make no sense.
    """

    n_clusters: int
    finetune: str | Sequence[str] | None = "auto"
    augment: Sequence[Transform] = ()
    alpha: float = 10.0
    sharpness: float = 10.0
    anchor: float = 1.0
    learning_rate: float = 3e-5
    centroid_rate: float = 1e-2
    batch_size: int = 64
    max_epochs: int = 50
    tol: float = 1e-3
    n_init: int = 10
    beta: Beta = "auto"

    def __post_init__(self) -> None:
        check_clusterer(self)
        for name in ("batch_size", "max_epochs"):
            whole_number(f"head.{name}", getattr(self, name), 1)
        for name in ("alpha", "sharpness", "learning_rate", "centroid_rate"):
            real_number(f"head.{name}", getattr(self, name), above=0)
        for name in ("anchor", "tol"):
            real_number(f"head.{name}", getattr(self, name), least=0)
        listed = self.finetune is None or isinstance(self.finetune, Sequence)
        if not listed or not all(isinstance(name, str) for name in self._names()):
            raise UserError(f"head.finetune={self.finetune!r} should be the name of a module, a list, or null.")
        if not isinstance(self.augment, Sequence) or not all(callable(transform) for transform in self.augment):
            raise UserError(
                f"head.augment={self.augment!r} should be a list of transforms, each with its _target_, or []."
            )
        if self.augment and not self._names():
            raise UserError("head.augment changes images, and head.finetune=null reads none: set head.augment=[].")

    def check_input(self, backbone: Backbone, features: FeatureSettings, labels: Sequence[str], what: str) -> None:
        check_size(self.n_clusters, len(labels), what)
        stage_parameters(backbone.network.network, self._stages(backbone))

    def fit(self, given: ToCluster, fitting: Fitting, seed: int) -> Fitted:
        stages = self._stages(given.backbone)
        stage = stage_parameters(given.backbone.network.network, stages)
        start = self._start(given.features, fitting, seed)
        learned = self._module(given, start, bool(stage), seed)
        try:
            for parameter in stage:
                parameter.requires_grad_(True)
            fitting(learned, self.max_epochs, "dec")
        finally:
            given.backbone.requires_grad_(False)
        if not learned.has_settled and learned.n_iter < self.max_epochs:
            raise UserError("the trainer stopped before head=dec had ended; leave out what limits its steps or time.")
        if stages:
            given.backbone.origin["finetuned"] = stages
        centroids = learned.centroids.detach().cpu().double()
        warn_of_collapse(learned.clusters.numpy(), start.clusters.numpy(), self.n_clusters, CURE)
        features = _learned_features(given, fitting) if stage else given.features
        head = with_beta(NeuralizedKMeans(centroids), self.beta, features)
        figures = {"n_iter": learned.n_iter, "changed": learned.changed}
        learned_features, baseline = features if stage else None, start.clusters.numpy()
        refit = refit_kmeans(self.n_clusters)
        return Fitted(head, nearest_centroid(centroids), figures, None, learned_features, baseline, refit)

    def _start(self, features: FeatureStore, fitting: Fitting, seed: int) -> Start:
        kmeans = KMeans(features, self.n_clusters, self.n_init, seed=seed)
        fit_kmeans(kmeans, fitting)
        if not kmeans.inertia > SAME * kmeans.scatter:
            raise UserError(f"head.n_clusters={self.n_clusters} is the number of different images, or more; lower it.")
        centroids = kmeans.centroids.cpu()
        clusters = torch.from_numpy(clusters_of(features, nearest_centroid(centroids)))
        return Start(centroids, clusters, kmeans.inertia / len(features))

    def settings(self) -> dict[str, Any]:
        lists = {"finetune": self._names(), "augment": [repr(transform) for transform in self.augment]}
        return {"name": "dec", **asdict(self), **lists}

    def _names(self) -> list[str]:
        """Returns the stages to train as they were asked for."""
        if self.finetune is None:
            return []
        return [self.finetune] if isinstance(self.finetune, str) else list(self.finetune)

    def _stages(self, backbone: Backbone) -> list[str]:
        """Returns the modules of the backbone to train."""
        return [default_stage(backbone.network.network) if name == "auto" else name for name in self._names()]

    def _module(self, given: ToCluster, start: Start, trains: bool, seed: int) -> DeepEmbeddedClustering:
        numbers = DecSettings(
            alpha=self.alpha,
            spread=start.spread,
            sharpness=self.sharpness,
            anchor=self.anchor,
            learning_rate=self.learning_rate,
            centroid_rate=self.centroid_rate,
            batch_size=self.batch_size,
            tol=self.tol,
            seed=seed,
        )
        embed: nn.Module = nn.Identity()
        clean: Inputs = _Rows(given.features)
        augmented = clean
        if trains:
            embed = nn.Sequential(given.backbone, given.steps)
            clean = AugmentedImages(given.images, None, seed)
            augmented = AugmentedImages(given.images, v2.Compose(self.augment) if self.augment else None, seed)
        return DeepEmbeddedClustering(
            embed, clean, augmented, given.features, start.centroids, numbers, given.num_workers
        )


class _Rows:
    """Features in the place of images, where no backbone is trained."""

    def __init__(self, features: FeatureStore) -> None:
        self.features = features

    def __call__(self, rows: np.ndarray, epoch: int) -> Tensor:
        return torch.from_numpy(self.features.rows(rows))


def _learned_features(given: ToCluster, fitting: Fitting) -> FeatureStore:
    """Computes the features of all images by the trained backbone, going on behind those that are done."""
    images, file = PreparedImages(given.images.collection, given.images.prepare), fitting.folder / "learned.npy"
    shards = Shards(fitting.folder / "learned", len(images))

    def write(rows: np.ndarray) -> None:
        if rows.tolist() != list(given.images.rows):
            raise UserError("some images could be read when the run began, others now; begin anew in another folder.")
        if not file.exists():
            FeatureStore.write(file, features_in(shards), len(rows), given.features.n_features)

    embed, trainer = nn.Sequential(given.backbone, given.steps), partial(fitting.trainer, precision="32-true")
    compute_features(embed, images, shards, trainer, given.batch_size, given.num_workers, write)
    return FeatureStore(file)
