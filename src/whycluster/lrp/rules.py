"""The rules by which relevance passes a linear map; each is a list of contributions, which reads like its equation.

A contribution is a sum of products, modified inputs times modified weights, plus a modified bias. It takes the
relevance `R_j` of the outputs it applies to, and gives it to the inputs in proportion to what each adds to the sum:

    `R_i = Σ_j  input_i weight_ij / (Σ_i input_i weight_ij + bias_j) · factor · R_j`.

Bias, sign and stabiliser of each rule are those of zennit 0.5.1, except that no input gets relevance from an output
whose sum is exactly zero. `x⁺ = max(x, 0)`, `x⁻ = min(x, 0)`.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from whycluster.errors import UserError
from whycluster.lrp.linear_maps import Modify, unmodified

Outputs = Literal["all", "positive", "negative"]


class Product(NamedTuple):
    """One summand of a contribution: inputs and weights, as functions of the layer's own."""

    input: Modify  # may return a single image, which is the same for all
    weight: Modify


class Contribution(NamedTuple):
    """A part of the relevance of the outputs, and the products in proportion to which inputs receive it."""

    products: Sequence[Product]  # modified inputs and weights, which are multiplied and summed
    bias: Modify | None = None  # joins the sum and keeps its proportion; `None`: no bias
    outputs: Outputs = "all"  # whose relevance it takes, by the sign of `z`
    factor: float = 1.0  # how many times it takes that relevance


class Rule:
    """How relevance passes a linear map.

    Args:
        contributions: each takes the relevance of some outputs.
        stabilizer: added to denominators, with their sign; `>= 0`.

    Attributes:
        proportional: whether inputs that are zero get no relevance.

    Raises:
        UserError: for a stabilizer that is negative or not finite.
    """

    proportional: ClassVar[bool] = True

    def __init__(self, contributions: Sequence[Contribution], stabilizer: float) -> None:
        self.contributions = tuple(contributions)
        self.stabilizer = at_least_zero("stabilizer", stabilizer)

    def __repr__(self) -> str:
        numbers = [f"{name}={value:g}" for name, value in vars(self).items() if isinstance(value, int | float)]
        return f"{type(self).__name__}({', '.join(numbers)})"


def positive(values: Tensor) -> Tensor:
    """Computes `max(x, 0)`."""
    return values.clamp(min=0)


def negative(values: Tensor) -> Tensor:
    """Computes `min(x, 0)`."""
    return values.clamp(max=0)


def ones(values: Tensor) -> Tensor:
    """Returns ones in the place of weights."""
    return torch.ones_like(values)


def one_image(values: Tensor) -> Tensor:
    """Returns ones in the place of inputs, the same for all images."""
    return torch.ones_like(values[:1])


class Epsilon(Rule):
    """In proportion to `x·w` (Bach et al. 2015, doi 10.1371/journal.pone.0130140, eq. 58); LRP-0 where `epsilon` is 0.

    Args:
        epsilon: added to the output, with its sign; `>= 0`.
    """

    def __init__(self, epsilon: float = 1e-6) -> None:
        super().__init__([Contribution([Product(unmodified, unmodified)], bias=unmodified)], epsilon)


class Norm(Epsilon):
    """The rule `Epsilon` for poolings and sums, which have no weights to learn; the name is zennit's."""


class Ratio(Rule):
    """In proportion to the absolute summands `|x|`, so that summands that cancel give no unbounded relevance.

    For residual additions: Otsuki et al. 2024, arXiv 2407.09115.
    """

    def __init__(self, stabilizer: float = 1e-6) -> None:
        super().__init__([Contribution([Product(torch.abs, unmodified)])], stabilizer)


class AlphaBeta(Rule):
    """`alpha` times the positive contributions, minus `beta` times the negative ones (Bach et al. 2015, eq. 60).

    Bach et al., doi 10.1371/journal.pone.0130140.

    Args:
        alpha: `>= 0`.
        beta: `alpha - 1`, and `>= 0`.
        stabilizer: added to denominators, with their sign.

    Raises:
        UserError: for numbers that would create or lose relevance.
    """

    def __init__(self, alpha: float = 2.0, beta: float = 1.0, stabilizer: float = 1e-6) -> None:
        self.alpha, self.beta = at_least_zero("alpha", alpha), at_least_zero("beta", beta)
        if not math.isclose(alpha - beta, 1):
            raise UserError(f"alpha={alpha:g} minus beta={beta:g} should be 1, or relevance is created or lost.")
        above = [Product(positive, positive), Product(negative, negative)]
        below = [Product(positive, negative), Product(negative, positive)]
        contributions = [Contribution(above, bias=positive, factor=self.alpha)]
        if beta:
            contributions.append(Contribution(below, bias=negative, factor=-self.beta))
        super().__init__(contributions, stabilizer)


