"""Linear maps, `z = w·x + b`: the layers that mix values, for which a composite names rules.

A linear map has one or several operands (a sum has one for each summand). It multiplies them with its own weights or
with weights that a rule has modified, and multiplies values at its outputs with the transposed weights.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from whycluster.errors import UserError

aten = torch.ops.aten
Modify = Callable[[Tensor], Tensor]
Weight = Any  # a tensor; `None` where a layer has no weights of its own


class LinearMap:
    """A linear function of its operands with weights `w`, plus a bias: `z = w·x + b`.

    Args:
        weight: the weights; `None` where they are fixed (pooling, sums).
        bias: `None`, or shaped so that it broadcasts to an output.

    Attributes:
        weighted: whether layers of this kind have weights of their own, so that what follows is not the first layer.
        default_rule: of this kind, where a composite has none for it.
    """

    weighted: ClassVar[bool] = False
    default_rule: ClassVar[Any] = None

    def __init__(self, weight: Weight = None, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias
        self._modified: dict[Modify, Tensor] = {}

    def apply(self, xs: Sequence[Tensor], weight: Weight, bias: Tensor | None = None) -> Tensor:
        """Computes `weight·x + bias`, in a new tensor."""
        raise NotImplementedError

    def transpose(self, y: Tensor, xs: Sequence[Tensor], weight: Weight) -> Sequence[Tensor]:
        """Computes `weightᵀ·y` for each operand: values at outputs `->` values at inputs, shaped as the operands."""
        raise NotImplementedError

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        """Computes `w·x + b`."""
        return self.apply(xs, self.weight, self.bias)

    def modified(self, modify: Modify) -> Weight:
        """Returns the weights as a rule modifies them; computed once for each function.

        Raises:
            UserError: for a layer whose weights are fixed.
        """
        if modify is unmodified:
            return self.weight
        if self.weight is None:
            name = getattr(modify, "__name__", "modified")
            raise UserError(f"the rule wants {name} weights, and {type(self).__name__} has no weights to modify")
        if modify not in self._modified:
            self._modified[modify] = modify(self.weight)
        return self._modified[modify]


def unmodified(values: Tensor) -> Tensor:
    """Returns the values themselves."""
    return values


class Convolution(LinearMap):
    """A convolution of one to three dimensions, transposed or not.

    Args:
        weight: `(out, in / groups, *kernel)`; transposed `(in, out / groups, *kernel)`.
        bias: `(out,)` or `None`.
        stride: for each dimension, and so are `padding`, `dilation` and `output_padding`.
    """

    weighted = True

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        transposed: bool = False,
        output_padding: Sequence[int] = (0,),
    ) -> None:
        dims = weight.ndim - 2
        super().__init__(weight, None if bias is None else bias.reshape(-1, *[1] * dims))
        self.transposed, self.groups = transposed, groups
        settings = stride, padding, dilation, output_padding  # one number serves all dimensions
        *spatial, output = (list(one) * (dims // len(one)) for one in settings)
        self.settings = (*spatial, transposed, output, groups)

    def apply(self, xs: Sequence[Tensor], weight: Weight, bias: Tensor | None = None) -> Tensor:
        z: Tensor = aten.convolution(xs[0], weight, None if bias is None else bias.flatten(), *self.settings)
        return z

    def transpose(self, y: Tensor, xs: Sequence[Tensor], weight: Weight) -> Sequence[Tensor]:
        y, weight = _as_products_are(y, weight)
        x = xs[0].to(y.dtype)
        if len(x) != len(y):  # inputs that are the same for all images
            x = x.expand(len(y), *x.shape[1:])
        back: Tensor = aten.convolution_backward(y, x, weight, None, *self.settings, (True, False, False))[0]
        return (back,)


def _as_products_are(y: Tensor, weight: Weight) -> tuple[Tensor, Weight]:
    """Casts to the precision that products have under `torch.autocast`, which does not cast in backward passes."""
    kind = y.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else y.dtype
    return y.to(dtype), None if weight is None else weight.to(dtype)


class Linear(LinearMap):
    """A fully connected layer on inputs `(…, in)`; `weight` is `(out, in)`."""

    weighted = True

    def apply(self, xs: Sequence[Tensor], weight: Weight, bias: Tensor | None = None) -> Tensor:
        rows = xs[0].flatten(0, -2)  # one product: of strided tokens, torch would make one for each image
        return F.linear(rows, weight, bias).view(*xs[0].shape[:-1], len(weight))

    def transpose(self, y: Tensor, xs: Sequence[Tensor], weight: Weight) -> Sequence[Tensor]:
        return ((y.flatten(0, -2) @ weight).view(*y.shape[:-1], weight.shape[1]),)


class TokenLinear(Linear):
    """A fully connected layer on each token or place: several rows of its inputs `(…, in)` belong to one image."""


class MatrixProduct(LinearMap):
    """A matrix product with a factor that is constant for relevance, as an attention matrix is with `attention="cp"`.

    Args:
        weight: the constant factor, `(…, n, m)`.
        left: whether it stands on the left.
    """

    weighted = True

    def __init__(self, weight: Tensor, left: bool) -> None:
        super().__init__(weight)
        self.left = left

    def apply(self, xs: Sequence[Tensor], weight: Weight, bias: Tensor | None = None) -> Tensor:
        return torch.matmul(weight, xs[0]) if self.left else torch.matmul(xs[0], weight)

    def transpose(self, y: Tensor, xs: Sequence[Tensor], weight: Weight) -> Sequence[Tensor]:
        if weight.ndim == 1:  # a vector: the product has no row, or no column, for it
            back = weight[:, None] * y[..., None, :] if self.left else y[..., None] * weight
        else:
            back = torch.matmul(weight.mT, y) if self.left else torch.matmul(y, weight.mT)
        return (back.sum_to_size(xs[0].shape),)


class BatchNorm(LinearMap):
    """A batch norm that is not folded into the layer before it: each channel scaled and shifted."""

    weighted = True

    def apply(self, xs: Sequence[Tensor], weight: Weight, bias: Tensor | None = None) -> Tensor:
        scaled: Tensor = xs[0] * weight
        return scaled if bias is None else scaled.add_(bias)

    def transpose(self, y: Tensor, xs: Sequence[Tensor], weight: Weight) -> Sequence[Tensor]:
        return (y * weight,)


class LayerNorm(LinearMap):
    """A layer norm whose deviation is taken for a constant (Ali et al., arXiv 2202.07304): centred, then scaled.

    Args:
        weight: shaped as the last dimensions, which are normalised together; or `None`.
        bias: shaped so, or `None`.
        shape: of these dimensions.
        eps: added to the variance.
    """

    weighted = True

    def __init__(self, weight: Tensor | None, bias: Tensor | None, shape: Sequence[int], eps: float) -> None:
        super().__init__(weight, bias)
        self.shape, self.eps = list(shape), eps

    def apply(self, xs: Sequence[Tensor], weight: Weight, bias: Tensor | None = None) -> Tensor:
        return F.layer_norm(xs[0], self.shape, weight, bias, self.eps)

    def transpose(self, y: Tensor, xs: Sequence[Tensor], weight: Weight) -> Sequence[Tensor]:
        last = tuple(range(-len(self.shape), 0))
        _, _, scale = torch.native_layer_norm(xs[0].to(y.dtype), self.shape, None, None, self.eps)
        scaled = (y if weight is None else y * weight) * scale
        return (scaled.sub_(scaled.mean(last, keepdim=True)),)


class AveragePool(LinearMap):
    """Average or sum pooling, an interpolation, or another linear map whose weights are fixed.

    Args:
        function: of one tensor, linear.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def apply(self, xs: Sequence[Tensor], weight: Weight, bias: Tensor | None = None) -> Tensor:
        return self.function(xs[0])

    def transpose(self, y: Tensor, xs: Sequence[Tensor], weight: Weight) -> Sequence[Tensor]:
        with torch.enable_grad():
            leaf = xs[0].detach().to(y.dtype).requires_grad_()
            return (torch.autograd.grad(self.function(leaf), leaf, y)[0],)


