"""What the nodes of a network compute, and how relevance finds its way back through them.

Three kinds. A `LinearMap` (see `linear_maps`) mixes values, so a composite has to name the rule by which relevance
passes it. A `Routing` only moves, gates or bends values, and hands each its relevance without asking. A `Plain` node
computes what no relevance can reach: sizes and constants. And what is `Unknown` no relevance may reach.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor


class Operation:
    """One node's computation: values in, one value out, nothing written in place.

    Attributes:
        recomputed: whether the output is cheaper to compute again than to keep until the backward walk.
    """

    recomputed: ClassVar[bool] = True

    def forward(self, *inputs: Any) -> Any:
        raise NotImplementedError

    def carriers(self, n_inputs: int) -> Sequence[int]:
        """Places of the inputs that relevance passes on to; the others only have their say in what is computed."""
        return (0,)

    def is_nonnegative(self, inputs: Sequence[bool]) -> bool:
        """Whether the output cannot be negative, given the same of each input."""
        return inputs[0]

    def is_gate(self, inputs: Sequence[bool]) -> bool:
        """Whether the output is made to open or close other values (see `Gate`), given the same of each input."""
        return False


class DeadEnd(Operation):
    """What relevance does not pass.

    Args:
        function: what is computed.
    """

    recomputed = False

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)

    def carriers(self, n_inputs: int) -> Sequence[int]:
        return ()

    def is_nonnegative(self, inputs: Sequence[bool]) -> bool:
        return False


class Plain(DeadEnd):
    """Sizes, constants, and what is computed from nothing else."""

    def is_gate(self, inputs: Sequence[bool]) -> bool:
        return True


class Unknown(DeadEnd):
    """What relevance cannot pass; within a gate it does not have to.

    Args:
        function: what is computed.
        problem: what to say if relevance arrives.
    """

    def __init__(self, function: Callable[..., Any], problem: str) -> None:
        super().__init__(function)
        self.problem = problem


class Routing(Operation):
    """An operation through which relevance passes whole, to where the values came from.

    Attributes:
        way: by which relevance goes, in a few words.
        reads_values: whether the way depends on the values of the inputs, not only on their shapes.
        adds_constants: whether the output also holds values that were not in the input, and keep their relevance.
        keeps_positive: whether relevance of positive outputs goes to positive inputs.
    """

    way: ClassVar[str]
    reads_values: ClassVar[bool] = False
    adds_constants: bool = False
    keeps_positive: bool = False

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function

    def forward(self, *inputs: Any) -> Tensor:
        return self.function(*inputs)

    def route(self, inputs: Sequence[Any], relevance: Tensor) -> Sequence[Tensor]:
        """Relevance of the output `->` relevance of each carrier, the sum unchanged.

        Args:
            inputs: as computed if the operation `reads_values`; else tensors among them have the right shapes only.
            relevance: shaped as the output.
        """
        raise NotImplementedError


class Activation(Routing):
    """An elementwise function: each unit's relevance stays with it.

    Args:
        function: bent or not, it keeps what is large and drops what is small.
        nonnegative: whether it has no negative values.
        gate: whether it runs between two levels, off and on.
        rectifier: whether it is positive where its input is, and zero elsewhere.
    """

    way = "pass"

    def __init__(
        self, function: Callable[..., Tensor], nonnegative: bool = False, gate: bool = False, rectifier: bool = False
    ) -> None:
        super().__init__(function)
        self.nonnegative, self.gate, self.keeps_positive = nonnegative or rectifier, gate, rectifier

    def is_nonnegative(self, inputs: Sequence[bool]) -> bool:
        return self.nonnegative

    def is_gate(self, inputs: Sequence[bool]) -> bool:
        return self.gate

    def route(self, inputs: Sequence[Any], relevance: Tensor) -> Sequence[Tensor]:
        return (relevance,)


class Identity(Routing):
    """What does nothing when evaluated: dropout, stochastic depth."""

    way = "pass"
    keeps_positive = True

    def __init__(self) -> None:
        super().__init__(lambda x, *others: x)

    def is_gate(self, inputs: Sequence[bool]) -> bool:
        return inputs[0]

    def route(self, inputs: Sequence[Any], relevance: Tensor) -> Sequence[Tensor]:
        return (relevance,)


class Rearrange(Routing):
    """The same values in other places: flattened, transposed, in part, or with a rim of constants around them."""

    way = "move back"
    keeps_positive = True

    def __init__(self, function: Callable[..., Tensor], adds_constants: bool = False) -> None:
        super().__init__(function)
        self.adds_constants = adds_constants

    def is_nonnegative(self, inputs: Sequence[bool]) -> bool:
        return inputs[0] and not self.adds_constants

    def is_gate(self, inputs: Sequence[bool]) -> bool:
        return inputs[0]

    def route(self, inputs: Sequence[Any], relevance: Tensor) -> Sequence[Tensor]:
        x, *others = inputs
        return (vector_jacobian(lambda x: self.function(x, *others), x, relevance),)


class Concatenate(Routing):
    """Inputs side by side along `dim`; relevance is cut where they meet."""

    way = "split"
    keeps_positive = True

    def __init__(self, dim: int) -> None:
        super().__init__(lambda *inputs: torch.cat(inputs, dim))
        self.dim = dim

    def carriers(self, n_inputs: int) -> Sequence[int]:
        return range(n_inputs)

    def is_nonnegative(self, inputs: Sequence[bool]) -> bool:
        return all(inputs)

    def is_gate(self, inputs: Sequence[bool]) -> bool:
        return all(inputs)

    def route(self, inputs: Sequence[Any], relevance: Tensor) -> Sequence[Tensor]:
        return torch.split(relevance, [x.shape[self.dim] for x in inputs], self.dim)


class MaxPool(Routing):
    """Winner takes all: the largest value of a window gets the relevance of that window."""

    way = "to the largest"
    reads_values = True
    recomputed = False
    keeps_positive = True

    def is_gate(self, inputs: Sequence[bool]) -> bool:
        return inputs[0]

    def route(self, inputs: Sequence[Any], relevance: Tensor) -> Sequence[Tensor]:
        x, *others = inputs
        return (vector_jacobian(lambda x: self.function(x, *others), x, relevance),)


class Gate(Routing):
    """A product in which one factor opens or closes the other: the gate is a constant, the signal takes all.

    Args:
        function: the product.
        signal: place of the input that is no gate.
    """

    way = "pass, the gate is constant"

    def __init__(self, function: Callable[..., Tensor], signal: int) -> None:
        super().__init__(function)
        self.signal = signal

    def carriers(self, n_inputs: int) -> Sequence[int]:
        return (self.signal,)

    def is_nonnegative(self, inputs: Sequence[bool]) -> bool:
        return len(inputs) > 1 and all(inputs)

    def is_gate(self, inputs: Sequence[bool]) -> bool:
        return inputs[self.signal]

    def route(self, inputs: Sequence[Any], relevance: Tensor) -> Sequence[Tensor]:
        return (relevance,)


def vector_jacobian(function: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """`yᵀ·∂function/∂x`, shaped as `x`; for functions without parameters."""
    with torch.enable_grad():
        leaf = x.detach().to(y.dtype).requires_grad_()
        return torch.autograd.grad(function(leaf), leaf, y)[0]
