"""The layer at which a network is cut by default."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import MaxVit, SwinTransformer, VisionTransformer

from whycluster.backbones.layers import Layer, LayerWatch, all_layers, layer_names
from whycluster.errors import UserError

# Names of the pooling over all places, after the last feature maps, in torchvision's networks.
LAST_POOLINGS = ("avgpool", "adaptive_avg_pool2d", "mean", "global_pool")


def default_layer(network: nn.Module, images: Tensor, pool: str | None = None) -> str:
    """Returns the layer whose output a network pools itself, or, if its pooling is more than an average, the layer
    after it.

    | network | layer |
    | --- | --- |
    | torchvision's vision transformers | `encoder.ln` |
    | its Swin transformers; its MaxViT | `norm`; the last block |
    | other CNNs | what the last pooling reads, by the name `features` where that is it |
    | timm, attention pooling (SigLIP) | `attn_pool`, or the norm after it |
    | timm, averaged tokens with a norm after that (BEiT, EVA-02) | `fc_norm` |
    | timm, all others | where its `forward_features` ends: what the pooling reads |

    Args:
        network: in evaluation mode.
        images: normalised images that it takes, `(N, 3, H, W)`.
        pool: a pooling that replaces the network's own; `None`: the network's own.

    Raises:
        UserError: if no such layer is found.
    """
    if callable(getattr(network, "forward_features", None)):
        layer = (_own_pooling(network) if pool is None else None) or _end_of_features(network, images)
    else:
        layer = _known_transformer(network) or _before_last_pooling(network, images)
    if layer is None:
        tail = ", ".join(layer_names(network, images)[-8:])
        raise UserError(f"where to cut this network is unclear; set backbone.layer to one of {tail}.")
    return layer


def _known_transformer(network: nn.Module) -> str | None:
    if isinstance(network, VisionTransformer):
        return "encoder.ln"
    if isinstance(network, SwinTransformer):
        return "norm"
    if isinstance(network, MaxVit):
        return f"blocks.{len(network.blocks) - 1}"
    return None


def _before_last_pooling(network: nn.Module, images: Tensor) -> str | None:
    """Returns the innermost layer before the last pooling, which is recognised by the names in torchvision's CNNs."""
    names = [layer.name for layer in all_layers(network, images) if layer.innermost]
    pools = [at for at, name in enumerate(names) if name.split(".")[-1] in LAST_POOLINGS]
    last = names[pools[-1] - 1] if pools and pools[-1] > 0 else None
    # SqueezeNet pools class scores, under a name that says nothing; its feature maps are `features` nevertheless.
    if any(name.startswith("features.") for name in names) and (not last or last.startswith("features.")):
        return "features"
    return last


def _own_pooling(network: nn.Module) -> str | None:
    """Returns the module of a timm network that pools in a way of its own, if there is one."""
    for name in ("fc_norm", "attn_pool"):
        module = getattr(network, name, None)
        if isinstance(module, nn.Module) and not isinstance(module, nn.Identity):
            return name
    return None


def _end_of_features(network: Any, images: Tensor) -> str | None:
    """Returns the outermost layer that returns what `forward_features` does."""
    outputs: list[tuple[str, weakref.ref[Tensor], int]] = []

    def note(layer: Layer) -> None:
        if isinstance(layer.output, Tensor):
            outputs.append((layer.name, weakref.ref(layer.output), layer.output._version))

    with torch.no_grad(), LayerWatch(network, note):
        features = network.forward_features(images)
    if not isinstance(features, Tensor):
        return None
    # A tensor that an operation in place has changed since has another version.
    ends = [name for name, output, version in outputs if output() is features and version == features._version]
    return min(ends, key=lambda name: name.count("."), default=None)
