"""How relevance passes a linear map: each rule says in a few lines which inputs meet which weights.

A rule looks at a layer `z = w·x + b` and yields shares. A share is a sum of terms `input·weight` and a bias; it takes
the relevance `R_j` of the outputs it stands for and hands it to the inputs in proportion to what each of them
contributed to that sum,

    `R_i = Σ_j  input_i weight_ij / (Σ_i input_i weight_ij + bias_j) · R_j`.

Conventions (bias, sign and stabiliser of each rule) are those of zennit 0.5.1. `x⁺ = max(x, 0)`, `x⁻ = min(x, 0)`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from whycluster.lrp.operations import LinearMap


class Term(NamedTuple):
    """An input that meets weights: one summand of a share."""

    input: Tensor
    weight: Tensor | None


class Share(NamedTuple):
    """What takes a part of the relevance, and in proportion to what it hands it on.

    Attributes:
        terms: the summands; without any, the relevance ends here.
        bias: `(channels,)`, joins the sum and keeps its proportion; `None`: no bias.
        factor: how much of the relevance this share takes (the factors of a rule add up to 1).
        where: the outputs it stands for, a mask shaped as the output; `None`: all.
        total: the sum of terms and bias, where it is known already.
    """

    terms: tuple[Term, ...]
    bias: Tensor | None = None
    factor: float = 1.0
    where: Tensor | None = None
    total: Tensor | None = None


@dataclass(frozen=True)
class Signal:
    """What went through a layer: input `x`, output `z`, and whether `x` is known to have no negative entry."""

    x: Tensor
    z: Tensor
    nonnegative: bool

    def meets(self, positive: Tensor, negative: Tensor) -> tuple[Term, ...]:
        """`x⁺·positive + x⁻·negative`; one term where there is no `x⁻`."""
        if self.nonnegative:
            return (Term(self.x, positive),)
        return Term(self.x.clamp(min=0), positive), Term(self.x.clamp(max=0), negative)


Rule = Callable[[LinearMap, Signal], Iterable[Share]]


class Absorbed(NamedTuple):
    """Relevance that a layer kept, for each image `(N,)`.

    Attributes:
        bias: by the bias.
        stabilizer: by what was added to small denominators.
        zero: where the sum was exactly zero, so that nobody could take it.
    """

    bias: Tensor
    stabilizer: Tensor
    zero: Tensor

    @property
    def total(self) -> Tensor:
        """`(N,)`."""
        return self.bias + self.stabilizer + self.zero


def zero(layer: LinearMap, signal: Signal) -> Iterable[Share]:
    """LRP-0: in proportion to `x·w`. The same shares as `epsilon`, which only has more stabiliser."""
    yield Share((Term(signal.x, layer.weight),), layer.bias, total=signal.z)


epsilon = zero


def z_plus(layer: LinearMap, signal: Signal) -> Iterable[Share]:
    """Only what excites: in proportion to `(x·w)⁺` (Montavon et al. 2017)."""
    yield Share(signal.meets(layer.positive, layer.negative), clamp(layer.bias, low=0))


def alpha_beta(layer: LinearMap, signal: Signal, *, alpha: float, beta: float) -> Iterable[Share]:
    """`alpha` times what excites, minus `beta` times what inhibits; `alpha - beta = 1` (Bach et al. 2015)."""
    yield Share(signal.meets(layer.positive, layer.negative), clamp(layer.bias, low=0), alpha)
    if beta:
        yield Share(signal.meets(layer.negative, layer.positive), clamp(layer.bias, high=0), -beta)


def gamma(layer: LinearMap, signal: Signal, *, gamma: float) -> Iterable[Share]:
    """What has the sign of the output counts `1 + gamma` times (generalized: Andéol et al. 2021)."""
    excite = layer.modified(f"{gamma} excite", lambda weight: weight + gamma * weight.clamp(min=0))
    inhibit = layer.modified(f"{gamma} inhibit", lambda weight: weight + gamma * weight.clamp(max=0))
    bias, z = layer.bias, signal.z
    risen = None if bias is None else bias + gamma * bias.clamp(min=0)
    sunk = None if bias is None else bias + gamma * bias.clamp(max=0)
    yield Share(signal.meets(excite, inhibit), risen, where=z > 0)
    yield Share(signal.meets(inhibit, excite), sunk, where=z < 0)
    yield Share((), where=z == 0)


def flat(layer: LinearMap, signal: Signal) -> Iterable[Share]:
    """Evenly over the receptive field, whatever the input and the weights (Lapuschkin et al. 2019)."""
    ones = layer.modified("ones", torch.ones_like)
    yield Share((Term(torch.ones_like(signal.x[:1]), ones),))


def w_square(layer: LinearMap, signal: Signal) -> Iterable[Share]:
    """In proportion to the squared weights (Montavon et al. 2017)."""
    squares = layer.modified("squares", torch.square)
    bias = None if layer.bias is None else layer.bias.square()
    yield Share((Term(torch.ones_like(signal.x[:1]), squares),), bias)


def box(layer: LinearMap, signal: Signal, *, low: float | Tensor, high: float | Tensor) -> Iterable[Share]:
    """For inputs between `low` and `high`: `x·w - low·w⁺ - high·w⁻` (Montavon et al. 2017).

    The bias falls out of the sum. Written with `x - low` and `x - high`, no term cancels another: none is negative.
    """
    x = signal.x
    above, below = x - torch.as_tensor(low).to(x), x - torch.as_tensor(high).to(x)
    yield Share((Term(above, layer.positive), Term(below, layer.negative)))


def clamp(bias: Tensor | None, low: float | None = None, high: float | None = None) -> Tensor | None:
    """The bias between `low` and `high`, where there is one."""
    return None if bias is None else bias.clamp(low, high)


def stabilize(z: Tensor, stabilizer: float) -> Tensor:
    """`z` moved away from zero by `stabilizer`; zero itself becomes `+stabilizer`."""
    amount = z.new_full((), stabilizer)  # of z's own precision
    return z + torch.where(z < 0, -amount, amount)


def redistribute(
    layer: LinearMap, signal: Signal, rule: Rule, relevance: Tensor, stabilizer: float
) -> tuple[Tensor, Absorbed]:
    """Passes the relevance of a layer's output to its input.

    Args:
        layer: the linear map.
        signal: what went through it.
        rule: names the shares.
        relevance: `(N, *output)`.
        stabilizer: added to denominators, with their sign.

    Returns:
        The relevance of the input, `(N, *input)`, and what the layer absorbed.
    """
    passed = torch.zeros_like(signal.x)
    absorbed = Absorbed(*relevance.new_zeros(3, len(relevance)))
    for share in rule(layer, signal):
        taken = relevance if share.where is None else relevance.where(share.where, 0)
        absorbed = Absorbed(*map(torch.add, absorbed, _pass_share(layer, share, taken, stabilizer, passed)))
        # Behind a ReLU, where all relevance is at positive outputs, gamma's other shares have nothing to take.
        if share.where is not None and torch.equal(taken, relevance):
            break
    return passed, absorbed


def _pass_share(layer: LinearMap, share: Share, relevance: Tensor, stabilizer: float, passed: Tensor) -> Absorbed:
    """Adds to `passed` what one share hands to the inputs, and returns what it keeps."""
    nothing = relevance.new_zeros(len(relevance))
    relevance = relevance if share.factor == 1 else relevance * share.factor
    if not share.terms:
        return Absorbed(nothing, nothing, per_image(relevance))
    total = sum_terms(layer, share) if share.total is None else share.total
    nobody = total == 0
    quotient = relevance / stabilize(total, stabilizer).masked_fill(nobody, stabilizer or torch.inf)
    for input, weight in share.terms:
        passed.addcmul_(input, layer.transpose(quotient, weight, passed.shape))
    return Absorbed(
        bias=nothing if share.bias is None else layer.sum_channels(quotient) @ share.bias,
        stabilizer=stabilizer * per_image(torch.where(total < 0, -quotient, quotient).masked_fill(nobody, 0)),
        zero=per_image(relevance.where(nobody, 0)),
    )


def sum_terms(layer: LinearMap, share: Share) -> Tensor:
    """`Σ input·weight + bias` of a share, as the output; batch 1 where the inputs do not depend on the image."""
    first, *others = (layer.apply(input, weight) for input, weight in share.terms)
    total = sum(others, first)
    return total if share.bias is None else total + layer.along_channels(share.bias)


def per_image(relevance: Tensor) -> Tensor:
    """`(N, ...)` summed to `(N,)`."""
    return relevance.flatten(1).sum(1) if relevance.ndim > 1 else relevance
