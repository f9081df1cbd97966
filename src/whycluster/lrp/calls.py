"""What a node of a traced graph calls, free of modes, of hooks, and of what works in place."""

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
from torch.nn.utils.parametrize import is_parametrized


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
        plain: of each value it reads, whether no relevance can reach it.
        constants: the tensors that the network keeps, by the nodes that read them.
    """

    key: Any
    module: nn.Module | None
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    gates: tuple[bool, ...]
    plain: tuple[bool, ...]
    constants: dict[fx.Node, Tensor]

    def argument(self, place: int, name: str, default: Any) -> Any:
        """An argument given by place or by name; a tensor that the network keeps as such."""
        given = self.args[place] if len(self.args) > place else self.kwargs.get(name, default)
        return self.constants.get(given, given) if isinstance(given, fx.Node) else given


CURE = "cut the network at an earlier layer, or write the step with operations that LRP knows"


class UnknownOperationError(ValueError):
    """What is wrong with a node, and what could be done about it."""

    def __init__(self, problem: str, cure: str = CURE) -> None:
        super().__init__(problem)
        self.cure = cure


# Out of place, what `x += y` and its like compute.
OUT_OF_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


def call_of(
    node: fx.Node,
    modules: dict[str, nn.Module],
    gates: Sequence[bool],
    plain: Sequence[bool],
    constants: dict[fx.Node, Tensor],
) -> Call:
    """What a node calls.

    Raises:
        UnknownOperationError: for a module whose weights are computed anew at each call.
    """
    key: Any = node.target
    target: Any = node.target
    module: Any = None
    if node.op == "call_module":
        _check_weights(modules[str(target)])
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
    elif node.op == "call_function":
        key = target = _function_out_of_place(target)
    args, kwargs = _out_of_place(target, node.args, dict(node.kwargs))

    def function(*values: Any) -> Any:
        remaining = iter(values)
        filled = fx.map_arg((args, kwargs), lambda _: next(remaining))
        return target(*filled[0], **filled[1])

    return Call(key, module, function, args, kwargs, tuple(gates), tuple(plain), constants)


def _check_weights(module: nn.Module) -> None:
    hooked = isinstance(vars(module).get("weight"), Tensor)
    if hooked or is_parametrized(module):
        cure = "remove_weight_norm or remove_spectral_norm" if hooked else "parametrize.remove_parametrizations"
        cure = "prune.remove" if hasattr(module, "weight_mask") else cure
        raise UnknownOperationError(
            "LRP wants weights, not what they are computed from", f"make them plain by torch.nn.utils.{cure}"
        )


def is_in_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a node writes over its first input."""
    target: Any = node.target
    if node.op == "call_module":
        return bool(getattr(modules[str(target)], "inplace", False))
    name = target if node.op == "call_method" else getattr(target, "__name__", "")
    if target in OUT_OF_PLACE or (name.endswith("_") and not name.startswith("__")):
        return True
    if _knows_inplace(target):
        return bool(inspect.signature(target).bind(*node.args, **node.kwargs).arguments.get("inplace"))
    return False


def _knows_inplace(target: Any) -> bool:
    """Functions of torch that are not written in Python know no `inplace`."""
    return isinstance(target, FunctionType) and "inplace" in inspect.signature(target).parameters


def _function_out_of_place(target: Any) -> Any:
    """For `leaky_relu_` and its like, `leaky_relu`."""
    name = getattr(target, "__name__", "")
    if target in OUT_OF_PLACE or not name.endswith("_") or name.startswith("__"):
        return OUT_OF_PLACE.get(target, target)
    for place in (F, torch):
        if hasattr(place, name[:-1]):
            return getattr(place, name[:-1])
    raise UnknownOperationError(f"LRP does not know what {name!r} computes out of place")


def _out_of_place(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with `inplace` off."""
    if not _knows_inplace(target):
        return args, kwargs
    bound = inspect.signature(target).bind(*args, **kwargs)
    bound.arguments["inplace"] = False
    return bound.args, bound.kwargs


def is_about_shape(node: fx.Node) -> bool:
    """Whether a node asks for the size or kind of a tensor, not for its values."""
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim", "dtype", "device")
    return node.op == "call_method" and node.target in ("size", "dim", "numel")