class Add(LinearMap):
    """A sum of several values, such as a residual connection; its weights are 1.

    Args:
        signs: 1 or -1 for each operand.
    """

    def __init__(self, signs: Sequence[float]) -> None:
        super().__init__()
        self.signs = tuple(signs)

    def signed(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """Returns the summands with their signs."""
        return [x if sign == 1 else sign * x for x, sign in zip(xs, self.signs, strict=True)]

    def apply(self, xs: Sequence[Tensor], weight: Weight, bias: Tensor | None = None) -> Tensor:
        return xs[0] + xs[1]

    def transpose(self, y: Tensor, xs: Sequence[Tensor], weight: Weight) -> Sequence[Tensor]:
        return [y] * len(xs)


class Shift(Add):
    """A sum of a value and a constant, which absorbs a part of the relevance as a bias does."""


class Bilinear(LinearMap):
    """A matrix product of two values that both depend on the image; each gets half of the relevance.

    For either factor the product is a linear map with the other one as weights (Achtibat et al., arXiv 2402.05602).
    """

    def apply(self, xs: Sequence[Tensor], weight: Weight, bias: Tensor | None = None) -> Tensor:
        return torch.matmul(*xs)

    def transpose(self, y: Tensor, xs: Sequence[Tensor], weight: Weight) -> Sequence[Tensor]:
        left, right = xs
        back = _half_product(y, right.mT), _half_product(left.mT, y)
        return [one.sum_to_size(x.shape) for one, x in zip(back, xs, strict=True)]


def _half_product(a: Tensor, b: Tensor) -> Tensor:
    """Computes `a·b / 2`; attention matrices are large, so the smaller factor is halved."""
    return (a / 2) @ b if a.numel() < b.numel() else a @ (b / 2)
