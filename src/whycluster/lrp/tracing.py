"""The graph of a network, free of what running it would bring along: modes, hooks, and values overwritten in place."""

import inspect
import operator
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from whycluster.lrp.calls import is_about_shape, is_in_place
from whycluster.lrp.nodes import FRESH, OPERATIONS, kind_of

# Where a line of code is not the user's: torch, this package, and what torch.fx writes itself.
NOT_THE_USERS = (
    *(f"{place}{os.sep}" for place in (Path(torch.__file__).parent, Path(__file__).parents[1])),
    "<eval_with_key>",
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

    def __setitem__(self, place: Any, value: Any) -> None:
        raise ValueError("it writes into a part of a tensor; make a new one, by torch.cat or by a product with a mask")


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

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return kind_of(m) in OPERATIONS or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        m = plain_network(m)
        return super().call_module(m, m.forward, args, kwargs)


def plain_network(network: nn.Module) -> nn.Module:
    """What is within the wrapping of torch.compile, or of data-parallel training."""
    if isinstance(network, nn.parallel.DataParallel | nn.parallel.DistributedDataParallel):
        return plain_network(network.module)
    return getattr(network, "_orig_mod", network)


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
    try:
        with _untouched(network):
            graph = tracer.trace(network, _defaults(network))
            names = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
            kept = {name: _attribute(network, name) for name in names}  # also what torch.fx hangs onto the network
    except Exception as error:  # in the user's program, run with placeholders for values, anything may fail
        met = isinstance(error, fx.proxy.TraceError) or any(word in str(error) for word in ("Proxy", "symbolic"))
        why = ", because what it computes depends on values" if met else ""
        line = users_line(traceback.format_list(traceback.extract_tb(error.__traceback__)))
        raise ValueError(
            f"{type(network).__name__} cannot be traced by torch.fx{why}: {type(error).__name__}: {error}{line}"
        ) from error
    for name in names:
        with suppress(AttributeError):
            kept[name] = _attribute(network, name)  # and not the copy of a buffer
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
        if node.kwargs.get("out") is not None:
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
    return (kind_of(modules[str(node.target)]) if node.op == "call_module" else node.target) not in FRESH


@contextmanager
def _untouched(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, and afterwards as it was, whatever its forward writes into it."""
    modules = list(network.modules())
    before = [dict(vars(module)) for module in modules]
    contents = [value for attributes in before for value in attributes.values() if isinstance(value, dict | list)]
    copies = [value.copy() for value in contents]
    try:
        for module in modules:
            module.training = False
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.clone()
        yield
    finally:
        for value, copied in zip(contents, copies, strict=True):
            value.clear()
            value.extend(copied) if isinstance(value, list) else value.update(copied)
        for module, attributes in zip(modules, before, strict=True):
            vars(module).clear()
            vars(module).update(attributes)


def users_line(frames: Iterable[str]) -> str:
    """The last line of the user's own program among these, which begin with `File …`; empty if there is none."""
    lines = [line.strip() for frame in frames for line in frame.splitlines()]
    places = [line for line in lines if line.startswith("File") and not any(place in line for place in NOT_THE_USERS)]
    return f", {places[-1]}" if places else ""
