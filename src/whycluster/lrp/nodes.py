"""The table of what LRP knows: kinds of nodes in a traced graph `->` operations."""

import copy
import inspect
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import StochasticDepth, stochastic_depth

from whycluster.lrp.linear_maps import Add, AveragePool, BatchNorm, Convolution, LayerNorm, Linear
from whycluster.lrp.operations import Activation, Concatenate, Gate, Identity, MaxPool, Operation, Rearrange


@dataclass(frozen=True)
class Call:
    """A node of the traced graph with what it calls.

    Attributes:
        key: the module's type, the function, or the method's name.
        module: the module called, if it is one.
        function: the call as a function of the values it reads, free of hooks and never in place.
        args: the node's own arguments; in the place of a value it reads stands the node that computes it.
        kwargs: its keyword arguments.
        gates: of each value it reads, whether it is a gate.
        constants: the tensors that the network keeps, by the nodes that read them.
    """

    key: Any
    module: nn.Module | None
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    gates: tuple[bool, ...]
    constants: dict[fx.Node, Tensor]

    def argument(self, place: int, name: str, default: Any) -> Any:
        """An argument given by place or by name; a tensor that the network keeps as such."""
        given = self.args[place] if len(self.args) > place else self.kwargs.get(name, default)
        return self.constants.get(given, given) if isinstance(given, fx.Node) else given


class UnknownOperationError(ValueError):
    """What is wrong with a node, and what could be done about it."""


def call_of(
    node: fx.Node, modules: dict[str, nn.Module], gates: Sequence[bool], constants: dict[fx.Node, Tensor]
) -> Call:
    """What a node calls."""
    key: Any = node.target
    target: Any = node.target
    module: Any = None
    if node.op == "call_module":
        # Shares parameters and statistics; only the copy is evaluating, and stops working in place.
        module = copy.copy(modules[str(target)])
        module.training = False
        if hasattr(module, "inplace"):
            module.inplace = False
        key, target = type(module), module.forward
    elif node.op == "call_method":
        key = str(target) if str(target).startswith("__") else str(target).removesuffix("_")
        # What has other strides here than in the network may have no view of the wanted shape.
        target = Tensor.reshape if key == "view" else getattr(Tensor, key, None)
    args, kwargs = _out_of_place(target, node.args, dict(node.kwargs))

    def function(*values: Any) -> Any:
        remaining = iter(values)
        filled = fx.map_arg((args, kwargs), lambda _: next(remaining))
        return target(*filled[0], **filled[1])

    return Call(key, module, function, args, kwargs, tuple(gates), constants)


