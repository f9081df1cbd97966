"""Backbones by name: any torchvision CNN, or the small one that ships with the package."""

import difflib
import hashlib
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import WeightsEnum, get_model, get_model_weights

from whycluster.backbones import glyphnet
from whycluster.backbones.backbone import Backbone
from whycluster.backbones.preprocessing import Preprocessing

GLYPHNET = "glyphnet"
# For these two, torchvision first draws from a slow distribution what is overwritten anyway, and has a published
# network map its input from the usual mean and deviation to 0.5 and 0.5; here the preprocessing has these at once.
INCEPTIONS = ("googlenet", "inception_v3")
# Files of densely connected networks, the published ones among them, have names from before modules were renamed.
OLD_DENSE_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


def build_backbone(
    name: str,
    weights: str | None,
    layer: str | None = None,
    pool: str = "avg",
    preprocessing: str | None = None,
) -> Backbone:
    """Builds a backbone.

    Args:
        name: `glyphnet`, or a classification model of torchvision.
        weights: the name of torchvision weights (`DEFAULT`, `IMAGENET1K_V1`, …); a file with a `state_dict`, also under
            the key `state_dict` or as `DataParallel` writes it; or `None` for random weights.
        layer: where the network is cut, a node of its traced graph; `None`: before its last pooling over places.
        pool: `avg`, `sum`, `max` or `flatten`, over places; without effect at a layer that has none.
        preprocessing: the name of the torchvision weights whose preprocessing a weights file wants; `None`: of those
            that torchvision publishes under the same file name, else of the first.

    Raises:
        ValueError: for an unknown name, weights that cannot be had or do not fit, an unknown layer or pool.
    """
    _check_name(name)
    prepare = _preprocessing(name, weights, preprocessing)
    network, sha256 = _load(name, weights)
    origin = {"name": name, "weights": weights, "weights_sha256": sha256}
    backbone = Backbone(network, prepare, layer, pool, origin)
    _check_finite(backbone)
    return backbone


def restore_backbone(origin: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> Backbone:
    """The backbone that has this `origin`, with its weights; nothing is read or fetched from elsewhere.

    Raises:
        ValueError: if they do not fit together.
    """
    _check_name(origin["name"])
    backbone = Backbone(
        _network(origin["name"]),
        Preprocessing.from_plain(origin["preprocessing"]),
        origin["layer"],
        origin["pool"],
        {key: origin[key] for key in ("name", "weights", "weights_sha256")},
    )
    wrong = _differences(backbone.network.state_dict(), state_dict)
    if wrong:
        raise ValueError(f"the saved weights do not fit {origin['name']} up to {origin['layer']}: {wrong}.")
    backbone.network.load_state_dict(state_dict)
    return backbone


def check_restorable(origin: Mapping[str, Any]) -> None:
    """Makes sure that a backbone of this origin can be restored from a file.

    Raises:
        ValueError: if it was not built by name: a file holds weights, never the code of a network.
    """
    if origin.get("name") not in names():
        raise ValueError(
            f"a backbone of one's own (name={origin.get('name')!r}) cannot be saved, as a file holds no code to build "
            "it again; build it by name with build_backbone, or save what the head holds with torch.save."
        )


def names() -> list[str]:
    """All names that `build_backbone` takes."""
    return [GLYPHNET, *models.list_models(module=models)]


def _check_name(name: str) -> None:
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0)
        raise ValueError(f"backbone.name={name!r} is unknown; the nearest are {', '.join(near)}.")


def _network(name: str) -> nn.Module:
    """The network with random weights."""
    if name == GLYPHNET:
        return glyphnet.GlyphNet()
    network: nn.Module = get_model(name, weights=None, **({"init_weights": False} if name in INCEPTIONS else {}))
    return network


def _published(name: str, weights: str | None, preprocessing: str | None) -> WeightsEnum:
    """The torchvision weights whose preprocessing counts."""
    published = get_model_weights(name)
    wanted = preprocessing or weights
    if wanted in published.__members__:
        return published[wanted]
    if preprocessing is not None:
        raise ValueError(
            f"backbone.preprocessing={preprocessing!r} is unknown; {name} has {', '.join(published.__members__)}."
        )
    same_file = [entry for entry in published if weights and entry.url.endswith(f"/{Path(weights).name}")]
    return (same_file or list(published))[0]


