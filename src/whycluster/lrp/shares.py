"""Shares: what takes the relevance of a layer's outputs, and in proportion to what it hands it to the inputs.

A share is a sum of terms `input·weight` and a bias. It takes the relevance `R_j` of the outputs it stands for:

    `R_i = Σ_j  input_i weight_ij / (Σ_i input_i weight_ij + bias_j) · R_j`.

What the bias and the stabiliser of the denominator keep, and what no input can take, goes into the receipt.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from whycluster.lrp.linear_maps import LinearMap
from whycluster.lrp.receipts import Absorbed, per_image


class Term(NamedTuple):
    """An input that meets weights: one summand of a share.

    Attributes:
        input: shaped as the operand; batch 1 where it does not depend on the image.
        weight: as the layer's own; `None` where those are fixed.
        at: which of the operands takes what this term gets.
    """

    input: Tensor
    weight: Tensor | None
    at: int = 0


class Share(NamedTuple):
    """What takes a part of the relevance, and in proportion to what it hands it on.

    Attributes:
        terms: the summands; without any, the relevance ends here.
        bias: `(channels,)`, joins the sum and keeps its proportion; `None`: no bias.
        factor: how much of the relevance this share takes.
        where: shaped as the output: the share takes only the relevance of outputs at which this is positive, and leaves
            the rest to the next share; `None`: all that is there.
        total: the sum of terms and bias, where it is known already.
        sign: 1 or -1, where all that can be in the total has this sign (at least at the outputs it stands for).
    """

    terms: tuple[Term, ...]
    bias: Tensor | None = None
    factor: float = 1.0
    where: Tensor | None = None
    total: Tensor | None = None
    sign: int = 0


@dataclass(frozen=True)
class Signal:
    """What went through a layer.

    Attributes:
        operands: what it mixed; most layers have one.
        z: the output.
        nonnegative: whether the operands are known to have no negative entry.
    """

    operands: tuple[Tensor, ...]
    z: Tensor
    nonnegative: bool

    @property
    def x(self) -> Tensor:
        """The only operand, or the first."""
        return self.operands[0]

    def of(self, some: slice) -> "Signal":
        """What went through for some of the images."""
        return Signal(tuple(x[some] for x in self.operands), self.z[some], self.nonnegative)

    def meets(self, positive: Callable[[], Tensor], negative: Callable[[], Tensor]) -> tuple[Term, ...]:
        """`x⁺·positive() + x⁻·negative()`; one term where there is no `x⁻`."""
        if self.nonnegative:
            return (Term(self.x, positive()),)
        return Term(self.x.clamp(min=0), positive()), Term(self.x.clamp(max=0), negative())


def redistribute(
    layer: LinearMap,
    signal: Signal,
    shares: Iterable[Share],
    relevance: Tensor,
    stabilizer: float,
    totals: dict[int, Tensor] | None = None,
) -> tuple[Sequence[Tensor], Absorbed]:
    """Passes the relevance of a layer's output to its operands.

    Args:
        layer: the linear map.
        signal: what went through it.
        shares: of a rule.
        relevance: `(N, *output)`.
        stabilizer: added to denominators, with their sign.
        totals: number of a share `->` its total, as other targets of the same signal computed it; grows by what this
            one has to compute. `None`: nobody else will come, and what was computed is overwritten.

    Returns:
        The relevance of each operand, shaped as it is, and what the layer absorbed.
    """
    passed: list[Tensor | None] = [None] * len(signal.operands)
    absorbed = Absorbed.nothing(relevance)
    for at, share in enumerate(shares):
        taken = relevance if share.where is None else _at_positive(share.where, relevance)
        # So it is for gamma behind a ReLU, where outputs of other signs have nothing to give.
        last = share.where is not None and torch.equal(taken, relevance)
        taken, relevance = (relevance, relevance) if last or share.where is None else (taken, relevance - taken)
        absorbed = absorbed.plus(_hand_on(layer, share, at, taken, stabilizer, totals, passed))
        if last:
            break
    return [x.new_zeros(x.shape) if r is None else r for r, x in zip(passed, signal.operands, strict=True)], absorbed


def _at_positive(where: Tensor, relevance: Tensor) -> Tensor:
    """Relevance where `where` is positive, else 0; the backward pass of a ReLU does just this, in one sweep."""
    taken: Tensor = torch.ops.aten.threshold_backward(relevance, where.to(relevance.dtype), 0)
    return taken


def _hand_on(
    layer: LinearMap,
    share: Share,
    at: int,
    relevance: Tensor,
    stabilizer: float,
    totals: dict[int, Tensor] | None,
    passed: list[Tensor | None],
) -> Absorbed:
    """Adds to `passed` what one share hands to the operands, and returns what it keeps."""
    nothing = relevance.new_zeros(len(relevance))
    if share.factor != 1:
        relevance = relevance * share.factor
    if not share.terms:
        return Absorbed(nothing, nothing, per_image(relevance))
    total = _total(layer, share, at, totals).to(relevance.dtype)
    in_place = share.total is None and totals is None
    quotient, by_stabilizer, by_nobody = _divide(relevance, total, share, stabilizer, in_place)
    for input, weight, operand in share.terms:
        back = layer.transpose(quotient, weight, input).to(relevance.dtype)
        product = back * input if back is quotient else back.mul_(input)  # others may need the quotient yet
        before = passed[operand]
        passed[operand] = product if before is None else before.add_(product)
    by_bias = nothing if share.bias is None else layer.sum_channels(quotient) @ share.bias.flatten()
    return Absorbed(by_bias, by_stabilizer, by_nobody)


def _total(layer: LinearMap, share: Share, at: int, totals: dict[int, Tensor] | None) -> Tensor:
    """`Σ input·weight + bias` of a share, computed once for all targets."""
    if share.total is not None:
        return share.total
    if totals is not None and at in totals:
        return totals[at]
    (input, weight, _), *others = share.terms
    total = layer.apply(input, weight, share.bias)
    for input, weight, _ in others:
        total = total + layer.apply(input, weight)
    if totals is not None:
        totals[at] = total
    return total


def _divide(
    relevance: Tensor, total: Tensor, share: Share, stabilizer: float, in_place: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Relevance by stabilised total, and what the stabiliser and totals of exactly zero take, `(N,)` each.

    Denominators are as large as the activations of a layer, and their sweeps through memory cost more than their
    arithmetic: hence in place, and with shortcuts for totals of one sign.
    """
    none = relevance.new_zeros(len(relevance))
    if share.sign or (total.numel() and total.amin() > 0):
        sign = share.sign or 1
        bounds = (0, None) if sign > 0 else (None, 0)
        denominator = total.clamp_(*bounds) if in_place else total.clamp(*bounds)
        nobody = _zeros(denominator) if share.where is None or not stabilizer else None
        denominator += sign * stabilizer
        if nobody is not None:
            denominator.masked_fill_(nobody, torch.inf)  # where each summand is zero, nothing is handed on
        quotient = _quotient(relevance, denominator)
        by_stabilizer = per_image(quotient) * (sign * stabilizer)
    else:
        nobody = _zeros(total)
        moved = torch.copysign(total.new_tensor(stabilizer), total)
        denominator = total.add_(moved) if in_place else total + moved
        if nobody is not None:
            moved.masked_fill_(nobody, 0)
            denominator.masked_fill_(nobody, stabilizer or torch.inf)
        quotient = _quotient(relevance, denominator)
        by_stabilizer = per_image(moved.mul_(quotient) if moved.shape == quotient.shape else moved * quotient)
    return quotient, by_stabilizer, none if nobody is None else per_image(relevance * nobody)


def _zeros(total: Tensor) -> Tensor | None:
    """Where the total is exactly zero, `None` if nowhere."""
    zeros = total == 0
    return zeros if zeros.any() else None


def _quotient(relevance: Tensor, denominator: Tensor) -> Tensor:
    """Written over the denominator, where that is as large."""
    return torch.div(relevance, denominator, out=denominator if denominator.shape == relevance.shape else None)
