"""The output of a layer `->` one vector of features for each image."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

POOLS = ("cls", "avg", "sum", "max", "flatten")


def pooled(features: Tensor, pool: str, layout: str, n_prefix: int = 0) -> Tensor:
    """Pools the output of a layer to features `(N, D)`.

    Args:
        features: the output of a layer.
        pool: `cls`, the class token; `avg`, `sum` or `max` over places or patch tokens; or `flatten`. Without places
            it has no effect.
        layout: see `layout_of`.
        n_prefix: how many tokens before those of the patches are left out of `avg`, `sum` and `max`.
    """
    if layout == "no places":
        return features
    if pool == "cls":
        return features[:, 0]
    maps = features if pool == "flatten" and layout.startswith("tokens") else _as_maps(features, layout, n_prefix)
    if pool == "avg":
        maps = F.adaptive_avg_pool2d(maps, 1)
    elif pool == "max":
        maps = F.adaptive_max_pool2d(maps, 1)
    elif pool == "sum":
        maps = maps.sum((2, 3), keepdim=True)
    return maps.flatten(1)


def channel_of_feature(features: Tensor, pool: str, layout: str) -> Tensor:
    """Returns of which channel of a layer each feature is, `(D,)`: `flatten` makes several of each, other pools one.

    Args:
        features: the output of the layer; this and what follows as in `pooled`.

    Example:
        >>> channel_of_feature(torch.zeros(1, 2, 1, 3), "flatten", "channels first").tolist()
        [0, 0, 0, 1, 1, 1]
    """
    if pool != "flatten" or layout == "no places":
        return torch.arange(pooled(features[:1], pool, layout).shape[1])
    if layout == "tokens":
        return torch.arange(features.shape[2]).repeat(features.shape[1])
    maps = _as_maps(features, layout, 0)
    return torch.arange(maps.shape[1]).repeat_interleave(maps[0, 0].numel())


def layout_of(features: Tensor, of_wider: Callable[[], Tensor | None]) -> str:
    """Finds where in the output of a layer the channels and the places are, for one square image.

    Args:
        features: that output.
        of_wider: gives the output for a wider image, or `None` if the network takes one size only.

    Returns:
        `no places` `(N, D)`, `tokens` `(N, L, C)`, `tokens last` `(N, C, L)`, `channels first` `(N, C, H, W)`,
        `channels last` `(N, H, W, C)`, or `groups` `(N, G, C / G, H, W)`, in the midst of a channel shuffle.
    """
    if features.ndim in (2, 5):
        return "no places" if features.ndim == 2 else "groups"
    if features.ndim == 4:
        _, first, second, third = features.shape
        if first == second != third:  # a square image has as many rows as columns
            return "channels last"
        if second == third != first:
            return "channels first"
    wider = of_wider()
    if features.ndim == 3:
        return "tokens last" if wider is not None and wider.shape[2] > features.shape[2] else "tokens"
    return "channels last" if wider is not None and wider.shape[2] > features.shape[2] else "channels first"


def _as_maps(features: Tensor, layout: str, n_prefix: int) -> Tensor:
    """Permutes any layout with places to `(N, C, H, W)`."""
    if layout == "channels last":
        return features.permute(0, 3, 1, 2)
    if layout == "groups":
        return features.flatten(1, 2)
    if layout == "tokens":
        return features[:, n_prefix:].transpose(1, 2).unsqueeze(3)
    return features.unsqueeze(3) if layout == "tokens last" else features