def _preprocessing(name: str, weights: str | None, preprocessing: str | None) -> Preprocessing:
    if name == GLYPHNET:
        return Preprocessing(glyphnet.IMAGE_SIZE, glyphnet.IMAGE_SIZE, glyphnet.MEAN, glyphnet.STD)
    published = Preprocessing.of_transforms(_published(name, weights, preprocessing).transforms())
    return replace(published, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)) if name in INCEPTIONS else published


def _load(name: str, weights: str | None) -> tuple[nn.Module, str | None]:
    """The network with its weights, and the hash of the file they came from."""
    if weights is None:
        warnings.warn(f"{name} has random weights (backbone.weights=null): its clusters mean nothing.", stacklevel=3)
        network: nn.Module = get_model(name, weights=None) if name != GLYPHNET else glyphnet.GlyphNet()
        return network, None
    if name == GLYPHNET and weights == "DEFAULT":
        path = glyphnet.WEIGHTS
    elif name != GLYPHNET and weights in get_model_weights(name).__members__:
        path = _fetched(name, get_model_weights(name)[weights])
    else:
        path = Path(weights).expanduser()
    network = _network(name)
    _fill(network, path, name)
    return network, hashlib.sha256(path.read_bytes()).hexdigest()


def _fetched(name: str, weights: WeightsEnum) -> Path:
    """The file of published weights, from torch's own cache or, once, from where torchvision publishes it."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(weights.url, str(path), hash_prefix=path.stem.rsplit("-")[-1])
        except (OSError, HTTPException, RuntimeError) as error:  # no way there, a broken way, a wrong hash
            raise ValueError(
                f"the weights {weights.name} of {name} could not be fetched ({error}); put the file {path.name} "
                f"into {path.parent}, or give its path as backbone.weights=/path/to/{path.name}."
            ) from error
    return path


def _fill(network: nn.Module, path: Path, name: str) -> None:
    """Reads a `state_dict` file into a network; nothing in the file is executed.

    Raises:
        ValueError: in one sentence, if the file is missing, damaged or of another network.
    """
    if not path.is_file():
        known = "DEFAULT" if name == GLYPHNET else ", ".join(get_model_weights(name).__members__)
        raise ValueError(f"backbone.weights={str(path)!r} is neither a file nor weights of {name} ({known}).")
    state_dict = _read(path)
    fitting = network.state_dict()
    wrong = _differences(fitting, state_dict)
    if wrong:
        raise ValueError(f"the weights file {str(path)!r} does not fit {name}: {wrong}.")
    fitting.update(state_dict)  # a mapping of the network's own: it has what files may lack, such as batch counters
    network.load_state_dict(fitting)


def _read(path: Path) -> dict[str, Tensor]:
    """The `state_dict` of a file, without the wrappings that are usual around it."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (PermissionError, IsADirectoryError) as error:
        raise ValueError(f"the weights file {str(path)!r} cannot be read: {error.strerror}.") from error
    except Exception as error:  # a damaged file makes torch, pickle and zip raise errors of many kinds
        raise ValueError(
            f"the weights file {str(path)!r} is damaged, or holds more than names and tensors and is refused because "
            f"it could run code ({type(error).__name__}); torch.save(network.state_dict(), …) writes what can be read."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise ValueError(f"the weights file {str(path)!r} holds no state_dict: names and tensors are wanted.")
    prefix = "module." if all(key.startswith("module.") for key in content) else ""
    return {OLD_DENSE_NAME.sub(r"\1\2", key.removeprefix(prefix)): value for key, value in content.items()}


def _check_finite(backbone: Backbone) -> None:
    """Looks at what the cut has left only: some published weights have NaN in the classifier on purpose.

    Raises:
        ValueError: if a weight is NaN or infinite.
    """
    broken = [key for key, value in backbone.network.state_dict().items() if not value.isfinite().all()]
    if broken:
        named = f"{broken[0].removeprefix('network.')}{', …' if len(broken) > 1 else ''}"
        raise ValueError(
            f"backbone.weights={backbone.origin['weights']!r} has values that are not finite in {len(broken)} tensors "
            f"({named}): the file is damaged, or its training diverged."
        )


def _differences(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """How a `state_dict` differs from the one wanted, in a few words; empty if it does not."""
    missing = [key for key in wanted if key not in given and not key.endswith("num_batches_tracked")]
    extra = [key for key in given if key not in wanted]
    shapes = [key for key in wanted if key in given and wanted[key].shape != given[key].shape]
    parts = [
        f"{len(keys)} {what} ({keys[0]}{', …' if len(keys) > 1 else ''})"
        for keys, what in ((missing, "tensors missing"), (extra, "unknown"), (shapes, "of another shape"))
        if keys
    ]
    return ", ".join(parts)
