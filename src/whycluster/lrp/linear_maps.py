"""Nodes that mix values linearly, `z = w·x + b`; what a composite has rules for."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from whycluster.lrp.operations import Operation, vector_jacobian

CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONVOLVE_BACK: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class LinearMap(Operation):
    """A linear function of the input with weights `w`, plus a bias: `z = w·x + b`.

    Attributes:
        weight: the weights, or `None` where they are fixed (pooling, addition).
        bias: `(channels,)`, or `None`.
    """

    recomputed = False
    weight: Tensor | None = None
    bias: Tensor | None = None

    def __init__(self) -> None:
        self._modified: dict[str, Tensor] = {}

    def apply(self, x: Tensor, weight: Tensor | None, bias: Tensor | None = None) -> Tensor:
        """`weight·x + bias`; `x` with any batch size."""
        raise NotImplementedError

    def transpose(self, y: Tensor, weight: Tensor | None, x: Tensor) -> Tensor:
        """`weightᵀ·y`: values at outputs `->` values at inputs shaped as `x`; `y` itself, or a tensor of its own."""
        raise NotImplementedError

    def sum_channels(self, y: Tensor) -> Tensor:
        """An output summed over all but its images and channels, `(N, channels)`."""
        raise NotImplementedError

    def forward(self, *inputs: Any) -> Tensor:
        return self.apply(inputs[0], self.weight, self.bias)

    def operands(self, inputs: Sequence[Tensor], z: Tensor) -> tuple[Tensor, ...]:
        """What the map mixes, of the inputs that the node reads."""
        return (inputs[0],)

    def given(self, inputs: Sequence[Any]) -> "LinearMap":
        """The map as it is for these inputs: some read sizes along with the values they mix."""
        return self

    def is_nonnegative(self, inputs: Sequence[bool]) -> bool:
        return False

    def modified(self, name: str, modify: Callable[[Tensor], Tensor]) -> Tensor:
        """The weights changed by `modify`; computed once, kept under `name`."""
        if self.weight is None:
            raise ValueError(f"the rule wants {name} weights, and {type(self).__name__} has no weights to modify")
        if name not in self._modified:
            self._modified[name] = modify(self.weight)
        return self._modified[name]

    def positive(self) -> Tensor:
        """`w⁺ = max(w, 0)`."""
        return self.modified("positive", lambda weight: weight.clamp(min=0))

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

    def apply(self, x: Tensor, weight: Tensor | None, bias: Tensor | None = None) -> Tensor:
        if any(self.uneven):
            x = F.pad(x, self.uneven)
        return CONVOLVE[self.dimensions](x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def transpose(self, y: Tensor, weight: Tensor | None, x: Tensor) -> Tensor:
        assert weight is not None  # for the type checker: a convolution is made with weights
        before, after = self.uneven[::2][::-1], self.uneven[1::2][::-1]
        size = [n + a + b for n, a, b in zip(x.shape[2:], before, after, strict=True)]
        # Places at the far end that no window of the forward pass reached.
        unread = [
            n + 2 * pad - dilation * (kernel - 1) - 1 - stride * (m - 1)
            for n, m, kernel, pad, stride, dilation in zip(
                size, y.shape[2:], weight.shape[2:], self.padding, self.stride, self.dilation, strict=True
            )
        ]
        back = CONVOLVE_BACK[self.dimensions]
        passed = back(y, weight, None, self.stride, self.padding, unread, self.groups, self.dilation)
        for axis, (start, length) in enumerate(zip(before, x.shape[2:], strict=True), start=2):
            passed = passed.narrow(axis, start, length)
        return passed

    def sum_channels(self, y: Tensor) -> Tensor:
        return y.flatten(2).sum(2)


class Linear(LinearMap):
    """A fully connected layer; `weight` is `(out, in)`.

    Attributes:
        norm: the batch norm folded into it, if any: the channels of one are those of the other for `(N, in)` only.
    """

    norm: str | None = None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def apply(self, x: Tensor, weight: Tensor | None, bias: Tensor | None = None) -> Tensor:
        assert weight is not None  # for the type checker: a Linear is made with weights
        if self.norm and x.ndim != 2:
            raise ValueError(
                f"the batch norm {self.norm!r} follows a linear layer on inputs of shape {tuple(x.shape)}, and LRP "
                "folds it for inputs (N, D) only; put an nn.Identity() between the two."
            )
        return F.linear(x, weight, bias)

    def transpose(self, y: Tensor, weight: Tensor | None, x: Tensor) -> Tensor:
        assert weight is not None
        return y @ weight

    def sum_channels(self, y: Tensor) -> Tensor:
        return y if y.ndim == 2 else y.flatten(1, -2).sum(1)


class BatchNorm(LinearMap):
    """A batch norm: each channel scaled and shifted. Most are folded into the layer before them.

    Args:
        function: the norm as the network computes it.
        scale: `(channels,)`.
        shift: `(channels,)`.
        dtype: that the network computes in; scale and shift may be more exact, for folding.
    """

    recomputed = True

    def __init__(self, function: Callable[..., Tensor], scale: Tensor, shift: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.function, self.scale, self.shift = function, scale, shift
        self.weight, self.bias = scale.to(dtype), shift.to(dtype)

    def forward(self, *inputs: Any) -> Tensor:
        return self.function(*inputs)

    def apply(self, x: Tensor, weight: Tensor | None, bias: Tensor | None = None) -> Tensor:
        assert weight is not None
        scaled = x * self._along(weight, x)
        return scaled if bias is None else scaled.add_(self._along(bias, x))

    def transpose(self, y: Tensor, weight: Tensor | None, x: Tensor) -> Tensor:
        assert weight is not None
        return y * self._along(weight, y)

    def sum_channels(self, y: Tensor) -> Tensor:
        return y.flatten(2).sum(2) if y.ndim > 2 else y

    @staticmethod
    def _along(channels: Tensor, x: Tensor) -> Tensor:
        return channels.view(-1, *[1] * (x.ndim - 2))


class LayerNorm(LinearMap):
    """A layer norm with the deviation of each image taken for a constant (Ali et al. 2022): centred, then scaled.

    Args:
        shape: of the last dimensions, which are normalised together.
        weight: shaped so, or `None`.
        bias: shaped so, or `None`.
        eps: added to the variance.
    """

    recomputed = True

    def __init__(self, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
        super().__init__()
        self.shape, self.eps = tuple(shape), eps
        self.weight, self.bias = weight, bias

    def apply(self, x: Tensor, weight: Tensor | None, bias: Tensor | None = None) -> Tensor:
        return F.layer_norm(x, self.shape, weight, bias, self.eps)

    def transpose(self, y: Tensor, weight: Tensor | None, x: Tensor) -> Tensor:
        last = tuple(range(-len(self.shape), 0))
        deviation = (x.to(y.dtype).var(last, correction=0, keepdim=True) + self.eps).sqrt()
        scaled = y / deviation if weight is None else y * weight / deviation
        return scaled - scaled.mean(last, keepdim=True)

    def sum_channels(self, y: Tensor) -> Tensor:
        places = y.shape[1 : y.ndim - len(self.shape)]
        return y.reshape(len(y), places.numel(), torch.Size(self.shape).numel()).sum(1)


class AveragePool(LinearMap):
    """Average or sum pooling, adaptive or not: a linear map whose weights are fixed and not negative."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Tensor:
        pooled: Tensor = self.function(*inputs)
        return pooled

    def given(self, inputs: Sequence[Any]) -> LinearMap:
        return AveragePool(lambda x: self.function(x, *inputs[1:])) if len(inputs) > 1 else self

    def apply(self, x: Tensor, weight: Tensor | None, bias: Tensor | None = None) -> Tensor:
        return self.function(x)

    def transpose(self, y: Tensor, weight: Tensor | None, x: Tensor) -> Tensor:
        return vector_jacobian(self.function, x, y).clone()  # the gradient of a sum is one number, spread

    def is_nonnegative(self, inputs: Sequence[bool]) -> bool:
        return inputs[0]

    def is_gate(self, inputs: Sequence[bool]) -> bool:
        return inputs[0]


