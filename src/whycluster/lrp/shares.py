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
        sign: 1 or -1, where all that can be in the total has this sign (at least at the outputs it stands for).
        only_its_sign: whether it takes only the relevance of outputs that have its sign, and leaves the rest to the
            next share.
        total: the sum of terms and bias, where it is known already.
        with_before: this total and that of the share before, which has to take its sign only, are together so many
            times the output, where that is known: it saves the sum.
    """

    terms: tuple[Term, ...]
    bias: Tensor | None = None
    factor: float = 1.0
    sign: int = 0
    only_its_sign: bool = False
    total: Tensor | None = None
    with_before: float | None = None


@dataclass(frozen=True)
class Signal:
    """What went through a layer.

    Attributes:
        operands: what it mixed; most layers have one.
        z: the output.
        nonnegative: whether the operands are known to have no negative entry.
        confined: whether relevance is known to be zero where the output is not positive, as it is before a ReLU.
    """

    operands: tuple[Tensor, ...]
    z: Tensor
    nonnegative: bool
    confined: bool = False

    @property
    def x(self) -> Tensor:
        """The only operand, or the first."""
        return self.operands[0]

    def of(self, some: slice) -> "Signal":
        """What went through for some of the images."""
        return Signal(tuple(x[some] for x in self.operands), self.z[some], self.nonnegative, self.confined)

    def meets(self, positive: Callable[[], Tensor], negative: Callable[[], Tensor]) -> tuple[Term, ...]:
        """`x⁺·positive() + x⁻·negative()`; one term where there is no `x⁻`."""
        if self.nonnegative:
            return (Term(self.x, positive()),)
        return Term(self.x.clamp(min=0), positive()), Term(self.x.clamp(max=0), negative())


class Passed(NamedTuple):
    """What became of the relevance of a layer's outputs.

    Attributes:
        operands: the relevance of each operand, shaped as it is.
        absorbed: what the layer kept.
        proportional: whether operands have none where they are zero.
    """

    operands: Sequence[Tensor]
    absorbed: Absorbed
    proportional: bool


def redistribute(
    layer: LinearMap,
    signal: Signal,
    shares: Iterable[Share],
    relevance: Tensor,
    stabilizer: float,
    totals: dict[int, Tensor] | None = None,
) -> Passed:
    """Passes the relevance of a layer's output to its operands.

    Args:
        layer: the linear map.
        signal: what went through it.
        shares: of a rule.
        relevance: `(N, *output)`; overwritten.
        stabilizer: added to denominators, with their sign.
        totals: number of a share `->` its total, as other targets of the same signal computed it; grows by what this
            one has to compute. `None`: nobody else will come, and what was computed is overwritten.

    Raises:
        ValueError: for shares that do not fit each other.
    """
    known = {} if totals is None else totals
    passed: list[Tensor | None] = [None] * len(signal.operands)
    absorbed = Absorbed.nothing(relevance)
    proportional = True
    before = 0
    for at, share in enumerate(shares):
        taken, rest = _take(share, signal, relevance, before)
        if share.with_before is not None and not before:
            raise ValueError("a share with `with_before` has to follow one with `only_its_sign`.")
        if share.terms:
            total = _total(layer, signal, share, at, known)
            needed = totals is not None or share.total is not None or (share.only_its_sign and rest is not None)
            kept = _hand_on(layer, signal, share, taken, total, stabilizer, passed, in_place=not needed)
        else:
            kept = Absorbed.nothing(relevance)._replace(zero=per_image(taken) * share.factor)
        absorbed = absorbed.plus(kept)
        proportional = proportional and all(input is signal.operands[operand] for input, _, operand in share.terms)
        if rest is None:
            break
        relevance, before = rest, share.sign if share.only_its_sign else 0
    operands = [x.new_zeros(x.shape) if r is None else r for r, x in zip(passed, signal.operands, strict=True)]
    return Passed(operands, absorbed, proportional)


def _take(share: Share, signal: Signal, relevance: Tensor, before: int) -> tuple[Tensor, Tensor | None]:
    """What a share takes of the relevance, and what is there for the next; `None` if that is nothing.

    Args:
        share: that takes.
        signal: whose outputs have signs.
        relevance: left by the shares before; what is taken is taken out of it.
        before: which sign the share before took.
    """
    if not share.only_its_sign:
        return relevance, relevance
    if share.sign > 0 and signal.confined:
        return relevance, None
    if share.sign == -before and signal.z.count_nonzero() == signal.z.numel():
        return relevance, None
    # The backward pass of a ReLU keeps what is at positive values, in one sweep.
    where = (signal.z if share.sign > 0 else -signal.z).to(relevance.dtype)
    taken: Tensor = torch.ops.aten.threshold_backward(relevance, where, 0)
    return (relevance, None) if torch.equal(taken, relevance) else (taken, relevance.sub_(taken))


def _total(layer: LinearMap, signal: Signal, share: Share, at: int, known: dict[int, Tensor]) -> Tensor:
    """`Σ input·weight + bias` of a share, computed once for all targets."""
    if share.total is not None:
        return share.total
    if at not in known:
        if share.with_before is not None:
            known[at] = torch.sub(known[at - 1], signal.z, alpha=share.with_before).neg_()
        else:
            (input, weight, _), *others = share.terms
            known[at] = layer.apply(input, weight, share.bias)
            for input, weight, _ in others:
                known[at] = known[at] + layer.apply(input, weight)
    return known[at]


def _hand_on(
    layer: LinearMap,
    signal: Signal,
    share: Share,
    relevance: Tensor,
    total: Tensor,
    stabilizer: float,
    passed: list[Tensor | None],
    in_place: bool,
) -> Absorbed:
    """Adds to `passed` what one share hands to the operands, and returns what it keeps."""
    if share.factor != 1:
        relevance = relevance * share.factor
    # Where there is relevance, the output that is the total itself is positive.
    sure = signal.confined and total is signal.z
    sign = 1 if sure else share.sign
    holes = not (sure or share.only_its_sign)
    quotient, added, by_nobody = _divide(relevance, total.to(relevance.dtype), sign, holes, stabilizer, in_place)
    for input, weight, operand in share.terms:
        back = layer.transpose(quotient, weight, input).to(relevance.dtype)
        product = back * input if back is quotient else back.mul_(input)  # others may need the quotient yet
        before = passed[operand]
        passed[operand] = product if before is None else before.add_(product)
    by_channel = None if share.bias is None else layer.sum_channels(quotient)
    by_bias = by_nobody.new_zeros(len(by_nobody))
    if share.bias is not None and by_channel is not None:
        by_bias = by_channel @ share.bias.flatten()
    if isinstance(added, Tensor):
        by_stabilizer = per_image(added.mul_(quotient) if added.shape == quotient.shape else added * quotient)
    else:
        by_stabilizer = added * (per_image(quotient) if by_channel is None else by_channel.sum(1))
    return Absorbed(by_bias, by_stabilizer, by_nobody)


def _divide(
    relevance: Tensor, total: Tensor, sign: int, holes: bool, stabilizer: float, in_place: bool
) -> tuple[Tensor, Tensor | float, Tensor]:
    """Relevance by stabilised total, what was added to each total, and what totals of exactly zero take, `(N,)`.

    Denominators are as large as the activations of a layer, and their sweeps through memory cost more than their
    arithmetic: hence in place, and with shortcuts for totals of one sign.

    Args:
        relevance: of the outputs.
        total: shaped alike, or with batch 1.
        sign: of all totals at which there is relevance; 0: either.
        holes: whether there may be totals of zero among these.
        stabilizer: added to each total, with its sign.
        in_place: whether the total may be overwritten.
    """
    if not sign and total.numel() and total.amin() > 0:
        sign, holes = 1, False
    added: Tensor | float
    if sign:
        bounds = (0, None) if sign > 0 else (None, 0)
        denominator = total.clamp_(*bounds) if in_place else total.clamp(*bounds)
        nobody = _zeros(denominator) if holes or not stabilizer else None
        added = sign * stabilizer
        denominator += added
        if nobody is not None:
            denominator.masked_fill_(nobody, torch.inf)  # where each summand is zero, nothing is handed on
    else:
        nobody = _zeros(total)
        added = torch.copysign(total.new_tensor(stabilizer), total)
        denominator = total.add_(added) if in_place else total + added
        if nobody is not None:
            added.masked_fill_(nobody, 0)
            denominator.masked_fill_(nobody, stabilizer or torch.inf)
    by_nobody = relevance.new_zeros(len(relevance)) if nobody is None else per_image(relevance * nobody)
    # Written over the denominator, where that is as large.
    quotient = torch.div(relevance, denominator, out=denominator if denominator.shape == relevance.shape else None)
    return quotient, added, by_nobody


def _zeros(total: Tensor) -> Tensor | None:
    """Where the total is exactly zero, `None` if nowhere."""
    return None if total.count_nonzero() == total.numel() else total == 0