def _out_of_place(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with `inplace` off; functions of torch that are not written in Python know no `inplace`."""
    if not isinstance(target, FunctionType) or "inplace" not in inspect.signature(target).parameters:
        return args, kwargs
    bound = inspect.signature(target).bind(*args, **kwargs)
    bound.arguments["inplace"] = False
    return bound.args, bound.kwargs


def _convolution(call: Call) -> Operation:
    module = call.module
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)  # by the table below
    if module.padding_mode != "zeros":
        raise UnknownOperationError(f"LRP knows zero padding; the convolution pads by {module.padding_mode!r}")
    # What torch resolved of padding="same" or of numbers: (before, after), last dimension first.
    flat = module._reversed_padding_repeated_twice
    padding = list(zip(flat[::2], flat[1::2], strict=True))[::-1]
    return Convolution(
        module.weight.detach(), _detached(module.bias), module.stride, padding, module.dilation, module.groups
    )


def _linear(call: Call) -> Operation:
    assert isinstance(call.module, nn.Linear)
    return Linear(call.module.weight.detach(), _detached(call.module.bias))


def _batch_norm(call: Call) -> Operation:
    norm = call.module
    assert isinstance(norm, _BatchNorm)
    if norm.running_mean is None or norm.running_var is None:
        raise UnknownOperationError("the batch norm keeps no running statistics, and LRP needs them")
    scale = (_exact(norm.running_var) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * _exact(norm.weight)
    shift = -_exact(norm.running_mean) * scale
    if norm.bias is not None:
        shift = shift + _exact(norm.bias)
    return BatchNorm(call.function, scale, shift, norm.running_var.dtype)


def _exact(tensor: Tensor) -> Tensor:
    """In double precision, where the device has it: mean and deviation of a channel may be far apart."""
    return tensor.detach() if tensor.device.type == "mps" else tensor.detach().double()


def _layer_norm(call: Call) -> Operation:
    if isinstance(call.module, nn.LayerNorm):
        norm = call.module
        return LayerNorm(norm.normalized_shape, _detached(norm.weight), _detached(norm.bias), norm.eps)
    weight, bias = call.argument(2, "weight", None), call.argument(3, "bias", None)
    if isinstance(weight, fx.Node) or isinstance(bias, fx.Node):
        raise UnknownOperationError("LRP knows layer norms with weights that the network keeps, not with computed ones")
    return LayerNorm(call.argument(1, "normalized_shape", ()), weight, bias, call.argument(4, "eps", 1e-5))


def _concatenate(call: Call) -> Operation:
    return Concatenate(call.argument(1, "dim", call.kwargs.get("axis", 0)))


def _product(call: Call) -> Operation:
    signals = [at for at, gate in enumerate(call.gates) if not gate]
    if len(signals) != 1:
        raise UnknownOperationError(
            "LRP cannot tell which factor of the product is the gate; it wants one that is constant or comes out of "
            "a sigmoid"
        )
    return Gate(call.function, signals[0])


def _quotient(call: Call) -> Operation:
    if call.gates not in ((False,), (False, True)) or not isinstance(call.argument(0, "input", None), fx.Node):
        raise UnknownOperationError("LRP knows quotients of values by constants or gates")
    return Gate(call.function, 0)


def _sum(sign: int) -> Callable[[Call], Operation]:
    def build(call: Call) -> Operation:
        if call.argument(2, "alpha", 1) != 1:
            raise UnknownOperationError("LRP knows sums without alpha")
        return Add((1, sign))

    return build


def _activation(nonnegative: bool = False, gate: bool = False) -> Callable[[Call], Operation]:
    return lambda call: Activation(call.function, nonnegative, gate)


def _rearrange(call: Call) -> Operation:
    return Rearrange(call.function)


def _pad(call: Call) -> Operation:
    mode = call.argument(2, "mode", "constant")
    if mode != "constant":
        raise UnknownOperationError(f"LRP knows padding by a constant; here it is {mode!r}")
    return Rearrange(call.function, adds_constants=True)


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


ADDITIONS = {operator.add: 1, operator.iadd: 1, torch.add: 1, "add": 1}
SUBTRACTIONS = {operator.sub: -1, operator.isub: -1, torch.sub: -1, torch.subtract: -1, "sub": -1, "subtract": -1}
SUMS = {**ADDITIONS, **SUBTRACTIONS}

OPERATIONS: dict[Any, Callable[[Call], Operation]] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    nn.Linear: _linear,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), _batch_norm),
    **dict.fromkeys((nn.LayerNorm, F.layer_norm), _layer_norm),
    **{key: _sum(sign) for key, sign in SUMS.items()},
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "multiply"), _product),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div, "div"), _quotient),
    **dict.fromkeys(
        (*(nn.ReLU, F.relu, torch.relu, "relu", nn.ReLU6, F.relu6, nn.Softplus, F.softplus),),
        _activation(nonnegative=True),
    ),
    **dict.fromkeys(
        (*(nn.Sigmoid, F.sigmoid, torch.sigmoid, "sigmoid", nn.Hardsigmoid, F.hardsigmoid),),
        _activation(nonnegative=True, gate=True),
    ),
    **dict.fromkeys((nn.Tanh, F.tanh, torch.tanh, "tanh"), _activation(gate=True)),
    **dict.fromkeys(
        (
            *(nn.SiLU, F.silu, nn.GELU, F.gelu, nn.Hardswish, F.hardswish, nn.Mish, F.mish),
            *(nn.ELU, F.elu, nn.SELU, F.selu, nn.CELU, F.celu, nn.Hardtanh, F.hardtanh),
            *(nn.LeakyReLU, F.leaky_relu, nn.PReLU),
        ),
        _activation(),
    ),
    **dict.fromkeys(
        (
            *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
            *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
            *(F.max_pool1d, F.max_pool2d, F.max_pool3d),
            *(F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
        ),
        lambda call: MaxPool(call.function),
    ),
    **dict.fromkeys(
        (
            *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
            *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
            *(F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
            *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
            *(torch.mean, torch.sum, "mean", "sum"),
        ),
        lambda call: AveragePool(call.function),
    ),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _concatenate),
    **dict.fromkeys(
        (
            *(nn.Flatten, torch.flatten, "flatten", nn.Unflatten, "unflatten", "view", torch.reshape, "reshape"),
            *(torch.permute, "permute", torch.transpose, "transpose", torch.squeeze, "squeeze"),
            *(torch.unsqueeze, "unsqueeze", nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, "contiguous"),
            *(operator.getitem, torch.narrow, "narrow"),
        ),
        _rearrange,
    ),
    **dict.fromkeys(
        (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d),
        lambda call: Rearrange(call.function, adds_constants=True),
    ),
    F.pad: _pad,
    **dict.fromkeys(
        (
            *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
            *(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout),
            *(nn.Identity, StochasticDepth, stochastic_depth),
        ),
        lambda call: Identity(),
    ),
}
# These hand out several tensors; each that is read of them is an operation of its own.
PARTS = (torch.chunk, "chunk", torch.split, "split", torch.unbind, "unbind", torch.tensor_split, "tensor_split")


def is_about_shape(call: Call) -> bool:
    """Whether the call asks for the size or kind of a tensor, not for its values."""
    if call.key is getattr:
        return call.args[1] in ("shape", "ndim", "dtype", "device")
    return call.key in ("size", "dim", "numel")


def part(whole: Callable[..., Sequence[Tensor]], at: int) -> Operation:
    """One of the tensors that a call of `PARTS` hands out."""
    return Rearrange(lambda *values: whole(*values)[at])
