"""From a traced network to the operations that LRP walks, batch norms folded into the layers before them."""

import operator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from whycluster.lrp.calls import Call, UnknownOperationError, call_of, is_about_shape
from whycluster.lrp.folding import fold
from whycluster.lrp.linear_maps import Add, BatchNorm, Convolution, Linear, LinearMap, Shift
from whycluster.lrp.nodes import OPERATIONS, PARTS, kind_of, part
from whycluster.lrp.operations import Operation, Plain, Unknown
from whycluster.lrp.tracing import plain_network, trace_graph, users_line

IMAGE = -1


@dataclass(frozen=True)
class Step:
    """One operation of the traced network, in the order of computation.

    Attributes:
        name: of the module (`features.0`) or of the traced node.
        operation: what it computes.
        inputs: the steps whose outputs it reads; `IMAGE` is the image.
        first: whether no layer with weights stands between the image and it.
        nonnegative: whether its output is known to have no negative entry.
        norm: the batch norm that is folded into it, if any.
        reached: whether relevance can reach it; gates and sizes are computed, and nothing more.
        kept: whether its output is kept for the walk back, rather than computed again.
    """

    name: str
    operation: Operation
    inputs: tuple[int, ...]
    first: bool = False
    nonnegative: bool = False
    norm: str | None = None
    reached: bool = True
    kept: bool = True


def trace(network: nn.Module) -> list[Step]:
    """The steps of a network as it computes when evaluated.

    Args:
        network: takes one tensor of images, returns one tensor; its control flow does not depend on values.

    Returns:
        Steps in order of computation; the last is the output.

    Raises:
        ValueError: if the network cannot be traced, or has an operation that relevance cannot pass.
    """
    network = plain_network(network)
    if kind_of(network) in OPERATIONS:
        network = nn.Sequential(network)  # a single layer; torch.fx would look into it
    building = _Building(dict(network.named_modules()))
    graph, kept = trace_graph(network)
    for node in graph.nodes:
        if node.op == "placeholder":
            if IMAGE in building.place.values() and not node.users:
                continue  # an optional argument, which nobody gives
            if IMAGE in building.place.values():
                raise ValueError("the network takes several inputs; LRP explains networks of one tensor of images.")
            building.place[node] = IMAGE
        elif node.op == "get_attr":
            building.add_constant(node, kept[str(node.target)])
        elif node.op == "output":
            return _ending_at(building.steps, building.place.get(node.args[0]))
        else:
            building.add(node)
    raise ValueError("the network returns nothing that could be explained.")


