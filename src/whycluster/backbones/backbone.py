"""The backbone, images `->` features: a network cut at a layer and pooled, with its own preprocessing."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from whycluster.backbones.cut import CutNetwork
from whycluster.backbones.default_layer import default_layer
from whycluster.backbones.layers import REFUSALS, blank_images, evaluated
from whycluster.backbones.pooling import POOLS, channel_of_feature, layout_of, pooled
from whycluster.backbones.preprocessing import Preprocessing
from whycluster.errors import UserError

# Names of the parameters that become tokens before those of the patches; the first two are names of the class token.
PREFIX_TOKENS = ("cls_token", "class_token", "dist_token", "distillation_token", "reg_token", "register_tokens")


class Pooling(NamedTuple):
    """How the output of a layer becomes a vector: the arguments of `pooled`."""

    pool: str
    layout: str
    n_prefix: int


class PooledNetwork(CutNetwork):
    """A network up to some of its layers, each then pooled: normalised images `(N, 3, H, W)` `->` features `(N, D)`.

    Args:
        network: see `CutNetwork`.
        layer: see `CutNetwork`; the features of several layers are joined in the order given.
        pool: see `Backbone`.
        images: one blank, square image of the size that the network was trained with, `(1, 3, S, S)`.

    Attributes:
        poolings: how each layer is pooled.
        widths: how many features each layer gives.
        channels: the channel of each feature, `(D,)`; those of several layers are numbered one after the other.

    Raises:
        UserError: for an unknown layer (with the nearest names) or pool, one that does not fit a layer, or a layer
            whose output is no features.
    """

    def __init__(self, network: nn.Module, layer: str | Sequence[str], pool: str | None, images: Tensor) -> None:
        if pool is not None and pool not in POOLS:
            raise UserError(f"backbone.pool={pool!r} is unknown; choose from {', '.join(POOLS)}.")
        super().__init__(network, layer, images)
        with torch.no_grad():
            outputs = self.features_before_pooling(images)
            self.poolings = [self._pooling(at, pool, output, images) for at, output in enumerate(outputs)]
            pairs = list(zip(outputs, self.poolings, strict=True))
            self.widths = [pooled(output, *how).shape[1] for output, how in pairs]
        self.channels = torch.empty(0, dtype=torch.long)
        for output, how in pairs:
            n_before = int(self.channels.max()) + 1 if len(self.channels) else 0
            own = channel_of_feature(output, how.pool, how.layout)
            self.channels = torch.cat([self.channels, n_before + own])

    @property
    def pool(self) -> str | None:
        """How all layers are pooled; `None`: in different ways."""
        pools = {how.pool for how in self.poolings}
        return pools.pop() if len(pools) == 1 else None

    def extra_repr(self) -> str:
        return f"layers={self.layers}, poolings={[tuple(how) for how in self.poolings]}"

    def features_before_pooling(self, images: Tensor) -> list[Any]:
        """Computes the output of each layer."""
        outputs = super().forward(images)
        return outputs if self.is_joined else [outputs]

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.features_before_pooling(images)
        features = [pooled(output, *how) for output, how in zip(outputs, self.poolings, strict=True)]
        return torch.cat(features, 1) if self.is_joined else features[0]

    def _pooling(self, at: int, pool: str | None, output: Any, images: Tensor) -> Pooling:
        """Finds how the layer of number `at` is pooled, from its output for one image."""
        layer = self.layers[at]
        if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4, 5) or len(output) != 1:
            raise UserError(
                f"backbone.layer={layer!r} gives no features: (N, C, H, W), (N, L, C) or (N, D) is needed, "
                f"here it is {tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__}."
            )
        layout = layout_of(output, lambda: self._of_wider(at, images))
        n_prefix, has_class_token = self._prefix_tokens(at) if layout == "tokens" else (0, False)
        if pool == "cls" and not has_class_token:
            raise UserError(
                f"backbone.pool='cls', but the layer {layer!r} of this network has no class token; "
                "leave backbone.pool at null, or choose avg, sum, max or flatten."
            )
        pool = pool or ("cls" if has_class_token and _is_read_by_class(self.network) else "avg")
        return Pooling(pool, layout, n_prefix)

    def _of_wider(self, at: int, images: Tensor) -> Tensor | None:
        """Computes the output of a layer for an image of twice the width; `None` if the network refuses it."""
        try:
            output: Tensor = self.features_before_pooling(torch.cat([images, images], 3))[at]
        except REFUSALS:
            return None
        return output

    def _prefix_tokens(self, at: int) -> tuple[int, bool]:
        """Counts the tokens of an output before those of the patches, and tells whether one is the class token."""
        # Only parameters that the layer depends on: before the block that adds the tokens, there are none.
        weights = dict(self.network.named_parameters())
        added = [(name.split(".")[-1], weights[name]) for name in self.read[at] if name in weights]
        lengths = {name: tokens.shape[-2] for name, tokens in added if name in PREFIX_TOKENS and tokens.ndim > 1}
        return sum(lengths.values()), not lengths.keys().isdisjoint(PREFIX_TOKENS[:2])


class Backbone(nn.Module):
    """A cut network with its preprocessing, for images from 0 to 255 or from 0 to 1.

    Args:
        network: any network; it is not changed, and shares the weights that are used.
        preprocessing: that of the images on which its weights were trained.
        layer: where it is cut, a module or a function in it (see `whycluster.backbones.layers`), or several, whose
            features are joined; `None`: see `default_layer`.
        pool: `cls`: the class token; `avg`, `sum` or `max`: over the places of a feature map, or over the tokens of the
            patches, without class and register tokens; `flatten`: all. `None`: the class token, if the network has one
            and does not average tokens itself, else `avg`. At a layer that has no places any more it has no effect.
        origin: numbers and strings that identify the network, saved with a model: `name`, `weights`, …

    Attributes:
        network: normalised images `->` features `(N, D)`.
        n_features: `D`.
        widths: how many of them each layer gives.
        n_channels: how many channels the features come from, `C`; see `channel_sums`.

    Raises:
        UserError: for a layer or a pool that does not fit the network.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        layer: str | Sequence[str] | None = None,
        pool: str | None = None,
        origin: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        blank = blank_images(network, preprocessing.crop)
        layer = default_layer(evaluated(network), blank, pool) if layer is None else layer
        layer = layer if isinstance(layer, str) else list(layer)  # not as OmegaConf has lists
        self.network = PooledNetwork(network, layer, pool, blank)
        self.preprocessing = preprocessing
        settings = {"layer": layer, "pool": self.network.pool, "preprocessing": preprocessing.to_plain()}
        self.origin = {**(origin or {}), **settings}
        self.register_buffer("mean", blank.new_tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", blank.new_tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)
        self.widths = self.network.widths
        self.n_features = sum(self.widths)
        self.n_channels = int(self.network.channels.max()) + 1
        self.requires_grad_(False)
        self.eval()

    def normalise(self, images: Tensor) -> Tensor:
        """Normalises images `(N, 3, H, W)`, uint8 or floats from 0 to 1, for the network."""
        if images.dtype == torch.uint8:
            images = images.to(self.mean.dtype) / 255
        return (images.to(self.mean) - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """Computes features `(N, D)` of images `(N, 3, H, W)`, uint8 or floats from 0 to 1."""
        normalised = self.normalise(images)
        if normalised.device.type == "cpu":  # there, channels last take a quarter to a half less time
            normalised = normalised.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.network(normalised)
        return features

    def channel_sums(self, values: Tensor) -> Tensor:
        """Sums a value of each feature, `(N, D)`, over the features of each channel, `(N, C)`: where `pool=flatten`
        keeps the places of a feature map, a channel has a feature for each of them, else one.
        """
        sums = values.new_zeros(len(values), self.n_channels)
        return sums.index_add_(1, self.network.channels.to(values.device), values)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Returns the values of black and of white after normalisation, `(1, 3, 1, 1)` each."""
        return -self.mean / self.std, (1 - self.mean) / self.std

    def train(self, mode: bool = True) -> "Backbone":
        """Stays in evaluation mode, as features are computed and never trained."""
        return super().train(False)


def _is_read_by_class(network: nn.Module) -> bool:
    """Tells whether the class token of a network was trained to represent the image.

    timm's `global_pool` says how its networks pool. It is `avg` for DINOv3 as well, which has no classifier and whose
    average was not trained.
    """
    averages = getattr(network, "global_pool", None) == "avg" and getattr(network, "num_classes", 0) > 0
    return not averages
