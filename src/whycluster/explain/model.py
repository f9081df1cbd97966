"""The saved model: backbone, feature steps and head in one file that needs nothing else."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from whycluster.backbones import Backbone, check_restorable, restore_backbone
from whycluster.clustering.feature_steps import FeatureSteps
from whycluster.errors import UserError
from whycluster.files import write_tensors
from whycluster.heads import Head, NeuralizedKernelKMeans, NeuralizedKMeans, NeuralizedLinear
from whycluster.heads.pooling import best_two

FORMAT = "whycluster model"
FORMAT_VERSION = 3  # since channels may be dropped; files of 1 have no feature steps
FILE_NAME = "model.ckpt"

# Kind of a head in a file `->` its class, and the names of its arguments besides beta.
HEADS: dict[str, tuple[type[Head], tuple[str, ...]]] = {
    "kmeans": (NeuralizedKMeans, ("centroids",)),
    "kernel_kmeans": (NeuralizedKernelKMeans, ("supports", "labels", "gamma")),
    "linear": (NeuralizedLinear, ("weight", "bias", "centre")),
}


class Assignment(NamedTuple):
    """The clusters that images belong to.

    Attributes:
        cluster: the nearest cluster, `(N,)`.
        discriminant: its `f_c`, `(N,)`, never negative: how much nearer it is than the runner-up.
        probability: soft assignment to it, `(N,)`.
        runner_up: the second nearest cluster, `(N,)`.
    """

    cluster: Tensor
    discriminant: Tensor
    probability: Tensor
    runner_up: Tensor


class ClusterModel(nn.Module):
    """Images `->` discriminants, as a network: a backbone, the steps that its features take, and their neuralized
    clustering.

    Args:
        backbone: images `(N, 3, H, W)` `->` features `(N, D)`.
        head: features after the steps, `(N, D')`, `->` discriminants `(N, K)`.
        source: the collection that the centroids were fitted on (see `open_collection`).
        seed: the seed of the fit.
        versions: of the software that made the model; `None`: the versions that are running.
        groups: names of the clusters, where they are known groups.
        images: the `fingerprint` of that collection.
        steps: from backbone to head; `None`: the head takes the features as they are.

    Raises:
        UserError: if steps or head take other features than they are given.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        source: dict[str, Any] | None = None,
        seed: int | None = None,
        versions: dict[str, str] | None = None,
        groups: list[str] | None = None,
        images: dict[str, Any] | None = None,
        steps: FeatureSteps | None = None,
    ) -> None:
        super().__init__()
        steps = FeatureSteps(backbone.widths, normalise=False) if steps is None else steps
        if steps.widths != backbone.widths:
            raise UserError(
                f"the backbone gives features {backbone.widths}, and the feature steps take {steps.widths}."
            )
        if head.n_features != steps.n_features:
            given = "the feature steps give" if steps.components is not None else "the backbone gives"
            raise UserError(f"{given} {steps.n_features} features, and the head takes {head.n_features}.")
        self.backbone = backbone
        self.steps = steps
        self.head = head
        self.source = source
        self.seed = seed
        self.versions = versions or running_versions()
        self.groups = groups
        self.images = images

    @property
    def n_clusters(self) -> int:
        """The number of clusters, `K`."""
        return self.head.n_clusters

    def forward(self, images: Tensor) -> Tensor:
        """Computes discriminants `(N, K)` of images `(N, 3, H, W)`, uint8 or floats from 0 to 1."""
        discriminants: Tensor = self.head(self.features(images))
        return discriminants

    def features(self, images: Tensor) -> Tensor:
        """Computes what is clustered, the features after the steps `(N, D')`, of images `(N, 3, H, W)`."""
        features: Tensor = self.steps(self.backbone(images))
        return features

    def assign(self, features: Tensor) -> Assignment:
        """Assigns images with these features after the steps, `(N, D')`, to clusters."""
        discriminants, probabilities = self.head(features), self.head.probability(features)
        cluster, runner_up = best_two(discriminants)
        discriminant, probability = (v.gather(1, cluster[:, None])[:, 0] for v in (discriminants, probabilities))
        return Assignment(cluster, discriminant, probability, runner_up)

    def save(self, path: str | Path) -> None:
        """Writes the model to a file, whole or not at all.

        Raises:
            UserError: for a head of a kind that no file holds, or a backbone that was not built by name.
        """
        check_restorable(self.backbone.origin)
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "backbone": self.backbone.origin,
            "network": {key: tensor.cpu() for key, tensor in self.backbone.network.state_dict().items()},
            "steps": self.steps.content(),
            "head": _head_content(self.head),
            "source": self.source,
            "seed": self.seed,
            "versions": self.versions,
            "groups": self.groups,
            "images": self.images,
        }
        write_tensors(Path(path), content)

    @classmethod
    def load(cls, path: str | Path) -> "ClusterModel":
        """Reads a model on the CPU; nothing in the file is executed, and nothing else is needed.

        Args:
            path: the file, or a run folder with `model.ckpt` in it.

        Raises:
            UserError: if there is none, or the file is damaged or no model of this program.
        """
        try:
            content = _read(Path(path).expanduser())
            return cls(
                restore_backbone(content["backbone"], content["network"]),
                _restored_head(content["head"]),
                content["source"],
                content["seed"],
                content["versions"],
                content.get("groups"),
                content.get("images"),
                FeatureSteps(**content["steps"]) if "steps" in content else None,
            )
        except (AttributeError, KeyError, TypeError, RuntimeError) as error:
            raise UserError(f"the checkpoint {str(path)!r} is incomplete or damaged ({error!r:.200}).") from error


def running_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that a result depends on."""
    packages = ("whycluster", "torch", "torchvision", "scikit-learn", "numpy", "pillow")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def _head_content(head: Head) -> dict[str, Any]:
    """Converts a head to tensors and numbers."""
    for kind, (made, arguments) in HEADS.items():
        if type(head) is made and getattr(head, "duals", None) is None:
            values = {name: getattr(head, name).cpu() for name in arguments}
            numbers = {name: value.item() for name, value in values.items() if value.ndim == 0}
            return {"kind": kind, **values, **numbers, "beta": float(head.beta)}
    raise UserError(
        f"a model with a {type(head).__name__} of this kind cannot be saved; use k-means or kernel k-means."
    )


def _restored_head(content: dict[str, Any]) -> Head:
    kind = content["kind"]
    if kind not in HEADS:
        raise UserError(f"it has a head of kind {kind!r}; this version reads {', '.join(HEADS)}.")
    made, arguments = HEADS[kind]
    return made(**{name: content[name] for name in (*arguments, "beta")})


def _read(path: Path) -> dict[str, Any]:
    """Reads the tensors, numbers and strings of a model file."""
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"there is no checkpoint {str(file)!r}; a train run makes one.")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged files torch, pickle and zip raise errors of many kinds
        raise UserError(
            f"{str(file)!r} is not a checkpoint of whycluster, or damaged ({type(error).__name__})."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{str(file)!r} is not a checkpoint of whycluster; it wants the model.ckpt of a train run.")
    if content["format_version"] not in range(1, FORMAT_VERSION + 1):
        raise UserError(
            f"the checkpoint {str(file)!r} has format {content['format_version']}, and this version reads 1 to "
            f"{FORMAT_VERSION}; use the whycluster that wrote it, {content['versions'].get('whycluster')}."
        )
    return content
