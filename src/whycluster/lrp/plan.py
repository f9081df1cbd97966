"""The plan of a graph: the step and the rule of each node, and what is known of values and relevance beforehand."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from whycluster.errors import UserError
from whycluster.lrp.composites import Composite
from whycluster.lrp.folding import fold
from whycluster.lrp.graph import BATCH_NORM, Graph, aten, function_of, source_line
from whycluster.lrp.linear_maps import AveragePool
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
RETURN = "what the network returns should depend on them, and not only through constants, such as comparisons"
CURE = "cut the network at an earlier layer, or write the step with operations that LRP knows"


@dataclass
class Planned:
    """A node of the graph with its step, its rule, and what is known of its values and of their relevance."""

    node: fx.Node  # of a layer with a folded norm the node of the norm, where its output stands
    name: str  # of its layer or operation
    step: Step
    norm: str | None = None  # the name of the batch norm that is folded into it
    rule: Rule | None = None  # of a linear map
    nonnegative: bool = False  # whether its inputs are known to have no negative entry
    rectified: bool = False  # whether relevance of the output is known to be zero where the output is not positive
    with_relu: bool = False  # whether the linear map also computes the ReLU after it
    done_by_layer: bool = False  # whether this is such a ReLU, whose input is its output

    @property
    def reads(self) -> list[fx.Node]:
        """The nodes whose values are read here; a layer with a folded norm reads what the layer alone did."""
        if isinstance(self.step, LinearStep) and self.norm is not None:
            return [*self.step.relevance_inputs, *self.step.weights]
        return list(self.node.all_input_nodes)

    def compute(self, value: Callable[[fx.Node], Any]) -> Any:
        """Computes the operation from the values of nodes."""
        args, kwargs = fx.map_arg((self.node.args, self.node.kwargs), value)
        return function_of(self.node)(*args, **kwargs)


def plan(graph: Graph, composite: Composite, attention: Attention) -> list[Planned]:
    """Plans a graph, in order of computation; nodes that relevance does not reach are constants.

    Raises:
        UserError: if relevance would reach an operation that LRP does not know, or a layer without a rule.
    """
    steps, names = _steps(graph, attention), dict(graph.names)
    norms = _fold_norms(graph, steps, names)
    users = _users(graph, steps)
    behind_weights: set[fx.Node] = set()
    planned: dict[fx.Node, Planned] = {}
    for node, step in steps.items():
        reached = node in users
        if reached and isinstance(step, UnknownStep):
            raise UserError(f"{step.problem}; {CURE}.")
        if reached and isinstance(node.meta["val"], Tensor) and node not in graph.batches:
            raise UserError(f"the network mixes its images at node {graph.names[node]!r}{source_line(node)}; {MIXED}.")
        one = planned[node] = Planned(node, names[node], step if reached else ConstantStep(), norms.get(node))
        later = any(source in behind_weights for source in step.relevance_inputs)
        if isinstance(one.step, LinearStep):
            one.nonnegative = all(
                source in steps and steps[source].facts.nonnegative for source in step.relevance_inputs
            )
            try:
                one.rule = composite.rule(one.step.kind, one.name, first=not later)
            except ValueError as error:
                raise UserError(f"{error}, node {one.name!r}.") from error
        if later or (isinstance(step, LinearStep) and step.weights and step.kind.weighted):
            behind_weights.add(node)
    _rectify(graph, planned, users)
    # Layers that now stand at the place of a norm, and what no step reads any more, are left out.
    read = set(graph.outputs)
    for one in reversed(planned.values()):
        if one.node in read:
            read.update(one.reads)
    return [one for one in planned.values() if one.node in read]


def _steps(graph: Graph, attention: Attention) -> dict[fx.Node, Step]:
    """Finds the step of each node, and through which arguments relevance may pass."""
    facts = {graph.images: Facts()}
    steps: dict[fx.Node, Step] = {}
    for node in graph.nodes:
        call = Call(node, graph.images, facts, attention)
        try:
            steps[node] = step_of(call) if call.relevance_inputs else ConstantStep()
        except UnknownOperationError as error:
            problem = f"{error} (node {graph.names[node]!r}{source_line(node)})"
            steps[node] = UnknownStep(call.relevance_inputs, problem=problem)
        if steps[node].relevance_inputs:
            facts[node] = steps[node].facts
    return steps


def _fold_norms(graph: Graph, steps: dict[fx.Node, Step], names: dict[fx.Node, str]) -> dict[fx.Node, str]:
    """Moves a layer into the place of the batch norm that is its only reader; it keeps its name. Returns the name of
    each folded norm, by its node.
    """
    norms = {}
    for node, step in list(steps.items()):
        if node.target is not BATCH_NORM or not isinstance(step, LinearStep):
            continue
        before = step.relevance_inputs[0]
        layer = steps.get(before)
        if isinstance(layer, LinearStep) and list(before.users) == [node] and before not in graph.outputs:
            folded = fold(layer, node)
            if folded is not None:
                steps[node], steps[before] = folded, ConstantStep()
                names[node], norms[node] = names[before], graph.names[node]
    return norms


def _users(graph: Graph, steps: dict[fx.Node, Step]) -> dict[fx.Node, list[fx.Node]]:
    """Finds the nodes that relevance reaches, each with those that pass relevance on to it."""
    users: dict[fx.Node, list[fx.Node]] = {node: [] for node in graph.outputs}
    for node in reversed(steps):
        if node in users:
            for source in steps[node].relevance_inputs:
                users.setdefault(source, []).append(node)
    if graph.images not in users:
        raise UserError(f"no relevance can reach the images: {RETURN}.")
    return users


def _rectify(graph: Graph, planned: dict[fx.Node, Planned], users: dict[fx.Node, list[fx.Node]]) -> None:
    """Finds where relevance can only be at positive outputs, and lets layers compute the ReLU that follows them."""
    for node, one in reversed(planned.items()):
        readers = [planned[user] for user in users.get(node, ())]
        one.rectified = node not in graph.outputs and all(_rectifies(reader, one.step.facts) for reader in readers)
        if not (one.rectified and len(node.users) == len(readers) == 1 and isinstance(one.step, LinearStep)):
            continue
        # A pooling may return its own input, which must not be overwritten.
        if readers[0].node.target is aten.relu.default and one.step.kind is not AveragePool:
            one.with_relu = readers[0].done_by_layer = True


def _rectifies(reader: Planned, facts: Facts) -> bool:
    """Tells whether a reader passes on relevance only to values that are positive."""
    if reader.rule is not None:
        return facts.nonnegative and reader.rule.proportional
    return reader.step.rectifier and reader.rectified
