"""Backbones by name: any torchvision classification model, or the small one that ships with the package."""

import difflib
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import WeightsEnum, get_model, get_model_weights

from whycluster.backbones import glyphnet, timm_models
from whycluster.backbones.backbone import Backbone
from whycluster.backbones.preprocessing import Preprocessing
from whycluster.backbones.weights import Weights, check_finite, differences, load
from whycluster.errors import UserError

GLYPHNET = "glyphnet"
# For these two, torchvision by default draws weights from a slow distribution, and maps the inputs of a published
# network from the usual mean and deviation to 0.5 and 0.5; here the preprocessing uses the latter directly.
INCEPTIONS = ("googlenet", "inception_v3")


def build_backbone(
    name: str,
    weights: str | None,
    layer: str | Sequence[str] | None = None,
    pool: str | None = None,
    preprocessing: str | None = None,
) -> Backbone:
    """Builds a backbone by name.

    Args:
        name: `glyphnet`, or a classification model of torchvision; for those of timm see `build_timm_backbone`.
        weights: the name of torchvision weights (`DEFAULT`, `IMAGENET1K_V1`, …); a file with a `state_dict`, with or
            without a classifier, also as trainers wrap it (see `whycluster.backbones.weights`); or `None` for random
            weights.
        layer: where the network is cut, a module or a function in it, or several, whose features are joined; `None`:
            see `default_layer`.
        pool: `cls`, `avg`, `sum`, `max` or `flatten`; `None`: what suits the network. See `Backbone`.
        preprocessing: the name of the torchvision weights whose preprocessing a weights file needs; `None`: that of the
            weights that torchvision publishes under the same file name, else of the first.

    Raises:
        UserError: for an unknown name, weights that cannot be had or do not fit, an unknown layer or pool.
    """
    _check_name(name)
    prepare = _preprocessing(name, weights, preprocessing)
    if weights is None:
        warnings.warn(f"{name} has random weights (backbone.weights=null): its clusters mean nothing.", stacklevel=2)
        network: nn.Module = glyphnet.GlyphNet() if name == GLYPHNET else get_model(name, weights=None)
        return Backbone(network, prepare, layer, pool, {"name": name, "weights": None, "weights_sha256": None})
    path = _path(name, weights)
    read = Weights.read(path)
    network = _network(name)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    backbone = Backbone(network, prepare, layer, pool, {"name": name, "weights": weights, "weights_sha256": sha256})
    read.load_into(backbone.network, network, name)
    check_finite(backbone.network, weights)
    return backbone


def restore_backbone(origin: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> Backbone:
    """Builds the backbone that has this `origin`, with its weights; nothing is read or downloaded.

    Raises:
        UserError: if they do not fit together.
    """
    if _is_of_timm(origin):
        network = timm_models.create(origin["name"], origin["image_size"])
    elif origin["name"] == GLYPHNET:
        network = glyphnet.GlyphNet(batch_norm="network.features.0.bias" in state_dict)  # as in earlier versions
    else:
        _check_name(origin["name"])
        network = _network(origin["name"])
    prepare = Preprocessing.from_plain(origin["preprocessing"])
    rest = {key: value for key, value in origin.items() if key not in ("layer", "pool", "preprocessing")}
    backbone = Backbone(network, prepare, origin["layer"], origin["pool"], rest)
    wanted = backbone.network.state_dict()
    wrong = differences(wanted, state_dict, {f"network.{key}": value for key, value in network.state_dict().items()})
    if wrong:
        raise UserError(f"the saved weights do not fit {origin['name']} up to {origin['layer']}: {wrong}.")
    load(backbone.network, state_dict)
    return backbone


def check_restorable(origin: Mapping[str, Any]) -> None:
    """Checks that a backbone of this origin can be restored from a file.

    Raises:
        UserError: if it was not built by name: a file holds weights, never the code of a network.
    """
    if not _is_of_timm(origin) and origin.get("name") not in names():
        raise UserError(
            f"a backbone of one's own (name={origin.get('name')!r}) cannot be saved, as a file holds no code to build "
            "it again; build it by name with build_backbone, or save what the head holds with torch.save."
        )


def _is_of_timm(origin: Mapping[str, Any]) -> bool:
    return origin.get("library") == "timm"


def names() -> list[str]:
    """Lists all names that `build_backbone` takes."""
    return [GLYPHNET, *models.list_models(module=models)]


def _check_name(name: str) -> None:
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0)
        raise UserError(f"backbone.name={name!r} is unknown; the nearest are {', '.join(near)}.")


def _network(name: str) -> nn.Module:
    """Builds the network with random weights."""
    if name == GLYPHNET:
        return glyphnet.GlyphNet()
    network: nn.Module = get_model(name, weights=None, **({"init_weights": False} if name in INCEPTIONS else {}))
    return network


def _published(name: str, weights: str | None, preprocessing: str | None) -> WeightsEnum:
    """Returns the torchvision weights whose preprocessing is used."""
    published = get_model_weights(name)
    wanted = preprocessing or weights
    if wanted in published.__members__:
        return published[wanted]
    if preprocessing is not None:
        raise UserError(
            f"backbone.preprocessing={preprocessing!r} is unknown; {name} has {', '.join(published.__members__)}."
        )
    same_file = [entry for entry in published if weights and entry.url.endswith(f"/{Path(weights).name}")]
    return (same_file or list(published))[0]


def _preprocessing(name: str, weights: str | None, preprocessing: str | None) -> Preprocessing:
    if name == GLYPHNET:
        return Preprocessing(glyphnet.IMAGE_SIZE, glyphnet.IMAGE_SIZE, glyphnet.MEAN, glyphnet.STD)
    published = Preprocessing.of_transforms(_published(name, weights, preprocessing).transforms())
    return replace(published, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)) if name in INCEPTIONS else published


def _path(name: str, weights: str) -> Path:
    """Returns the file of these weights; published weights are downloaded if necessary."""
    if name == GLYPHNET and weights == "DEFAULT":
        return glyphnet.WEIGHTS
    published = [] if name == GLYPHNET else get_model_weights(name).__members__
    if weights in published:
        return _fetched(name, get_model_weights(name)[weights])
    path = Path(weights).expanduser()
    if not path.is_file():
        known = "DEFAULT" if name == GLYPHNET else ", ".join(published)
        raise UserError(f"backbone.weights={str(path)!r} is neither a file nor weights of {name} ({known}).")
    return path


def _fetched(name: str, weights: WeightsEnum) -> Path:
    """Returns the file of published weights, from torch's cache or downloaded once from torchvision's address."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(weights.url, str(path), hash_prefix=path.stem.rsplit("-")[-1])
        except (OSError, HTTPException, RuntimeError) as error:  # no connection, a broken one, a wrong hash
            raise UserError(
                f"the weights {weights.name} of {name} could not be fetched ({error}); put the file {path.name} "
                f"into {path.parent}, or give its path as backbone.weights=/path/to/{path.name}."
            ) from error
    return path
