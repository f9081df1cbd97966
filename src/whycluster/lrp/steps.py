"""What one operation of a graph can be to relevance."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import fx

from whycluster.lrp.linear_maps import LinearMap

Attention = Literal["cp", "attn"]
Values = Callable[[Any], Any]  # a node `->` its value; what is no node stays as it is


class Facts(NamedTuple):
    """What is known of the value of a node.

    Attributes:
        nonnegative: it has no negative entry.
        gate: how much it is one that opens and closes other values: 2 from a function between two levels, 1 from
            another activation, else 0.
    """

    nonnegative: bool = False
    gate: int = 0


UNKNOWN = Facts()


class Step:
    """What one operation is to relevance.

    Args:
        carriers: the arguments that relevance passes on to.
        facts: of the output.
        rectifier: whether the output is positive exactly where the first carrier is.
    """

    def __init__(self, carriers: Iterable[fx.Node], facts: Facts = UNKNOWN, rectifier: bool = False) -> None:
        self.carriers, self.facts, self.rectifier = tuple(carriers), facts, rectifier


class ConstantStep(Step):
    """A constant as far as relevance is concerned."""

    def __init__(self, facts: Facts = UNKNOWN) -> None:
        super().__init__((), facts)


class PassStep(Step):
    """Each unit keeps its relevance; of several carriers each gets its share."""


class MoveStep(Step):
    """Relevance goes to where the values came from, as the derivative says.

    Args:
        adds_constants: whether the output also holds values that are constants, which keep their relevance.
    """

    def __init__(self, carriers: Iterable[fx.Node], facts: Facts = UNKNOWN, adds_constants: bool = False) -> None:
        super().__init__(carriers, facts, rectifier=True)
        self.adds_constants = adds_constants


class SoftmaxStep(Step):
    """A softmax that relevance passes (Achtibat et al., arXiv 2402.05602, eq. 12).

    Args:
        dim: along which it sums to 1.
    """

    def __init__(self, carriers: Iterable[fx.Node], dim: int) -> None:
        super().__init__(carriers, Facts(nonnegative=True))
        self.dim = dim


class LinearStep(Step):
    """A linear map, passed by a rule.

    Args:
        kind: of the layer, for which composites have rules.
        make: the layer, from the values of its weights.
        weights: the nodes that `make` reads.
    """

    def __init__(
        self,
        kind: type[LinearMap],
        make: Callable[[Values], LinearMap],
        carriers: Iterable[fx.Node],
        weights: Iterable[Any] = (),
        facts: Facts = UNKNOWN,
    ) -> None:
        super().__init__(carriers, facts)
        self.kind, self.make = kind, make
        self.weights = tuple(one for one in weights if isinstance(one, fx.Node))


class UnknownStep(Step):
    """What relevance must not reach; within a gate it does not have to.

    Args:
        problem: what to say if it does.
    """

    def __init__(self, carriers: Iterable[fx.Node], problem: str) -> None:
        super().__init__(carriers)
        self.problem = problem


@dataclass(frozen=True)
class Call:
    """A node and what is known of its arguments.

    Attributes:
        node: of the graph.
        images: the node that stands for the images.
        facts: of the nodes that relevance may come from, by node; others are constants.
        attention: `cp` or `attn`.
    """

    node: fx.Node
    images: fx.Node
    facts: dict[fx.Node, Facts]
    attention: Attention = "cp"

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments of the node."""
        return self.node.args

    @property
    def carriers(self) -> list[fx.Node]:
        """Arguments that relevance may pass on to, each once."""
        return [node for node in self.node.all_input_nodes if node in self.facts]

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument given by place or by name."""
        given = self.node.args[place] if len(self.node.args) > place else self.node.kwargs.get(name, default)
        return default if given is None else given

    def carries(self, argument: Any) -> bool:
        """Whether relevance may pass on to an argument."""
        return isinstance(argument, fx.Node) and argument in self.facts

    def all_nonnegative(self) -> bool:
        """Of the carriers."""
        return all(self.facts[node].nonnegative for node in self.carriers)

    def least_gate(self) -> int:
        """Of the carriers."""
        return min(self.facts[node].gate for node in self.carriers)


class UnknownOperationError(ValueError):
    """What is wrong with a node."""


Build = Callable[[Call], Step]
