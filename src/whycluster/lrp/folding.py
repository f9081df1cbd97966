"""A batch norm folded into the layer before it: one linear map where there were two."""

import copy
from typing import Any

from torch import Tensor, fx

from whycluster.lrp.linear_maps import Convolution, Linear, LinearMap
from whycluster.lrp.operations import scale_and_shift
from whycluster.lrp.steps import LinearStep, Values


def fold(layer: LinearStep, norm: fx.Node) -> LinearStep | None:
    """The step of a layer with the batch norm that follows it.

    Args:
        layer: a convolution `(N, C, …)` or a linear layer on `(N, D)`.
        norm: the node of the batch norm.

    Returns:
        `None` where the channels of the norm are not those of the layer.
    """
    if layer.kind not in (Convolution, Linear):
        return None
    arguments: Any = norm.args
    numbers, eps = arguments[1:5], arguments[-1]

    def make(value: Values) -> LinearMap:
        return folded(layer.make(value), *scale_and_shift([value(one) for one in numbers], eps))

    weights: list[Any] = [*layer.weights, *numbers]
    return LinearStep(layer.kind, make, layer.carriers, weights)


def folded(layer: LinearMap, scale: Tensor, shift: Tensor) -> LinearMap:
    """The layer with weights `w·s` and bias `b·s + t`.

    Args:
        layer: a convolution or a linear layer.
        scale: `s`, `(out,)`, in double precision, as mean and deviation of a channel may be far apart.
        shift: `t`, `(out,)`.
    """
    weight = layer.weight
    assert weight is not None  # both kinds are made with weights
    by_channel = _output_channels(layer, scale)
    bias = shift if layer.bias is None else layer.bias.flatten().to(scale) * scale + shift
    other = copy.copy(layer)
    other.weight, other._modified = (weight.to(scale) * by_channel).to(weight), {}
    other.bias = bias.to(weight).reshape(-1, *[1] * (weight.ndim - 2))
    return other


def _output_channels(layer: LinearMap, scale: Tensor) -> Tensor:
    """One number for each output channel, shaped to multiply the weights."""
    assert layer.weight is not None
    ones = [1] * (layer.weight.ndim - 2)
    if not (isinstance(layer, Convolution) and layer.transposed):
        return scale.reshape(-1, 1, *ones)
    # (in, out / groups, …): the inputs of a group have the outputs of that group
    inputs = len(layer.weight)
    by_group = scale.reshape(layer.groups, 1, -1).expand(-1, inputs // layer.groups, -1)
    return by_group.reshape(inputs, -1, *ones)
