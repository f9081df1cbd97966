"""A batch norm folded into the layer before it: one linear map where there were two."""

import copy

import torch
from torch import Tensor

from whycluster.lrp.linear_maps import BatchNorm, Convolution, Linear

# How much of the largest output folding may change, in single precision or better.
TOLERANCE = 1e-5


def fold(layer: Convolution | Linear, norm: BatchNorm, name: str) -> Convolution | Linear | None:
    """The layer with weights `w·s` and bias `b·s + t`, for a norm that scales by `s` and shifts by `t`.

    Args:
        layer: what the norm reads.
        norm: of its output.
        name: of the norm.

    Returns:
        `None` if rounding makes it another layer: then the two are better left apart.
    """
    scale, shift = norm.scale, norm.shift
    assert layer.weight is not None  # both kinds are made with weights
    if len(scale) != len(layer.weight):
        return None  # the norm of another dimension
    weight = layer.weight.to(scale) * scale.view(-1, *[1] * (layer.weight.ndim - 1))
    bias = shift if layer.bias is None else layer.bias.to(scale) * scale + shift
    folded = _with(layer, weight.to(layer.weight), bias.to(layer.weight))
    if isinstance(folded, Linear):
        folded.norm = name
    return folded if folding_error(layer, norm, folded) <= _tolerance(layer.weight.dtype) else None


@torch.no_grad()
def folding_error(layer: Convolution | Linear, norm: BatchNorm, folded: Convolution | Linear) -> float:
    """The largest difference between folded and not, as a share of the largest output, for random inputs.

    In double precision and on the CPU: what rounding the folded weights does is the same wherever they are used later.
    """
    x = _probe(layer)
    scale, shift = (channels.cpu().double() for channels in (norm.scale, norm.shift))
    along = [-1, *[1] * (x.ndim - 2)]
    with torch.autocast("cpu", enabled=False):
        apart = _exact(layer).forward(x) * scale.view(along) + shift.view(along)
        together = _exact(folded).forward(x)
    return float((together - apart).abs().max() / apart.abs().max().clamp(min=torch.finfo(x.dtype).tiny))


def _exact(layer: Convolution | Linear) -> Convolution | Linear:
    assert layer.weight is not None
    return _with(layer, layer.weight.cpu().double(), None if layer.bias is None else layer.bias.cpu().double())


def _with(layer: Convolution | Linear, weight: Tensor, bias: Tensor | None) -> Convolution | Linear:
    """The layer with other weights."""
    other = copy.copy(layer)
    other.weight, other.bias, other._modified = weight, bias, {}
    return other


def _probe(layer: Convolution | Linear) -> Tensor:
    """Inputs of the size that the layer's weights see at once, the same each time."""
    assert layer.weight is not None
    shape = [layer.weight.shape[1]]
    if isinstance(layer, Convolution):
        extent = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.weight.shape[2:], strict=True)]
        shape = [shape[0] * layer.groups, *extent]
    return torch.randn(8, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _tolerance(dtype: torch.dtype) -> float:
    return max(TOLERANCE, 8 * torch.finfo(dtype).eps)
