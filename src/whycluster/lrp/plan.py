"""What LRP does at each node of a graph: its step, its rule, and what is known of values and relevance beforehand."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx

from whycluster.lrp.composites import Composite
from whycluster.lrp.folding import fold
from whycluster.lrp.graph import BATCH_NORM, Graph, aten, function_of, source_line
from whycluster.lrp.linear_maps import AveragePool, LinearMap
from whycluster.lrp.operations import step_of
from whycluster.lrp.rules import Rule
from whycluster.lrp.steps import (
    Attention,
    Call,
    ConstantStep,
    Facts,
    LinearStep,
    Step,
    UnknownOperationError,
    UnknownStep,
)

MIXED = "what it computes should have a row for each image, wherever that is"
CURE = "cut the network at an earlier layer, or write the step with operations that LRP knows"


@dataclass(frozen=True)
class Planned:
    """A node of the graph and what becomes of it.

    Attributes:
        node: of the graph.
        name: of its layer or operation.
        step: what it is to relevance.
        rule: of a linear map.
        nonnegative: whether what it mixes is known to have no negative entry.
        rectified: whether relevance of the output is known to be zero where the output is not positive.
        with_relu: whether the linear map also computes the ReLU after it.
        done_before: whether this is such a ReLU, whose input is its output.
        norm: the name of the batch norm that is folded into it.
    """

    node: fx.Node
    name: str
    step: Step
    rule: Rule | None = None
    nonnegative: bool = False
    rectified: bool = False
    with_relu: bool = False
    done_before: bool = False
    norm: str | None = None

    @property
    def reads(self) -> list[fx.Node]:
        """The nodes whose values are read here; a layer with a folded norm reads what the layer alone did."""
        if isinstance(self.step, LinearStep) and self.norm is not None:
            return [*self.step.carriers, *self.step.weights]
        return list(self.node.all_input_nodes)

    def compute(self, value: Callable[[fx.Node], Any]) -> Any:
        """What the operation computes from the values of nodes."""
        args, kwargs = fx.map_arg((self.node.args, self.node.kwargs), value)
        return function_of(self.node)(*args, **kwargs)


def plan(graph: Graph, composite: Composite, attention: Attention) -> list[Planned]:
    """The plan for a graph, in order of computation; nodes that relevance does not reach are constants.

    Raises:
        ValueError: if relevance would reach an operation that LRP does not know, or a layer without a rule.
    """
    steps = _steps(graph, attention)
    names = dict(graph.names)
    norms = _fold_norms(graph, steps, names)
    users = _users(graph, steps)
    first = _first(graph, steps)
    planned: dict[fx.Node, Planned] = {}
    for node, step in steps.items():
        if node not in users:  # relevance does not reach it
            step = ConstantStep(step.facts)
        if isinstance(step, UnknownStep):
            raise ValueError(f"{step.problem}; {CURE}.")
        if node in users and isinstance(node.meta["val"], Tensor) and node not in graph.batches:
            raise ValueError(f"the network mixes its images at node {graph.names[node]!r}{source_line(node)}; {MIXED}.")
        one = Planned(node, names[node], step, norm=norms.get(node))
        if isinstance(step, LinearStep):
            nonnegative = all(_facts(steps, source).nonnegative for source in step.carriers)
            rule = _rule(composite, step.kind, one.name, first[node])
            one = replace(one, rule=rule, nonnegative=nonnegative)
        planned[node] = one
    _rectify(graph, planned, users)
    return _needed(graph, planned)


def _needed(graph: Graph, planned: dict[fx.Node, Planned]) -> list[Planned]:
    """Without layers that now stand at the place of a norm, and what else no step reads any more."""
    read = set(graph.outputs)
    for one in reversed(planned.values()):
        if one.node in read:
            read.update(one.reads)
    return [one for one in planned.values() if one.node in read]


def _facts(steps: dict[fx.Node, Step], node: fx.Node) -> Facts:
    return steps[node].facts if node in steps else Facts()  # the images


def _steps(graph: Graph, attention: Attention) -> dict[fx.Node, Step]:
    """The step of each node, from what relevance may pass on to."""
    facts = {graph.images: Facts()}
    steps: dict[fx.Node, Step] = {}
    for node in graph.nodes:
        call = Call(node, graph.images, facts, attention)
        if not call.carriers:
            steps[node] = ConstantStep()
            continue
        try:
            steps[node] = step_of(call)
        except UnknownOperationError as error:
            steps[node] = UnknownStep(call.carriers, f"{error} (node {graph.names[node]!r}{source_line(node)})")
        if steps[node].carriers:
            facts[node] = steps[node].facts
    return steps


def _fold_norms(graph: Graph, steps: dict[fx.Node, Step], names: dict[fx.Node, str]) -> dict[fx.Node, str]:
    """Lets a layer before a batch norm, which nothing else reads, stand at the place of the norm, under its own name.

    Returns:
        The names of the norms, by the nodes that now are layers.
    """
    norms = {}
    for node, step in list(steps.items()):
        if node.target is not BATCH_NORM or not isinstance(step, LinearStep):
            continue
        before = step.carriers[0]
        layer = steps.get(before)
        if isinstance(layer, LinearStep) and list(before.users) == [node] and before not in graph.outputs:
            folded = fold(layer, node)
            if folded is not None:
                steps[node] = folded
                steps[before] = ConstantStep()
                norms[node] = graph.names[node]
                names[node] = names[before]
    return norms


def _users(graph: Graph, steps: dict[fx.Node, Step]) -> dict[fx.Node, list[fx.Node]]:
    """The nodes that relevance reaches, each with those that pass relevance on to it.

    Raises:
        ValueError: if relevance does not reach the images.
    """
    users: dict[fx.Node, list[fx.Node]] = {node: [] for node in graph.outputs}
    for node in reversed(steps):
        if node in users:
            for carrier in steps[node].carriers:
                users.setdefault(carrier, []).append(node)
    if graph.images not in users:
        raise ValueError(
            "no relevance can reach the images: the network has to return what it computed from them, and not a "
            "softmax, which is a constant to relevance."
        )
    return users


def _first(graph: Graph, steps: dict[fx.Node, Step]) -> dict[fx.Node, bool]:
    """Whether no layer with weights stands between the images and a node."""
    first = {graph.images: True}
    for node, step in steps.items():
        before = all(
            first[one] and not (one in steps and _has_weights(steps[one])) for one in step.carriers if one in first
        )
        first[node] = before
    return first


def _has_weights(step: Step) -> bool:
    return isinstance(step, LinearStep) and bool(step.weights) and step.kind.weighted


def _rule(composite: Composite, kind: type[LinearMap], name: str, first: bool) -> Rule:
    try:
        return composite.rule(kind, name, first)
    except ValueError as error:
        raise ValueError(f"{error}, node {name!r}.") from error


def _rectify(graph: Graph, planned: dict[fx.Node, Planned], users: dict[fx.Node, list[fx.Node]]) -> None:
    """Finds where relevance can only be at positive outputs, and lets layers compute the ReLU that follows them."""
    rectified: dict[fx.Node, bool] = {}
    for node in reversed(planned):
        one = planned[node]
        readers = [planned[user] for user in users.get(node, ())]
        rectified[node] = node not in graph.outputs and all(
            _rectifies(reader, one.step.facts, rectified[reader.node]) for reader in readers
        )
        alone = readers[0] if len(node.users) == 1 and len(readers) == 1 else None
        relu = alone is not None and alone.node.target is aten.relu.default and rectified[node]
        # A pooling may hand on its own input, over which nothing must be written.
        fuses = isinstance(one.step, LinearStep) and one.step.kind is not AveragePool
        planned[node] = replace(one, rectified=rectified[node], with_relu=relu and fuses)
        if alone is not None and planned[node].with_relu:
            planned[alone.node] = replace(alone, done_before=True)


def _rectifies(reader: Planned, facts: Facts, rectified: bool) -> bool:
    """Whether a reader passes on relevance only to values that are positive."""
    if reader.rule is not None:
        return facts.nonnegative and reader.rule.proportional
    return reader.step.rectifier and rectified
