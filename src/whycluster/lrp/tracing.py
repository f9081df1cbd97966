"""The graph of a network, free of what running it would bring along: modes, hooks, and values overwritten in place."""

import inspect
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from whycluster.lrp.calls import is_about_shape, is_in_place
from whycluster.lrp.nodes import FRESH


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

    def path_of_module(self, mod: nn.Module) -> str:
        try:
            return super().path_of_module(mod)
        except NameError:
            if type(mod) is nn.Sequential:  # such as `self.features[:5]`, whose layers have names of their own
                return "made in forward"
            raise ValueError(
                f"its forward makes a {type(mod).__name__} that is no part of it; make it in __init__, as an attribute"
            ) from None

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return super().call_module(m, m.forward, args, kwargs)


def trace_graph(network: nn.Module) -> tuple[fx.Graph, dict[str, Any]]:
    """The graph of a network as it computes when evaluated; what nobody reads is left out.

    Returns:
        The graph, and the tensors that its `get_attr` nodes name: of the network, or written into its `forward`.

    Raises:
        ValueError: if torch.fx cannot follow what it does, or if it writes over what is still needed.
    """
    if isinstance(network, torch.jit.ScriptModule):
        raise ValueError("a network compiled by torch.jit cannot be traced; give the module that it was made from.")
    tracer = _Tracer()
    tracer.record_stack_traces = True
    before = set(vars(network))
    try:
        with _evaluating(network):
            graph = tracer.trace(network, _defaults(network))
        kept = {
            str(node.target): _attribute(network, str(node.target)) for node in graph.nodes if node.op == "get_attr"
        }
    except Exception as error:  # in the user's program, run with placeholders for values, anything may fail
        met = isinstance(error, fx.proxy.TraceError) or any(word in str(error) for word in ("Proxy", "symbolic"))
        why = ", because what it computes depends on values" if met else ""
        raise ValueError(
            f"{type(network).__name__} cannot be traced by torch.fx{why}: {type(error).__name__}: {error}"
        ) from error
    finally:  # torch.fx hangs tensors that it meets on its way onto the network
        for name in set(vars(network)) - before:
            delattr(network, name)
    _read_what_was_written(graph, dict(network.named_modules()))
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)  # what nobody reads needs no rule
    return graph, kept


def _defaults(network: nn.Module) -> dict[str, Any]:
    """What the network's optional arguments are, which a call with images alone leaves as they are."""
    parameters = list(inspect.signature(network.forward).parameters.values())[1:]
    return {one.name: one.default for one in parameters if one.default is not one.empty}


def _attribute(network: nn.Module, target: str) -> Any:
    """What a dotted name of the network stands for."""
    value: Any = network
    for name in target.split("."):
        value = getattr(value, name)
    return value.detach() if isinstance(value, Tensor) else value


def _read_what_was_written(graph: fx.Graph, modules: dict[str, nn.Module]) -> None:
    """Where a node works in place, whoever reads its input later reads its output: here nothing is in place."""
    shared: dict[fx.Node, set[fx.Node]] = {}  # nodes that may be other names of the same memory
    for node in graph.nodes:
        if "out" in node.kwargs:
            raise ValueError(
                f"the node {node.name!r} writes into its argument `out`; LRP follows values, not memory: leave it out."
            )
        in_place = is_in_place(node, modules)
        if in_place:
            written = node.all_input_nodes[0]
            for other in shared.get(written, set()) - {written}:
                if any(user > node for user in other.users):
                    raise ValueError(
                        f"the node {node.name!r} writes in place over {other.name!r}, which is read later; LRP follows "
                        "values, not memory: compute it out of place there."
                    )
            written.replace_all_uses_with(node, delete_user_cb=partial(operator.lt, node))
        if in_place or _may_share_memory(node, modules):
            sources = node.all_input_nodes[:1] if in_place else node.all_input_nodes
            group = {node}.union(*(shared.get(source, {source}) for source in sources))
            shared.update(dict.fromkeys(group, group))


def _may_share_memory(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether what a node hands on may be one of its inputs under another name."""
    if node.op not in ("call_module", "call_method", "call_function") or is_about_shape(node):
        return False
    return (type(modules[str(node.target)]) if node.op == "call_module" else node.target) not in FRESH


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
