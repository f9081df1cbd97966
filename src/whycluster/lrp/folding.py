"""A batch norm folded into the layer before it: one linear map where there were two."""

import copy
from typing import Any

from torch import Tensor, fx

from whycluster.lrp.linear_maps import Convolution, Linear, LinearMap
from whycluster.lrp.operations import LinearStep, Values, scale_and_shift


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
    numbers, eps = norm.args[1:5], float(norm.args[-1])  # type: ignore[arg-type]

    def make(value: Values) -> LinearMap:
        return folded(layer.make(value), *scale_and_shift(*map(value, numbers), eps=eps))  # type: ignore[arg-type]

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
    transposed, groups = layer.settings[3:6:2] if isinstance(layer, Convolution) else (False, 1)
    ones = [1] * (layer.weight.ndim - 2)
    if not transposed:
        return scale.reshape(-1, 1, *ones)
    # (in, out / groups, …): the inputs of a group have the outputs of that group
    return scale.reshape(groups, 1, -1).expand(-1, len(layer.weight) // groups, -1).reshape(len(layer.weight), -1, *ones)
