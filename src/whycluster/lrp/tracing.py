"""The graph of a network, free of what running it would bring along: modes, hooks, and values overwritten in place."""

import inspect
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torchvision.ops import stochastic_depth

# Functions that write over their first argument.
IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv, torch.relu_, torch.sigmoid_, torch.tanh_)
# What hands on its input, or a view of it: dropout does so when evaluated.
SHARING_MODULES = (nn.Identity, nn.modules.dropout._DropoutNd, nn.Flatten, nn.Unflatten)
SHARING = (
    "view",
    "reshape",
    "flatten",
    "permute",
    "transpose",
    "squeeze",
    "unsqueeze",
    "contiguous",
    "narrow",
    "chunk",
)
SHARING_FUNCTIONS = (
    *(torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze, torch.narrow),
    *(operator.getitem, torch.chunk, torch.split, torch.unbind, "split", "unbind", F.dropout, stochastic_depth),
)


class _Proxy(fx.Proxy):
    """Records `x += y` as what it is; torch.fx would take it for `x = x + y` and forget that x has changed."""

    def __iadd__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})


class _Tracer(fx.Tracer):
    """Traces what modules compute without running the hooks that others have set on them."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return super().call_module(m, m.forward, args, kwargs)


def trace_graph(network: nn.Module) -> tuple[fx.Graph, dict[str, Any]]:
    """The graph of a network as it computes when evaluated; what nobody reads is left out.

    Returns:
        The graph, and the tensors that its `get_attr` nodes name: of the network, or written into its `forward`.

    Raises:
        ValueError: if what it computes depends on values, or is written over while it is still needed.
    """
    tracer = _Tracer()
    tracer.record_stack_traces = True
    before = set(vars(network))
    try:
        with _evaluating(network):
            graph = tracer.trace(network)
        kept = {
            str(node.target): _attribute(network, str(node.target)) for node in graph.nodes if node.op == "get_attr"
        }
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{type(network).__name__} cannot be traced by torch.fx, "
            f"because what it computes depends on values: {error}"
        ) from error
    finally:  # torch.fx hangs tensors that it meets on its way onto the network
        for name in set(vars(network)) - before:
            delattr(network, name)
    _read_what_was_written(graph, network)
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)  # what nobody reads needs no rule
    return graph, kept


def _attribute(network: nn.Module, target: str) -> Any:
    """What a dotted name of the network stands for."""
    value: Any = network
    for name in target.split("."):
        value = getattr(value, name)
    return value.detach() if isinstance(value, Tensor) else value


def _read_what_was_written(graph: fx.Graph, network: nn.Module) -> None:
    """Where a node works in place, whoever reads its input later reads its output: here nothing is in place."""
    shared: dict[fx.Node, set[fx.Node]] = {}  # nodes that may be other names of the same memory
    for node in graph.nodes:
        if _is_in_place(node, network):
            written = node.all_input_nodes[0]
            for other in shared.get(written, set()) - {written}:
                if any(user > node for user in other.users):
                    raise ValueError(
                        f"the node {node.name!r} writes in place over {other.name!r}, which is read later; LRP follows "
                        "values, not memory: compute it out of place there."
                    )
            written.replace_all_uses_with(node, delete_user_cb=partial(operator.lt, node))
            shared[node] = shared.setdefault(written, {written})
            shared[node].add(node)
        elif _may_share_memory(node, network):
            source = node.all_input_nodes[0]
            shared[node] = shared.setdefault(source, {source})
            shared[node].add(node)


def _is_in_place(node: fx.Node, network: nn.Module) -> bool:
    if node.op == "call_module":
        return bool(getattr(network.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).startswith("__")
    if isinstance(node.target, FunctionType):  # functions of torch that are not written in Python know no `inplace`
        return bool(inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments.get("inplace"))
    return node.target in IN_PLACE


def _may_share_memory(node: fx.Node, network: nn.Module) -> bool:
    """Whether what a node hands on may be its input under another name."""
    if node.op == "call_module":
        return isinstance(network.get_submodule(str(node.target)), SHARING_MODULES)
    return bool(node.all_input_nodes) and (node.target in SHARING or node.target in SHARING_FUNCTIONS)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, and afterwards each of its modules in the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training
