"""The table of what LRP knows: kinds of nodes in a traced graph `->` operations."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import StochasticDepth, stochastic_depth

from whycluster.lrp.calls import Call, UnknownOperationError
from whycluster.lrp.linear_maps import Add, AveragePool, BatchNorm, Convolution, LayerNorm, Linear
from whycluster.lrp.operations import Activation, Concatenate, Gate, Identity, MaxPool, Operation, Rearrange


def _convolution(call: Call) -> Operation:
    module = call.module
    if module is None:
        weight, bias = _kept(call, 1, "weight"), _kept(call, 2, "bias")
        defaults = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        settings = [call.argument(at, name, defaults[name]) for at, name in enumerate(defaults, start=3)]
    else:
        assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)  # by the table below
        if module.padding_mode != "zeros":
            raise UnknownOperationError(f"LRP knows zero padding; the convolution pads by {module.padding_mode!r}")
        weight, bias = module.weight.detach(), _detached(module.bias)
        settings = [module.stride, module.padding, module.dilation, module.groups]
    if weight is None or any(isinstance(setting, fx.Node) for setting in settings):
        raise UnknownOperationError("LRP knows convolutions with weights and settings that are fixed")
    stride, padding, dilation, groups = settings
    stride, dilation = _each(stride, weight), _each(dilation, weight)
    return Convolution(weight, bias, stride, _sides(padding, dilation, weight), dilation, groups)


def _each(setting: Any, weight: Tensor) -> tuple[int, ...]:
    """A setting for each dimension of a convolution."""
    return (setting,) * (weight.ndim - 2) if isinstance(setting, int) else tuple(setting)


def _sides(padding: Any, dilation: tuple[int, ...], weight: Tensor) -> list[tuple[int, int]]:
    """Padding before and after, for each dimension."""
    if padding == "same":
        extra = [d * (kernel - 1) for d, kernel in zip(dilation, weight.shape[2:], strict=True)]
        return [(all_ // 2, all_ - all_ // 2) for all_ in extra]
    return [(side, side) for side in _each(0 if padding == "valid" else padding, weight)]


def _kept(call: Call, place: int, name: str) -> Tensor | None:
    """Weights given to a function, which the network should keep.

    Raises:
        UnknownOperationError: if they are computed.
    """
    given = call.argument(place, name, None)
    if isinstance(given, fx.Node):
        raise UnknownOperationError(f"LRP knows layers whose {name} the network keeps, not a computed one")
    return _detached(given)


def _linear(call: Call) -> Operation:
    if call.module is None:
        weight, bias = _kept(call, 1, "weight"), _kept(call, 2, "bias")
        assert weight is not None  # by the signature
        return Linear(weight, bias)
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
    weight, bias = _kept(call, 2, "weight"), _kept(call, 3, "bias")
    shape = call.argument(1, "normalized_shape", ())
    if isinstance(shape, fx.Node) or any(isinstance(length, fx.Node) for length in shape):
        raise UnknownOperationError("LRP knows layer norms of a fixed shape")
    return LayerNorm(shape, weight, bias, call.argument(4, "eps", 1e-5))


def _concatenate(call: Call) -> Operation:
    return Concatenate(call.argument(1, "dim", call.kwargs.get("axis", 0)))


def _product(call: Call) -> Operation:
    signals = [at for at, gate in enumerate(call.gates) if not gate]
    if not signals:  # a gate by a constant is a gate
        signals = [at for at, plain in enumerate(call.plain) if not plain]
    if len(signals) != 1:
        raise UnknownOperationError(
            "LRP cannot tell which factor of the product is the gate; it wants one that is constant or comes out of "
            "a sigmoid, and one that is neither"
        )
    return Gate(call.function, signals[0])


def _quotient(call: Call) -> Operation:
    signal_first = (
        (len(call.gates) == 1 or call.gates[1])
        and not call.plain[0]
        and isinstance(call.argument(0, "input", None), fx.Node)
    )
    if not signal_first or call.kwargs.get("rounding_mode") is not None:
        raise UnknownOperationError("LRP knows quotients of values by constants or gates, without rounding")
    return Gate(call.function, 0)


def _plus(call: Call) -> Operation:
    return _sum(call, 1)


def _minus(call: Call) -> Operation:
    return _sum(call, -1)


def _sum(call: Call, sign: int) -> Operation:
    if call.argument(2, "alpha", 1) != 1:
        raise UnknownOperationError("LRP knows sums without alpha")
    return Add((1, sign))


def _rectifier(call: Call) -> Operation:
    return Activation(call.function, rectifier=True)


def _positive(call: Call) -> Operation:
    return Activation(call.function, nonnegative=True)


def _switch(call: Call) -> Operation:
    return Activation(call.function, nonnegative=True, gate=True)


def _signed_switch(call: Call) -> Operation:
    return Activation(call.function, gate=True)


def _activation(call: Call) -> Operation:
    return Activation(call.function)


def _clamp(call: Call) -> Operation:
    low = call.argument(1, "min", None)
    return Activation(call.function, nonnegative=isinstance(low, int | float) and low >= 0, gate=call.gates[0])


def _max_pool(call: Call) -> Operation:
    if call.kwargs.get("return_indices") or getattr(call.module, "return_indices", False):
        raise UnknownOperationError("LRP knows max pooling that does not return indices")
    return MaxPool(call.function)


def _average_pool(call: Call) -> Operation:
    divisor = call.argument(6, "divisor_override", getattr(call.module, "divisor_override", None))
    if isinstance(divisor, int) and divisor < 0:
        raise UnknownOperationError("LRP knows averages by a positive divisor")
    return AveragePool(call.function)


def _rearrange(call: Call) -> Operation:
    return Rearrange(call.function)


def _pad(call: Call) -> Operation:
    mode = "constant" if call.module else call.argument(2, "mode", "constant")
    if mode != "constant":
        raise UnknownOperationError(f"LRP knows padding by a constant; here it is {mode!r}")
    return Rearrange(call.function, adds_constants=True)


def _identity(call: Call) -> Operation:
    return Identity()


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


# Kinds of nodes `->` the operation they are: types of modules, functions, names of methods.
ROWS: tuple[tuple[Callable[[Call], Operation], tuple[Any, ...]], ...] = (
    (_convolution, (nn.Conv1d, nn.Conv2d, nn.Conv3d, F.conv1d, F.conv2d, F.conv3d)),
    (_linear, (nn.Linear, F.linear)),
    (_batch_norm, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)),
    (_layer_norm, (nn.LayerNorm, F.layer_norm)),
    (_plus, (operator.add, torch.add, "add")),
    (_minus, (operator.sub, torch.sub, torch.subtract, "sub", "subtract")),
    (_product, (operator.mul, torch.mul, torch.multiply, "mul", "multiply")),
    (_quotient, (operator.truediv, torch.div, torch.divide, "div", "divide")),
    (_rectifier, (nn.ReLU, F.relu, torch.relu, "relu", nn.ReLU6, F.relu6)),
    (_positive, (nn.Softplus, F.softplus)),
    (_switch, (nn.Sigmoid, F.sigmoid, torch.sigmoid, "sigmoid", nn.Hardsigmoid, F.hardsigmoid)),
    (_signed_switch, (nn.Tanh, F.tanh, torch.tanh, "tanh")),
    (_activation, (nn.SiLU, F.silu, nn.GELU, F.gelu, nn.Hardswish, F.hardswish, nn.Mish, F.mish)),
    (_activation, (nn.ELU, F.elu, nn.SELU, F.selu, nn.CELU, F.celu, nn.Hardtanh, F.hardtanh)),
    (_activation, (nn.LeakyReLU, F.leaky_relu, nn.PReLU)),
    (_clamp, (torch.clamp, "clamp")),
    (_max_pool, (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, F.max_pool1d, F.max_pool2d, F.max_pool3d)),
    (_max_pool, (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)),
    (_max_pool, (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)),
    (_average_pool, (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)),
    (_average_pool, (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)),
    (_average_pool, (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)),
    (_average_pool, (torch.mean, torch.sum, "mean", "sum")),
    (_concatenate, (torch.cat, torch.concat, torch.concatenate)),
    (_rearrange, (nn.Flatten, torch.flatten, "flatten", nn.Unflatten, torch.unflatten, "unflatten")),
    (_rearrange, ("view", torch.reshape, "reshape", torch.permute, "permute", torch.transpose, "transpose")),
    (_rearrange, (torch.squeeze, "squeeze", torch.unsqueeze, "unsqueeze", "contiguous")),
    (_rearrange, (operator.getitem, torch.narrow, "narrow")),
    (_rearrange, (nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle)),
    (_pad, (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d, F.pad)),
    (_identity, (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)),
    (_identity, (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)),
    (_identity, (nn.Identity, StochasticDepth, stochastic_depth, torch.clone, "clone", torch.detach, "detach")),
)
OPERATIONS: dict[Any, Callable[[Call], Operation]] = {key: build for build, keys in ROWS for key in keys}
OWN = {"__init__", "__module__", "__doc__", "__annotations__", "__qualname__", "extra_repr", "reset_parameters"}


def kind_of(module: nn.Module) -> type[nn.Module]:
    """The type of a module; of one that only adds to a type that is known, that one."""
    more: set[str] = set()
    for kind in type(module).__mro__:
        if kind in OPERATIONS and not any(hasattr(kind, name) or name in ("weight", "bias") for name in more - OWN):
            return kind
        more |= set(vars(kind))
    return type(module)


# Their outputs lie in memory of their own; that of everything else may be an input under another name.
FRESH = frozenset(key for key, build in OPERATIONS.items() if build not in (_rearrange, _identity))
FRESH |= {torch.clone, "clone"}
# These hand out several tensors; each that is read of them is an operation of its own.
PARTS = (torch.chunk, "chunk", torch.split, "split", torch.unbind, "unbind", torch.tensor_split, "tensor_split")


def part(whole: Callable[..., Sequence[Tensor]], at: int) -> Operation:
    """One of the tensors that a call of `PARTS` hands out."""
    return Rearrange(lambda *values: whole(*values)[at])
