"""What the nodes of a network compute, and how each can be run backward.

Two kinds. A `LinearMap` mixes its inputs with weights, so a composite has to name the rule by which relevance passes
it. Every other operation only moves or gates values and routes relevance by itself, without loss.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input

CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONVOLVE_BACK: dict[int, Callable[..., Tensor]] = {1: conv1d_input, 2: conv2d_input, 3: conv3d_input}


class Operation:
    """One node's computation: tensors in, one tensor out, nothing written in place.

    Attributes:
        recomputed: whether the output is cheaper to compute again than to keep until the backward walk.
    """

    recomputed: ClassVar[bool] = True

    def forward(self, *inputs: Tensor) -> Tensor:
        raise NotImplementedError

    def is_nonnegative(self, inputs: Sequence[bool]) -> bool:
        """Whether the output cannot be negative, given the same of each input."""
        return all(inputs)


class Routing(Operation):
    """An operation through which relevance passes whole, to where the values came from."""

    def route(self, inputs: Sequence[Tensor], relevance: Tensor) -> Sequence[Tensor]:
        """Relevance of the output `->` relevance of each input, the sum unchanged."""
        raise NotImplementedError


class Activation(Routing):
    """An elementwise function: each unit's relevance stays with it (the `pass` rule)."""

    def __init__(self, function: Callable[[Tensor], Tensor], nonnegative: bool) -> None:
        self.function = function
        self.nonnegative = nonnegative

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)

    def is_nonnegative(self, inputs: Sequence[bool]) -> bool:
        return self.nonnegative

    def route(self, inputs: Sequence[Tensor], relevance: Tensor) -> Sequence[Tensor]:
        return (relevance,)


class Reshape(Routing):
    """A new shape for the same values: flattening, and dropout or identity, which do nothing when evaluated."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)

    def route(self, inputs: Sequence[Tensor], relevance: Tensor) -> Sequence[Tensor]:
        return (relevance.reshape(inputs[0].shape),)


class Concatenate(Routing):
    """Inputs side by side along `dim`; relevance is cut where they meet."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, self.dim)

    def route(self, inputs: Sequence[Tensor], relevance: Tensor) -> Sequence[Tensor]:
        return torch.split(relevance, [x.shape[self.dim] for x in inputs], self.dim)


class MaxPool(Routing):
    """Winner takes all: the largest value of a window gets the relevance of that window."""

    recomputed = False

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)

    def route(self, inputs: Sequence[Tensor], relevance: Tensor) -> Sequence[Tensor]:
        return (vector_jacobian(self.function, inputs[0], relevance),)


class LinearMap(Operation):
    """A linear function of the input with weights `w`, plus a bias: `z = w·x + b`.

    Attributes:
        weight: the weights, or `None` where they are fixed (pooling).
        bias: `(channels,)`, or `None`.
    """

    recomputed = False
    weight: Tensor | None = None
    bias: Tensor | None = None

    def __init__(self) -> None:
        self._modified: dict[str, Tensor] = {}

    def apply(self, x: Tensor, weight: Tensor | None) -> Tensor:
        """`weight·x`, without the bias; `x` with any batch size."""
        raise NotImplementedError

    def transpose(self, y: Tensor, weight: Tensor | None, shape: torch.Size) -> Tensor:
        """`weightᵀ·y`: values at the outputs `->` values at inputs of `shape`."""
        raise NotImplementedError

    def along_channels(self, channels: Tensor) -> Tensor:
        """`(channels,)` shaped to broadcast against an output."""
        raise NotImplementedError

    def sum_channels(self, y: Tensor) -> Tensor:
        """An output summed over all but its images and channels, `(N, channels)`."""
        raise NotImplementedError

    def forward(self, *inputs: Tensor) -> Tensor:
        z = self.apply(inputs[0], self.weight)
        return z if self.bias is None else z + self.along_channels(self.bias)

    def is_nonnegative(self, inputs: Sequence[bool]) -> bool:
        return False

    def modified(self, name: str, modify: Callable[[Tensor], Tensor]) -> Tensor:
        """The weights changed by `modify`; computed once, kept under `name`."""
        if self.weight is None:
            raise ValueError(f"the rule wants {name} weights, and {type(self).__name__} has no weights to modify")
        if name not in self._modified:
            self._modified[name] = modify(self.weight)
        return self._modified[name]

    @property
    def positive(self) -> Tensor:
        """`w⁺ = max(w, 0)`."""
        return self.modified("positive", lambda weight: weight.clamp(min=0))

    @property
    def negative(self) -> Tensor:
        """`w⁻ = min(w, 0)`."""
        return self.modified("negative", lambda weight: weight.clamp(max=0))


