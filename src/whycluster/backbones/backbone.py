"""Images `->` features: a CNN cut at a layer, pooled, with its own preprocessing."""

import difflib
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from whycluster.backbones.preprocessing import Preprocessing

POOLS = ("avg", "sum", "max", "flatten")
# What torchvision's networks call the pooling over all places that ends their feature maps.
LAST_POOLINGS = ("avgpool", "adaptive_avg_pool2d", "mean", "global_pool")


class CutNetwork(nn.Module):
    """Normalised images `(N, 3, H, W)` `->` features `(N, D)`: a network up to one of its layers, then pooled.

    Args:
        network: a CNN that torch.fx can trace; only what leads to the layer is kept.
        layer: a node of its traced graph, or a module, which stands for its last node.
        pool: `avg`, `sum` or `max` over the places of the feature map, or `flatten`. At a layer whose output `(N, D)`
            has no places any more it has no effect.

    Raises:
        ValueError: for an unknown layer (with the nearest names) or pool.
    """

    def __init__(self, network: nn.Module, layer: str, pool: str) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"backbone.pool={pool!r} is unknown; choose from {', '.join(POOLS)}.")
        names = layer_names(network)
        if layer not in names:
            near = ", ".join(difflib.get_close_matches(layer, names, n=4, cutoff=0))
            raise ValueError(f"backbone.layer={layer!r} is no layer of this network; the nearest are {near}.")
        extractor = create_feature_extractor(network.eval(), [layer], suppress_diff_warning=True)
        # torchvision's own class loses its modes when it is copied: batch norms would start to learn.
        self.network = fx.GraphModule(extractor, extractor.graph).eval()
        self.layer = layer
        self.pool = pool
        self.layout = "channels first"  # until a first look at the network's output says otherwise

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images)[self.layer]
        if self.layout == "no places":
            return features
        if self.layout == "channels last":
            features = features.permute(0, 3, 1, 2)
        elif self.layout == "groups":
            features = features.flatten(1, 2)
        if self.pool == "avg":
            features = F.adaptive_avg_pool2d(features, 1)
        elif self.pool == "max":
            features = F.adaptive_max_pool2d(features, 1)
        elif self.pool == "sum":
            features = features.sum((2, 3), keepdim=True)
        return features.flatten(1)


class Backbone(nn.Module):
    """A cut network that takes images as they are, from 0 to 255 or from 0 to 1.

    Args:
        network: the CNN.
        preprocessing: what its weights were trained to see.
        layer: where it is cut; `None`: before its last pooling over places.
        pool: see `CutNetwork`.
        origin: plain values that say where the network came from, saved with a model: `name`, `weights`, …

    Attributes:
        network: normalised images `->` features `(N, D)`.
        n_features: `D`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        layer: str | None = None,
        pool: str = "avg",
        origin: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        layer = default_layer(network) if layer is None else layer
        self.network = CutNetwork(network, layer, pool)
        self.preprocessing = preprocessing
        self.origin = {**(origin or {}), "layer": layer, "pool": pool, "preprocessing": preprocessing.to_plain()}
        like = next(network.parameters())  # (any) for its dtype and device
        self.register_buffer("mean", like.new_tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", like.new_tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)
        self.n_features = self._probe()
        self.requires_grad_(False)
        self.eval()

    def _probe(self) -> int:
        """Runs one blank image through, to see what comes out."""
        side = self.preprocessing.crop
        blank = self.mean.new_zeros(1, 3, side, side)
        with torch.no_grad():
            features = self.network.network(blank)[self.network.layer]
            if not isinstance(features, Tensor) or features.ndim not in (2, 4, 5) or len(features) != 1:
                raise ValueError(
                    f"backbone.layer={self.network.layer!r} gives no features: (N, C, H, W) or (N, D) is needed, "
                    f"here it is {tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__}."
                )
            self.network.layout = self._layout(blank, features)
            return int(self.network(blank).shape[1])

    def _layout(self, blank: Tensor, features: Tensor) -> str:
        """Where in the features the channels and the places are: a wider image has more columns."""
        if features.ndim == 2:
            return "no places"
        if features.ndim == 5:
            return "groups"  # (N, groups, C / groups, H, W), in the midst of a channel shuffle
        try:
            wider = self.network.network(torch.cat([blank, blank], 3))[self.network.layer]
        except RuntimeError:  # a network for one size only has read all places before
            return "channels first"
        return "channels last" if wider.shape[2] > features.shape[2] else "channels first"

    def normalise(self, images: Tensor) -> Tensor:
        """`(N, 3, H, W)`, uint8 or floats from 0 to 1 `->` as the network takes them."""
        if images.dtype == torch.uint8:
            images = images.to(self.mean.dtype) / 255
        return (images.to(self.mean) - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """Features `(N, D)` of images `(N, 3, H, W)`, uint8 or floats from 0 to 1."""
        normalised = self.normalise(images)
        if normalised.device.type == "cpu":  # there, channels last take a quarter to a half less time
            normalised = normalised.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.network(normalised)
        return features

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The values of black and of white after normalisation, `(1, 3, 1, 1)` each."""
        return -self.mean / self.std, (1 - self.mean) / self.std

    def train(self, mode: bool = True) -> "Backbone":
        """Stays in evaluation mode: its features are read, never trained."""
        return super().train(False)


def layer_names(network: nn.Module) -> list[str]:
    """Names at which a network can be cut: nodes of its graph, and the modules that they lie in."""
    names: dict[str, None] = {}
    for node in _nodes(network):
        parts = node.split(".")
        names.update(dict.fromkeys(".".join(parts[: n + 1]) for n in range(len(parts))))
    return list(names)


def default_layer(network: nn.Module) -> str:
    """The last layer that still has places: what the last pooling reads, by the name `features` where that is it."""
    nodes = _nodes(network)
    pools = [at for at, node in enumerate(nodes) if node.split(".")[-1] in LAST_POOLINGS]
    last = nodes[pools[-1] - 1] if pools and pools[-1] > 0 else ""
    # SqueezeNet pools class scores, under a name that says nothing; its feature maps are `features` nevertheless.
    if any(node.startswith("features.") for node in nodes) and (not last or last.startswith("features.")):
        return "features"
    if not last:
        tail = ", ".join(layer_names(network)[-8:])
        raise ValueError(f"where to cut this network is not plain; set backbone.layer to one of {tail}.")
    return last


def _nodes(network: nn.Module) -> list[str]:
    """The nodes of the traced graph, in the order in which they are computed."""
    nodes: list[str] = get_graph_node_names(network, suppress_diff_warning=True)[1]
    return nodes
