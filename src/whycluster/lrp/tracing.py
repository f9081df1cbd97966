"""The graph of a network, free of what running it would bring along: modes, hooks, and values overwritten in place."""

import inspect
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType
from typing import Any

from torch import fx, nn


class _Tracer(fx.Tracer):
    """Traces what modules compute without running the hooks that others have set on them."""

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return super().call_module(m, m.forward, args, kwargs)


def trace_graph(network: nn.Module) -> fx.Graph:
    """The graph of a network as it computes when evaluated; what nobody reads is left out.

    Raises:
        ValueError: if what it computes depends on values.
    """
    tracer = _Tracer()
    tracer.record_stack_traces = True
    try:
        with _evaluating(network):
            graph = tracer.trace(network)
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{type(network).__name__} cannot be traced by torch.fx, "
            f"because what it computes depends on values: {error}"
        ) from error
    _read_what_was_written(graph, network)
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)  # what nobody reads needs no rule
    return graph


def _read_what_was_written(graph: fx.Graph, network: nn.Module) -> None:
    """Where a node works in place, whoever reads its input later reads its output: here nothing is in place."""
    for node in graph.nodes:
        if _is_in_place(node, network):
            node.all_input_nodes[0].replace_all_uses_with(node, delete_user_cb=partial(operator.lt, node))


def _is_in_place(node: fx.Node, network: nn.Module) -> bool:
    if node.op == "call_module":
        return bool(getattr(network.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_")
    if isinstance(node.target, FunctionType):  # functions of torch that are not written in Python know no `inplace`
        return bool(inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments.get("inplace"))
    return False


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