class Add(LinearMap):
    """A sum of several values, such as a residual connection: the weights are 1, or -1 where one is subtracted."""

    def __init__(self, signs: Sequence[int]) -> None:
        super().__init__()
        self.signs = tuple(signs)

    def forward(self, *inputs: Any) -> Tensor:
        first, second = inputs
        total: Tensor = first + second if self.signs[1] > 0 else first - second
        return total

    def apply(self, x: Tensor, weight: Tensor | None, bias: Tensor | None = None) -> Tensor:
        return x

    def transpose(self, y: Tensor, weight: Tensor | None, x: Tensor) -> Tensor:
        return y

    def operands(self, inputs: Sequence[Tensor], z: Tensor) -> tuple[Tensor, ...]:
        terms = [torch.as_tensor(x).to(z) for x in inputs]  # a number may be of another type, or on another device
        return tuple((x if sign > 0 else -x).expand_as(z) for x, sign in zip(terms, self.signs, strict=True))

    def carriers(self, n_inputs: int) -> Sequence[int]:
        return range(n_inputs)

    def is_nonnegative(self, inputs: Sequence[bool]) -> bool:
        return all(inputs) and min(self.signs) > 0

    def is_gate(self, inputs: Sequence[bool]) -> bool:
        return all(inputs)


class Shift(Add):
    """A sum of a value and a constant, which takes its share like a bias."""