class ZPlus(AlphaBeta):
    """In proportion to the positive contributions, `(x·w)⁺` (Montavon et al., arXiv 1512.02479, z⁺-rule)."""

    def __init__(self, stabilizer: float = 1e-6) -> None:
        super().__init__(1.0, 0.0, stabilizer)

    def __repr__(self) -> str:
        return f"ZPlus(stabilizer={self.stabilizer:g})"


class Gamma(Rule):
    """Contributions with the sign of the output count `1 + gamma` times (Montavon et al. 2019, section 10.2).

    Montavon et al., doi 10.1007/978-3-030-28954-6_10; for outputs and inputs of both signs: Andéol et al. 2021.

    Args:
        gamma: `>= 0`; 0 is `Epsilon`, and as it grows the rule approaches the z⁺-rule.
        stabilizer: added to denominators, with their sign.

    Raises:
        UserError: for a `gamma` that is negative or not finite.
    """

    def __init__(self, gamma: float = 0.25, stabilizer: float = 1e-6) -> None:
        self.gamma = at_least_zero("gamma", gamma)
        above = [Product(positive, self.more_positive), Product(negative, self.more_negative)]
        below = [Product(positive, self.more_negative), Product(negative, self.more_positive)]
        contributions = (
            Contribution(above, self.more_positive, "positive"),
            Contribution(below, self.more_negative, "negative"),
        )
        super().__init__(contributions, stabilizer)

    def more_positive(self, weight: Tensor) -> Tensor:
        """Computes `w + γ w⁺`."""
        return weight + self.gamma * weight.clamp(min=0)

    def more_negative(self, weight: Tensor) -> Tensor:
        """Computes `w + γ w⁻`."""
        return weight + self.gamma * weight.clamp(max=0)


class Flat(Rule):
    """Evenly over the receptive field, whatever the input and the weights (Lapuschkin et al. 2019).

    Nature Communications 10, doi 10.1038/s41467-019-08987-4.
    """

    proportional = False

    def __init__(self, stabilizer: float = 1e-6) -> None:
        super().__init__([Contribution([Product(one_image, ones)])], stabilizer)


class WSquare(Rule):
    """In proportion to the squared weights (Montavon et al., arXiv 1512.02479, w²-rule)."""

    proportional = False

    def __init__(self, stabilizer: float = 1e-6) -> None:
        super().__init__([Contribution([Product(one_image, torch.square)], bias=torch.square)], stabilizer)


class ZBox(Rule):
    """For inputs between two bounds: `x·w - low·w⁺ - high·w⁻` (Montavon et al., arXiv 1512.02479, z^B-rule).

    The bias is not part of the sum. Written with `x - low` and `x - high`, no summand is negative.

    Args:
        low: the lowest value of inputs; a float, or a tensor that broadcasts to an image.
        high: the highest.
        stabilizer: added to denominators, with their sign.

    Raises:
        UserError: for bounds that do not broadcast to images, or a `low` above `high`.
    """

    proportional = False

    def __init__(self, low: float | Tensor, high: float | Tensor, stabilizer: float = 1e-6) -> None:
        bounds = {"low": torch.as_tensor(low).cpu(), "high": torch.as_tensor(high).cpu()}
        for name, bound in bounds.items():
            if bound.ndim == 1 and len(bound) > 1:
                raise UserError(
                    f"{name} of shape {tuple(bound.shape)} should be a number, or broadcast to an image; for a bound "
                    "of each channel give the shape (channels, 1, 1)."
                )
        if bool((bounds["low"] > bounds["high"]).any()):
            raise UserError(f"low={low} should not be above high={high}.")
        products = [Product(partial(_difference, low), positive), Product(partial(_difference, high), negative)]
        super().__init__([Contribution(products)], stabilizer)


def _difference(bound: float | Tensor, values: Tensor) -> Tensor:
    """Computes the difference between the values and a bound."""
    return values - torch.as_tensor(bound).to(values)


def at_least_zero(name: str, value: float) -> float:
    """Checks that a value is finite and `>= 0`, and returns it."""
    if not 0 <= value < math.inf:
        raise UserError(f"{name}={value} should be a finite number >= 0.")
    return value