class Convolution(LinearMap):
    """A convolution of one to three dimensions, zero-padded.

    Args:
        weight: `(out, in / groups, *kernel)`.
        bias: `(out,)` or `None`.
        padding: `(before, after)` for each spatial dimension.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, ...],
        padding: Sequence[tuple[int, int]],
        dilation: tuple[int, ...],
        groups: int,
    ) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.stride, self.dilation, self.groups = stride, dilation, groups
        self.padding = tuple(min(sides) for sides in padding)
        # What one side has more than the other is padded by hand. F.pad counts from the last dimension.
        self.uneven = tuple(
            side - even for sides, even in reversed(list(zip(padding, self.padding, strict=True))) for side in sides
        )

    @property
    def dimensions(self) -> int:
        return len(self.stride)

    def apply(self, x: Tensor, weight: Tensor | None) -> Tensor:
        if any(self.uneven):
            x = F.pad(x, self.uneven)
        return CONVOLVE[self.dimensions](x, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def transpose(self, y: Tensor, weight: Tensor | None, shape: torch.Size) -> Tensor:
        before, after = self.uneven[::2][::-1], self.uneven[1::2][::-1]
        padded = [*shape[:2], *(n + a + b for n, a, b in zip(shape[2:], before, after, strict=True))]
        x = CONVOLVE_BACK[self.dimensions](padded, weight, y, self.stride, self.padding, self.dilation, self.groups)
        for axis, (start, length) in enumerate(zip(before, shape[2:], strict=True), start=2):
            x = x.narrow(axis, start, length)
        return x

    def along_channels(self, channels: Tensor) -> Tensor:
        return channels.view(-1, *[1] * self.dimensions)

    def sum_channels(self, y: Tensor) -> Tensor:
        return y.flatten(2).sum(2)

    def forward(self, *inputs: Tensor) -> Tensor:
        x = F.pad(inputs[0], self.uneven) if any(self.uneven) else inputs[0]
        convolve = CONVOLVE[self.dimensions]
        return convolve(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Linear(LinearMap):
    """A fully connected layer; `weight` is `(out, in)`."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def apply(self, x: Tensor, weight: Tensor | None) -> Tensor:
        assert weight is not None  # for the type checker: a Linear is made with weights
        return F.linear(x, weight)

    def transpose(self, y: Tensor, weight: Tensor | None, shape: torch.Size) -> Tensor:
        assert weight is not None
        return y @ weight

    def along_channels(self, channels: Tensor) -> Tensor:
        return channels

    def sum_channels(self, y: Tensor) -> Tensor:
        return y if y.ndim == 2 else y.flatten(1, -2).sum(1)


class AveragePool(LinearMap):
    """Average or sum pooling, adaptive or not: a linear map whose weights are fixed and not negative."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def apply(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return self.function(x)

    def transpose(self, y: Tensor, weight: Tensor | None, shape: torch.Size) -> Tensor:
        return vector_jacobian(self.function, y.new_zeros(shape), y)

    def is_nonnegative(self, inputs: Sequence[bool]) -> bool:
        return all(inputs)


def vector_jacobian(function: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """`yᵀ·∂function/∂x`, shaped as `x`; for functions without parameters."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(function(leaf), leaf, y)[0]