@dataclass
class _Building:
    """Steps as they come.

    Attributes:
        modules: of the network, by name.
        steps: so far.
        place: of each node that has one.
        gates: whether the output of each step is a gate.
        constants: tensors that the network keeps, by the nodes that read them.
        wholes: calls that hand out several tensors, with the steps that they read.
    """

    modules: dict[str, nn.Module]
    steps: list[Step] = field(default_factory=list)
    place: dict[fx.Node, int] = field(default_factory=dict)
    gates: dict[int, bool] = field(default_factory=lambda: {IMAGE: False})
    constants: dict[fx.Node, Tensor] = field(default_factory=dict)
    wholes: dict[fx.Node, tuple[Call, tuple[int, ...]]] = field(default_factory=dict)

    def add_constant(self, node: fx.Node, value: Any) -> None:
        """A tensor that the network keeps."""
        self.constants[node] = value
        self.place[node] = self._append(str(node.target), Plain(lambda: value), ())

    def add(self, node: fx.Node) -> None:
        """The step of a node; a folded batch norm becomes part of the step before it."""
        sources: list[fx.Node] = []
        fx.map_arg((node.args, node.kwargs), sources.append)  # unlike `node.all_input_nodes`, as often as they are read
        try:
            if node.target is operator.getitem and sources[0] in self.wholes:
                self.place[node] = self._add_part(node, sources[0])
                return
            if any(source in self.wholes for source in sources):
                raise UnknownOperationError(
                    f"LRP does not know how relevance passes {node.name!r} of all parts at once"
                )
            inputs = tuple(self.place[source] for source in sources)
            plain = [self._is_plain(at) for at in inputs]
            call = call_of(node, self.modules, [self.gates[at] for at in inputs], plain, self.constants)
            if is_about_shape(node) or all(plain):
                self.place[node] = self._append(node.name, Plain(call.function), inputs)
            elif call.key in PARTS:
                self.wholes[node] = call, inputs
            else:
                self.place[node] = self._add(node, call, inputs)
        except UnknownOperationError as error:
            raise ValueError(_problem(node, error)) from error

    def _add(self, node: fx.Node, call: Call, inputs: tuple[int, ...]) -> int:
        """The place of a node through which relevance may pass."""
        try:
            operation = self._operation(call)
        except UnknownOperationError as error:
            return self._append(_name(node), Unknown(call.function, _problem(node, error)), inputs)
        if isinstance(operation, BatchNorm) and self._fold(node, operation, inputs[0]):
            return inputs[0]
        if isinstance(operation, Add):
            inputs = tuple(self._term(node, call, at, name) for at, name in enumerate(("input", "other")))
            if any(self._is_plain(at) for at in inputs):
                operation = Shift(operation.signs)
        carriers = operation.carriers(len(inputs))
        if not all(at in carriers or self.gates[source] for at, source in enumerate(inputs)):
            raise UnknownOperationError(f"LRP does not know how relevance passes {_what(call)!r} of several values")
        return self._append(_name(node), operation, inputs)

    def _operation(self, call: Call) -> Operation:
        build = OPERATIONS.get(call.key if call.module is None else kind_of(call.module))
        if build is None:
            raise UnknownOperationError(f"LRP does not know how relevance passes {_what(call)!r}")
        return build(call)

    def _add_part(self, node: fx.Node, whole: fx.Node) -> int:
        """One of the tensors that a call hands out."""
        (call, inputs), at = self.wholes[whole], node.args[1]
        if not isinstance(at, int):
            raise UnknownOperationError("LRP knows single parts of what is split, not several at once")
        return self._append(node.name, part(call.function, at), inputs)

    def _term(self, node: fx.Node, call: Call, at: int, name: str) -> int:
        """The place of a summand, which may be a number."""
        term = call.args[at] if len(call.args) > at else call.kwargs[name]
        if isinstance(term, fx.Node):
            return self.place[term]
        value = torch.as_tensor(term, dtype=torch.float64)  # takes the type of what it is added to
        return self._append(f"{node.name}.constant", Plain(lambda: value), ())

    def _fold(self, node: fx.Node, norm: BatchNorm, place: int) -> bool:
        """Folds a batch norm into the step before it, if that is a layer of its own and stays exact."""
        step = self.steps[place] if place != IMAGE else None
        if step is None or not isinstance(step.operation, Convolution | Linear):
            return False
        readers = [reader for reader in node.all_input_nodes[0].users if not is_about_shape(reader)]
        folded = fold(step.operation, norm, _name(node)) if readers == [node] else None
        if folded is None:
            return False
        name = _name(node) if step.norm is None else f"{step.norm}, {_name(node)}"
        self.steps[place] = replace(step, operation=folded, norm=name)
        return True

    def _append(self, name: str, operation: Operation, inputs: tuple[int, ...]) -> int:
        carriers = [inputs[at] for at in operation.carriers(len(inputs))]
        nonnegative = [at != IMAGE and self.steps[at].nonnegative for at in inputs]
        step = Step(
            name,
            operation,
            inputs,
            first=not any(at != IMAGE and _is_behind_weights(self.steps[at]) for at in carriers),
            nonnegative=operation.is_nonnegative(nonnegative),
        )
        place = len(self.steps)
        self.steps.append(step)
        self.gates[place] = operation.is_gate([self.gates[at] for at in inputs])
        return place

    def _is_plain(self, place: int) -> bool:
        return place != IMAGE and isinstance(self.steps[place].operation, Plain)


def _is_behind_weights(step: Step) -> bool:
    weighted = isinstance(step.operation, LinearMap) and step.operation.weight is not None
    return weighted or not step.first


def _ending_at(steps: list[Step], last: int | None) -> list[Step]:
    """The steps up to the output, each with whether relevance reaches it and whether its output is kept."""
    readers: list[list[int]] = [[] for _ in steps]
    reached = {last}
    for at in reversed(range(0 if last is None else last + 1)):
        operation, inputs = steps[at].operation, steps[at].inputs
        if at in reached and isinstance(operation, Unknown):
            raise ValueError(operation.problem)
        if at in reached and not isinstance(operation, Plain):
            reached.update(inputs[carrier] for carrier in operation.carriers(len(inputs)))
        for source in inputs:
            if source != IMAGE:
                readers[source].append(at)
    if last is None or last == IMAGE or IMAGE not in reached:
        raise ValueError("the network has to return one tensor that it computed from the images.")
    return [
        replace(
            step,
            reached=at in reached,
            kept=not step.operation.recomputed if at in reached else any(reader in reached for reader in readers[at]),
        )
        for at, step in enumerate(steps[: last + 1])
    ]


def _problem(node: fx.Node, error: UnknownOperationError) -> str:
    """What is wrong with a node, where it stands, and what could be done."""
    return f"{error} (node {_name(node)!r}{users_line([node.stack_trace or ''])}); {error.cure}."


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _what(call: Call) -> str:
    return getattr(call.key, "__name__", str(call.key))
