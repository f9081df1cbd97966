"""Folding of batch norms into the layers before them: one linear map in place of two."""

import copy

from torch import Tensor, fx

from whycluster.lrp.linear_maps import Convolution, Linear, LinearMap
from whycluster.lrp.operations import scale_and_shift
from whycluster.lrp.steps import LinearStep, Values


def fold(layer: LinearStep, norm: fx.Node) -> LinearStep | None:
    """Folds a batch norm into the step of the layer before it; `None` for layers that take no norm: only convolutions
    `(N, C, …)` and linear layers on `(N, D)` have the channels of their norm.
    """
    if layer.kind not in (Convolution, Linear):
        return None
    numbers, eps = norm.args[1:5], norm.args[-1]

    def make(value: Values) -> LinearMap:
        return folded(layer.make(value), *scale_and_shift([value(one) for one in numbers], eps))  # type: ignore[arg-type]

    return LinearStep(layer.kind, make, layer.relevance_inputs, [*layer.weights, *numbers])


def folded(layer: LinearMap, scale: Tensor, shift: Tensor) -> LinearMap:
    """Returns the layer with weights `w·s` and bias `b·s + t`.

    Args:
        layer: a convolution or a linear layer.
        scale: `s`, `(out,)`, in double precision, as mean and deviation of a channel may be far apart.
        shift: `t`, `(out,)`.
    """
    weight: Tensor = layer.weight
    ones = [1] * (weight.ndim - 2)
    by_channel = scale.reshape(-1, 1, *ones)
    if isinstance(layer, Convolution) and layer.transposed:
        # (in, out / groups, …): the inputs of a group have the outputs of that group
        by_group = scale.reshape(layer.groups, 1, -1).expand(-1, len(weight) // layer.groups, -1)
        by_channel = by_group.reshape(len(weight), -1, *ones)
    bias = shift if layer.bias is None else layer.bias.flatten().to(scale) * scale + shift
    other = copy.copy(layer)
    other.weight, other._modified = (weight.to(scale) * by_channel).to(weight), {}
    other.bias = bias.to(weight).reshape(-1, *ones)
    return other
