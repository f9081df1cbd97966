"""The ways in which relevance passes an operation of a graph."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import fx

from whycluster.errors import UserError
from whycluster.lrp.linear_maps import LinearMap

Attention = Literal["cp", "attn"]
Values = Callable[[Any], Any]  # returns the value of a node, and all else as it is


class Facts(NamedTuple):
    """What is known of the value of a node."""

    nonnegative: bool = False  # it has no negative entry
    gate: int = 0  # of two factors that of the higher number is the gate: 2 if bounded, 1 for other activations


UNKNOWN = Facts()


@dataclass
class Step:
    """How relevance passes one operation."""

    relevance_inputs: Sequence[fx.Node] = ()  # the arguments that relevance passes on to
    facts: Facts = UNKNOWN  # of the output
    rectifier: bool = False  # as a ReLU: whether the output is positive only where the first of these inputs is


class ConstantStep(Step):
    """An operation that is a constant for relevance, which none of its arguments gets."""


class PassStep(Step):
    """An operation on single units, which keep their relevance; several inputs get equal parts."""


@dataclass
class MoveStep(Step):
    """An operation that moves values; relevance goes back to where they came from, as the derivative says."""

    rectifier: bool = True
    adds_constants: bool = False  # whether the output also holds constants, which keep their relevance


@dataclass
class SoftmaxStep(Step):
    """A softmax along `dim` that relevance passes (Achtibat et al., arXiv 2402.05602, eq. 12)."""

    dim: int = -1


@dataclass
class UnknownStep(Step):
    """An operation that relevance must not reach, and the problem to report if it does."""

    problem: str = ""


class LinearStep(Step):
    """A linear map, passed by a rule.

    Args:
        kind: of the layer, for which composites have rules.
        make: builds the layer from the values of its weights.
        weights: the arguments that `make` reads; only nodes are kept.
    """

    def __init__(
        self,
        kind: type[LinearMap],
        make: Callable[[Values], LinearMap],
        relevance_inputs: Sequence[fx.Node],
        weights: Iterable[Any] = (),
        facts: Facts = UNKNOWN,
    ) -> None:
        super().__init__(relevance_inputs, facts)
        self.kind, self.make = kind, make
        self.weights = tuple(one for one in weights if isinstance(one, fx.Node))


@dataclass(frozen=True)
class Call:
    """A node and what is known of its arguments."""

    node: fx.Node
    images: fx.Node  # the node of the images
    facts: dict[fx.Node, Facts]  # of the nodes that relevance may come from; all others are constants
    attention: Attention

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments of the node."""
        return self.node.args

    @property
    def relevance_inputs(self) -> list[fx.Node]:
        """Arguments that relevance may pass on to, each once."""
        return [node for node in self.node.all_input_nodes if node in self.facts]

    @property
    def joint(self) -> Facts:
        """What is known of all these arguments."""
        every = [self.facts[node] for node in self.relevance_inputs]
        return Facts(all(facts.nonnegative for facts in every), min(facts.gate for facts in every))

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """Returns an argument that was passed by position or by name."""
        value = self.node.args[place] if len(self.node.args) > place else self.node.kwargs.get(name, default)
        return default if value is None else value

    def is_relevance_input(self, argument: Any) -> bool:
        """Tells whether relevance may pass on to an argument."""
        return isinstance(argument, fx.Node) and argument in self.facts

    def nonnegative(self, argument: Any) -> bool:
        """Tells whether an argument is known to have no negative entry."""
        if isinstance(argument, int | float):
            return argument >= 0
        return self.is_relevance_input(argument) and self.facts[argument].nonnegative


class UnknownOperationError(UserError):
    """An operation, or arguments of it, that LRP cannot pass relevance through."""


Build = Callable[[Call], Step]
