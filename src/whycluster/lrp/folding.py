"""A batch norm folded into the layer before it: one linear map where there were two."""

import copy

import torch
from torch import Tensor

from whycluster.lrp.linear_maps import BatchNorm, Convolution, Linear

# How much of the largest output folding may change, in single precision or better.
TOLERANCE = 1e-5


def fold(layer: Convolution | Linear, norm: BatchNorm) -> Convolution | Linear | None:
    """The layer with weights `w·s` and bias `b·s + t`, for a norm that scales by `s` and shifts by `t`.

    Returns:
        `None` if rounding makes it another layer: then the two are better left apart.
    """
    scale, shift = norm.scale, norm.shift
    assert layer.weight is not None  # both kinds are made with weights
    weight = layer.weight.to(scale) * scale.view(-1, *[1] * (layer.weight.ndim - 1))
    bias = shift if layer.bias is None else layer.bias.to(scale) * scale + shift
    folded = copy.copy(layer)
    folded.weight, folded.bias = weight.to(layer.weight), bias.to(layer.weight)
    folded._modified = {}
    return folded if folding_error(layer, norm, folded) <= _tolerance(layer.weight.dtype) else None


def folding_error(layer: Convolution | Linear, norm: BatchNorm, folded: Convolution | Linear) -> float:
    """The largest difference between folded and not, as a share of the largest output, for random inputs."""
    x = _probe(layer)
    apart = norm.forward(layer.forward(x))
    return float((folded.forward(x) - apart).abs().max() / apart.abs().max().clamp(min=torch.finfo(x.dtype).tiny))


def _probe(layer: Convolution | Linear) -> Tensor:
    """Inputs of the size that the layer's weights see at once, the same each time."""
    assert layer.weight is not None
    shape = [layer.weight.shape[1]]
    if isinstance(layer, Convolution):
        extent = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.weight.shape[2:], strict=True)]
        shape = [shape[0] * layer.groups, *extent]
    return torch.randn(8, *shape, generator=torch.Generator().manual_seed(0)).to(layer.weight)


def _tolerance(dtype: torch.dtype) -> float:
    return max(TOLERANCE, 8 * torch.finfo(dtype).eps)
