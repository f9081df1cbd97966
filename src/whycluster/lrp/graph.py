"""From a traced network to the operations that LRP walks, batch norms folded into the layers before them."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from whycluster.lrp.operations import (
    Activation,
    AveragePool,
    Concatenate,
    Convolution,
    Linear,
    LinearMap,
    MaxPool,
    Operation,
    Reshape,
)
from whycluster.lrp.tracing import trace_graph

TORCH = str(Path(torch.__file__).parent)


@dataclass(frozen=True)
class Step:
    """One operation of the traced network, in the order of computation.

    Attributes:
        name: of the module (`features.0`) or of the traced node.
        operation: what it computes.
        inputs: the steps whose outputs it reads; -1 is the image.
        first: whether no linear map stands between the image and it.
        nonnegative: whether its inputs are known to have no negative entry.
    """

    name: str
    operation: Operation
    inputs: tuple[int, ...]
    first: bool
    nonnegative: bool


@dataclass(frozen=True)
class Call:
    """A node of the traced graph with what it calls.

    Attributes:
        key: the module's type, the function, or the method's name.
        module: the module called, if it is one.
        function: the call as a function of its first tensor, free of hooks and never in place.
        args: the node's own arguments.
        kwargs: its keyword arguments.
    """

    key: Any
    module: nn.Module | None
    function: Callable[[Tensor], Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def trace(network: nn.Module) -> list[Step]:
    """The steps of a network as it computes when evaluated.

    Args:
        network: takes one tensor of images, returns one tensor; its control flow does not depend on values.

    Returns:
        Steps in order of computation; the last is the output.

    Raises:
        ValueError: if the network cannot be traced, or has an operation that relevance cannot pass.
    """
    graph = trace_graph(network)
    modules = dict(network.named_modules())
    steps: list[Step] = []
    place: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            if -1 in place.values():
                raise ValueError("the network takes several inputs; LRP explains networks of one tensor of images.")
            place[node] = -1
        elif node.op == "output":
            return _ending_at(steps, place.get(node.args[0]))
        else:
            place[node] = _append(steps, node, modules, place)
    raise ValueError("the network returns nothing that could be explained.")


def _ending_at(steps: list[Step], last: int | None) -> list[Step]:
    if last is None or last < 0:
        raise ValueError("the network has to return one tensor that it computed from the images.")
    return steps[: last + 1]


def _append(steps: list[Step], node: fx.Node, modules: dict[str, nn.Module], place: dict[fx.Node, int]) -> int:
    """Adds the step of a node and returns its place; a folded batch norm takes the place of its convolution."""
    call = _call(node, modules)
    sources: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), sources.append)  # unlike `node.all_input_nodes`, as often as they are read
    inputs = tuple(place[source] for source in sources)
    if call.module is not None and isinstance(call.module, _BatchNorm):
        return _fold(steps, node, call.module, inputs[0])
    build = OPERATIONS.get(call.key)
    if build is None or not inputs or (len(inputs) > 1 and build is not _concatenate):
        raise ValueError(_unknown(node, call))
    before = [steps[i] if i >= 0 else None for i in inputs]
    step = Step(
        name=_name(node),
        operation=build(call),
        inputs=inputs,
        first=not any(step and _sees_no_image(step) for step in before),
        nonnegative=all(step is not None and _is_nonnegative(step) for step in before),
    )
    steps.append(step)
    return len(steps) - 1


def _sees_no_image(step: Step) -> bool:
    weighted = isinstance(step.operation, LinearMap) and step.operation.weight is not None
    return weighted or not step.first


def _is_nonnegative(step: Step) -> bool:
    return step.operation.is_nonnegative([step.nonnegative])


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _call(node: fx.Node, modules: dict[str, nn.Module]) -> Call:
    args, kwargs = node.args, dict(node.kwargs)
    if "inplace" in kwargs:
        kwargs["inplace"] = False
    if node.op == "call_module":
        module = modules[str(node.target)]
        private: Any = copy.copy(module)  # shares parameters; only the copy stops working in place
        if hasattr(private, "inplace"):
            private.inplace = False
        return Call(type(module), module, private.forward, args, kwargs)
    key = function = cast(Any, node.target)
    if node.op == "call_method":
        key = str(key).removesuffix("_")
        function = getattr(Tensor, key, None)
    return Call(key, None, lambda x: function(x, *args[1:], **kwargs), args, kwargs)


def _unknown(node: fx.Node, call: Call) -> str:
    what = getattr(call.key, "__name__", str(call.key))
    lines = [line.strip() for line in (node.stack_trace or "").splitlines()]
    places = [line for line in lines if line.startswith("File") and TORCH not in line]
    where = f" ({places[-1]})" if places else ""
    return (
        f"LRP does not know how relevance passes {what!r} at node {_name(node)!r}{where}; "
        f"cut the backbone at an earlier layer, or write the step with operations that it knows."
    )


def _fold(steps: list[Step], node: fx.Node, norm: _BatchNorm, place: int) -> int:
    """Folds a batch norm into the layer before it: `w·γ/σ` and `(b - μ)·γ/σ + β`."""
    layer = steps[place].operation if place >= 0 else None
    source = node.all_input_nodes[0]
    if not isinstance(layer, Convolution | Linear) or len(source.users) > 1 or layer.weight is None:
        raise ValueError(
            f"the batch norm {_name(node)!r} does not follow a convolution of its own; LRP cannot fold it."
        )
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError(f"the batch norm {_name(node)!r} keeps no running statistics; LRP needs them to fold it.")
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach()
    bias = -norm.running_mean if layer.bias is None else layer.bias - norm.running_mean
    bias = bias * scale if norm.bias is None else bias * scale + norm.bias.detach()
    folded = copy.copy(layer)
    folded.weight, folded.bias = layer.weight * scale.view(-1, *[1] * (layer.weight.ndim - 1)), bias
    steps[place] = replace(steps[place], operation=folded)
    return place


def _convolution(call: Call) -> Operation:
    module = call.module
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)  # by the table below
    if module.padding_mode != "zeros":
        raise ValueError(f"LRP knows zero padding; a convolution here pads by {module.padding_mode!r}.")
    # What torch resolved of padding="same" or of numbers: (before, after), last dimension first.
    flat = module._reversed_padding_repeated_twice
    padding = list(zip(flat[::2], flat[1::2], strict=True))[::-1]
    weight, bias = module.weight.detach(), module.bias
    return Convolution(
        weight, None if bias is None else bias.detach(), module.stride, padding, module.dilation, module.groups
    )


def _linear(call: Call) -> Operation:
    module = call.module
    assert isinstance(module, nn.Linear)
    return Linear(module.weight.detach(), None if module.bias is None else module.bias.detach())


def _concatenate(call: Call) -> Operation:
    named = call.kwargs.get("dim", call.kwargs.get("axis", 0))
    return Concatenate(call.args[1] if len(call.args) > 1 else named)


def _identity(call: Call) -> Operation:
    return Reshape(lambda x: x)


OPERATIONS: dict[Any, Callable[[Call], Operation]] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    nn.Linear: _linear,
    **dict.fromkeys((nn.ReLU, F.relu, torch.relu, "relu"), lambda call: Activation(torch.relu, nonnegative=True)),
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
    **dict.fromkeys((nn.Flatten, torch.flatten, "flatten"), lambda call: Reshape(call.function)),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.Identity), _identity),
    **dict.fromkeys((F.dropout, F.dropout2d, F.dropout3d, "contiguous"), _identity),
    **dict.fromkeys((torch.cat, torch.concat), _concatenate),
}
