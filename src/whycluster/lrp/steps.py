"""What one operation of a graph can be to relevance."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import fx

from whycluster.errors import UserError
from whycluster.lrp.linear_maps import LinearMap

Attention = Literal["cp", "attn"]
Values = Callable[[Any], Any]  # looks up the value of a node; what is no node it returns as it is


class Facts(NamedTuple):
    """What is known of the value of a node."""

    nonnegative: bool = False  # it has no negative entry
    gate: int = 0  # how much it opens and closes others: 2 from a function of two levels, 1 from another activation


UNKNOWN = Facts()


@dataclass
class Step:
    """What one operation is to relevance."""

    carriers: Sequence[fx.Node] = ()  # the arguments that relevance passes on to
    facts: Facts = UNKNOWN  # of the output
    rectifier: bool = False  # as a ReLU: whether the output is positive only where the first carrier is


class ConstantStep(Step):
    """A constant as far as relevance is concerned: it has no carriers."""


class PassStep(Step):
    """Each unit keeps its relevance; of several carriers each gets its share."""


@dataclass
class MoveStep(Step):
    """Relevance goes to where the values came from, as the derivative says."""

    rectifier: bool = True
    adds_constants: bool = False  # whether the output also holds constants, which keep their relevance


@dataclass
class SoftmaxStep(Step):
    """A softmax along `dim` that relevance passes (Achtibat et al., arXiv 2402.05602, eq. 12)."""

    dim: int = -1


@dataclass
class UnknownStep(Step):
    """What relevance must not reach, and the problem to report if it does; within a gate it does not have to."""

    problem: str = ""


class LinearStep(Step):
    """A linear map, passed by a rule.

    Args:
        kind: of the layer, for which composites have rules.
        make: the layer, from the values of its weights.
        weights: what `make` reads; of it the nodes are kept.
    """

    def __init__(
        self,
        kind: type[LinearMap],
        make: Callable[[Values], LinearMap],
        carriers: Sequence[fx.Node],
        weights: Iterable[Any] = (),
        facts: Facts = UNKNOWN,
    ) -> None:
        super().__init__(carriers, facts)
        self.kind, self.make = kind, make
        self.weights = tuple(one for one in weights if isinstance(one, fx.Node))


@dataclass(frozen=True)
class Call:
    """A node and what is known of its arguments."""

    node: fx.Node
    images: fx.Node  # the node that stands for the images
    facts: dict[fx.Node, Facts]  # of the nodes that relevance may come from; all others are constants
    attention: Attention

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments of the node."""
        return self.node.args

    @property
    def carriers(self) -> list[fx.Node]:
        """Arguments that relevance may pass on to, each once."""
        return [node for node in self.node.all_input_nodes if node in self.facts]

    @property
    def joint(self) -> Facts:
        """What is known of all carriers."""
        every = [self.facts[node] for node in self.carriers]
        return Facts(all(facts.nonnegative for facts in every), min(facts.gate for facts in every))

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument given by place or by name."""
        given = self.node.args[place] if len(self.node.args) > place else self.node.kwargs.get(name, default)
        return default if given is None else given

    def carries(self, argument: Any) -> bool:
        """Whether relevance may pass on to an argument."""
        return isinstance(argument, fx.Node) and argument in self.facts

    def nonnegative(self, argument: Any) -> bool:
        """Whether an argument is known to have no negative entry."""
        if isinstance(argument, int | float):
            return argument >= 0
        return self.carries(argument) and self.facts[argument].nonnegative


class UnknownOperationError(UserError):
    """What is wrong with a node."""


Build = Callable[[Call], Step]
