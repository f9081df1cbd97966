"""Backbones by name: any model of timm."""

import hashlib
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from whycluster.backbones.backbone import Backbone
from whycluster.backbones.layers import REFUSALS
from whycluster.backbones.preprocessing import Preprocessing
from whycluster.backbones.weights import Weights, check_finite
from whycluster.errors import UserError

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


def build_timm_backbone(
    name: str,
    weights: str | None,
    layer: str | Sequence[str] | None = None,
    pool: str | None = None,
    image_size: int | None = None,
) -> Backbone:
    """Builds a backbone of timm, cut and pooled as `default_layer` and `Backbone` say, with timm's own preprocessing.

    Images are resized and cropped at the centre, also for the few models, such as SigLIP, that were trained on images
    squeezed into a square.

    Args:
        name: of a model of timm, also with a tag that says which of its published weights are meant:
            `vit_small_patch14_dinov2.lvd142m`.
        weights: `DEFAULT`: those that timm publishes under this name; a file with a `state_dict`, `.safetensors` or as
            torch saves it, with or without a classifier, also as trainers wrap it; or `None` for random weights.
        layer: as of `build_backbone`.
        pool: `cls`, `avg`, `sum`, `max` or `flatten`; `None`: what suits the network. See `Backbone`.
        image_size: side of the images that the network gets, in pixels; `None`: what it was trained with.

    Raises:
        UserError: if timm is not installed, for an unknown name, weights that cannot be had or do not fit, an unknown
            layer or pool, or an image size that the network does not take.
    """
    read = _read(name, weights)
    network = _fetched(name, image_size) if weights == "DEFAULT" else create(name, image_size)
    sha256 = None if read is None else hashlib.sha256(read.path.read_bytes()).hexdigest()
    origin = {"library": "timm", "name": name, "weights": weights, "weights_sha256": sha256, "image_size": image_size}
    prepare = _preprocessing(network, image_size)
    try:
        backbone = Backbone(network, prepare, layer, pool, origin)
    except REFUSALS as error:
        if str(error).startswith(("backbone.", "where to cut")):
            raise
        raise UserError(f"{name} does not take images of {prepare.crop} by {prepare.crop} pixels: {error}") from error
    if read is not None:
        read.load_into(backbone.network, network, name, _translator(name, network))
    elif weights is None:
        warnings.warn(f"{name} has random weights (backbone.weights=null): its clusters mean nothing.", stacklevel=2)
    check_finite(backbone.network, weights)
    return backbone


def create(name: str, image_size: int | None, pretrained: bool = False) -> nn.Module:
    """Builds a network of timm, with random weights unless `pretrained`.

    Raises:
        UserError: if timm is not installed, or has no such model.
    """
    timm = _timm()
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:4] or ["see timm.list_models()"])
        raise UserError(f"backbone.name={name!r} is no model of timm {timm.__version__}; some are {near}.")
    size = {} if image_size is None else {"img_size": image_size}
    try:
        network: nn.Module = timm.create_model(name, pretrained=pretrained, **size)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        network = timm.create_model(name, pretrained=pretrained)  # a CNN: it takes images of any size
    return network.eval()


def _timm() -> ModuleType:
    try:
        import timm  # slow to import, and needed for its own networks only
    except ImportError as error:
        raise UserError('networks of timm need timm: pip install "whycluster[timm]".') from error
    module: ModuleType = timm
    return module


def _read(name: str, weights: str | None) -> Weights | None:
    """Reads the file that `weights` names, if it names one."""
    if weights is None or weights == "DEFAULT":
        return None
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UserError(
            f"backbone.weights={str(path)!r} is neither a file nor DEFAULT, the weights that timm publishes as {name}."
        )
    return Weights.read(path)


def _fetched(name: str, image_size: int | None) -> nn.Module:
    """Builds the network with published weights, which timm keeps in its own cache."""
    try:
        return create(name, image_size, pretrained=True)
    except UserError:
        raise
    except Exception as error:  # while timm downloads weights, several libraries may raise errors of their own
        raise UserError(
            f"the published weights of {name} could not be had ({error!r:.200}); give a file as "
            "backbone.weights=/path/to/file.safetensors."
        ) from error


def _preprocessing(network: nn.Module, image_size: int | None) -> Preprocessing:
    config: dict[str, Any] = _timm().data.resolve_model_data_config(network)
    crop = image_size or max(config["input_size"][1:])
    return Preprocessing(
        resize=math.floor(crop / config["crop_pct"]),
        crop=crop,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"] if config["interpolation"] in INTERPOLATIONS else "bicubic",
    )


def _translator(name: str, network: nn.Module) -> Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None:
    """Returns timm's own conversion of a file as its authors published it, which also resizes position embeddings."""
    models = _timm().models
    module = sys.modules[models.model_entrypoint(models.split_model_name_tag(name)[0]).__module__]
    translate = getattr(module, "checkpoint_filter_fn", None)
    return None if translate is None else lambda tensors: translate(tensors, network)
