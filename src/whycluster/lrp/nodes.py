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
    return Activation(call.function, nonnegative=True)


def _switch(call: Call) -> Operation:
    return Activation(call.function, nonnegative=True, gate=True)


def _signed_switch(call: Call) -> Operation:
    return Activation(call.function, gate=True)


def _activation(call: Call) -> Operation:
    return Activation(call.function)


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
    (_convolution, (nn.Conv1d, nn.Conv2d, nn.Conv3d)),
    (_linear, (nn.Linear,)),
    (_batch_norm, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)),
    (_layer_norm, (nn.LayerNorm, F.layer_norm)),
    (_plus, (operator.add, torch.add, "add")),
    (_minus, (operator.sub, torch.sub, torch.subtract, "sub", "subtract")),
    (_product, (operator.mul, torch.mul, torch.multiply, "mul", "multiply")),
    (_quotient, (operator.truediv, torch.div, torch.divide, "div", "divide")),
    (_rectifier, (nn.ReLU, F.relu, torch.relu, "relu", nn.ReLU6, F.relu6, nn.Softplus, F.softplus)),
    (_switch, (nn.Sigmoid, F.sigmoid, torch.sigmoid, "sigmoid", nn.Hardsigmoid, F.hardsigmoid)),
    (_signed_switch, (nn.Tanh, F.tanh, torch.tanh, "tanh")),
    (_activation, (nn.SiLU, F.silu, nn.GELU, F.gelu, nn.Hardswish, F.hardswish, nn.Mish, F.mish)),
    (_activation, (nn.ELU, F.elu, nn.SELU, F.selu, nn.CELU, F.celu, nn.Hardtanh, F.hardtanh)),
    (_activation, (nn.LeakyReLU, F.leaky_relu, nn.PReLU)),
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
# Their outputs lie in memory of their own; that of everything else may be an input under another name.
FRESH = frozenset(key for key, build in OPERATIONS.items() if build not in (_rearrange, _identity))
FRESH |= {torch.clone, "clone"}
# These hand out several tensors; each that is read of them is an operation of its own.
PARTS = (torch.chunk, "chunk", torch.split, "split", torch.unbind, "unbind", torch.tensor_split, "tensor_split")


def part(whole: Callable[..., Sequence[Tensor]], at: int) -> Operation:
    """One of the tensors that a call of `PARTS` hands out."""
    return Rearrange(lambda *values: whole(*values)[at])
