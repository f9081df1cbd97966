"""The rules once more, for speed: shorter sums by identities that hold for signs that are known.

Each function here computes what `redistribute` does for one rule, and says by which identity; tests compare the two.
Tensors at the outputs of a layer are as large as its activations, and sweeps through memory cost more than arithmetic:
hence in place, over tensors that belong to the function alone.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from whycluster.lrp.linear_maps import Add, Modify
from whycluster.lrp.receipts import Absorbed
from whycluster.lrp.redistribution import Passage, Relevance, redistribute
from whycluster.lrp.rules import AlphaBeta, Epsilon, Gamma, Norm, Ratio, Rule, ZPlus, negative, positive

# Bytes of a block that the C library's allocator reuses; larger ones it fetches from the system page by page, which
# takes as long as several sweeps over them.
CHEAP = 32 * 2**20


def redistribute_fast(passage: Passage, relevance: Tensor) -> Relevance:
    """What `redistribute` computes: by the shorter sums, and some images after the others where that is faster."""
    fused = FUSED.get(type(passage.rule), redistribute)
    parts = [fused(part, relevance[some]) for some, part in _parts(passage)]
    if len(parts) == 1:
        return parts[0]
    passed, absorbed = zip(*parts, strict=True)
    joined = [torch.cat(operand) for operand in zip(*passed, strict=True)]
    return joined, Absorbed(*map(torch.cat, zip(*absorbed, strict=True)))


def _parts(passage: Passage) -> Iterator[tuple[slice, Passage]]:
    """Images that are passed through a layer at once: as many as keep what is computed on the way in cheap memory."""
    n = passage.n
    largest = max(x.numel() * x.element_size() for x in (passage.z, *passage.xs))
    alone = passage.batch == (0, 1) and all(len(x) == n for x in (passage.z, *passage.xs) if x.ndim)
    size = n if passage.z.device.type != "cpu" or not alone else max(1, n * CHEAP // max(largest, 1))
    if size >= n:
        yield slice(None), passage
        return
    for start in range(0, n, size):
        yield slice(start, start + size), passage.of(slice(start, start + size))


def epsilon(passage: Passage, relevance: Tensor) -> Relevance:
    """The total is the output itself, which is there already."""
    layer, z, stabilizer = passage.layer, passage.z, passage.rule.stabilizer
    zero = None
    if passage.rectified:  # where there is relevance, z > 0
        denominator = z + stabilizer if stabilizer else z.clone()
        denominator.clamp_(min=stabilizer or torch.finfo(z.dtype).tiny)
        quotient = signed = torch.div(relevance, denominator, out=denominator)
    else:
        denominator = z + torch.copysign(z.new_tensor(stabilizer), z)
        if _has_zeros(z):
            nobody = z == 0
            zero = passage.per_image(relevance * nobody)
            denominator.masked_fill_(nobody, torch.inf)
        quotient = torch.div(relevance, denominator, out=denominator)
        signed = quotient * z.sign() if stabilizer else quotient
    absorbed = _kept(passage, quotient, layer.bias, signed, zero)
    passed = layer.transpose(quotient, passage.xs, layer.weight)
    return [back * x for back, x in zip(passed, passage.xs, strict=True)], absorbed


def ratio(passage: Passage, relevance: Tensor) -> Relevance:
    """Summands that cannot be negative are their own absolute values, and their sum is the output."""
    if passage.nonnegative and isinstance(passage.layer, Add) and min(passage.layer.signs) > 0:
        return epsilon(passage, relevance)
    return redistribute(passage, relevance)


def alpha_beta(passage: Passage, relevance: Tensor) -> Relevance:
    """Inputs that are not negative meet weights of one sign: the total has that sign."""
    rule = passage.rule
    assert isinstance(rule, AlphaBeta)
    if not passage.nonnegative or len(passage.xs) > 1:
        return redistribute(passage, relevance)
    x = passage.xs[0]
    passed, absorbed = _one_sign(passage, relevance * rule.alpha if rule.alpha != 1 else relevance, positive, 1)
    if rule.beta:
        inhibited, kept = _one_sign(passage, relevance * -rule.beta, negative, -1)
        passed, absorbed = passed.add_(inhibited), absorbed.plus(kept)
    return [passed.mul_(x)], absorbed


def _one_sign(passage: Passage, relevance: Tensor, modify: Modify, sign: int) -> tuple[Tensor, Absorbed]:
    """`wᵀ (R / total)` for weights and bias of one sign, and what the contribution keeps."""
    layer, weight = passage.layer, passage.layer.modified(modify)
    bias = None if layer.bias is None else modify(layer.bias)
    total = _memo(passage, modify.__name__, lambda: layer.apply(passage.xs, weight, bias).to(relevance.dtype))
    zero, denominator = None, total + sign * passage.rule.stabilizer
    if _has_zeros(total):
        nobody = total == 0
        zero = passage.per_image(relevance * nobody)
        denominator.masked_fill_(nobody, torch.inf)
    quotient = torch.div(relevance, denominator, out=denominator)
    back = layer.transpose(quotient, passage.xs, weight)[0]
    absorbed = _kept(passage, quotient, bias, quotient, zero)
    return back, absorbed if sign > 0 else absorbed._replace(stabilizer=-absorbed.stabilizer)


def gamma(passage: Passage, relevance: Tensor) -> Relevance:
    """By `(x w)⁺ = (|x w| + x w) / 2`, one sum serves outputs of both signs: with `A = |w|·|x| + |b|` and `s` the sign
    of `z`, the total is `(1 + γ/2) z + s γ/2 A`, and what an input adds to it `(1 + γ/2) x w + s γ/2 |x| |w|`.
    """
    rule, layer = passage.rule, passage.layer
    assert isinstance(rule, Gamma)
    if len(passage.xs) > 1 or layer.weight is None:
        return redistribute(passage, relevance)
    if passage.rectified and passage.nonnegative:
        return _gamma_of_positive(passage, relevance)
    x, z, more = passage.xs[0], passage.z, 1 + rule.gamma / 2
    size = x if passage.nonnegative else x.abs()
    weight, bias = layer.modified(rule.half), None if layer.bias is None else rule.half(layer.bias)
    total = _memo(passage, "half", lambda: layer.apply([size], weight, bias).to(relevance.dtype))
    denominator = total + rule.stabilizer if passage.memo is not None else total.add_(rule.stabilizer)
    denominator.copysign_(z).add_(z, alpha=more)
    zero = None
    if _has_zeros(z):
        zero = passage.per_image(relevance * (z == 0))
        denominator.masked_fill_(z == 0, torch.inf)
    quotient = relevance / denominator
    signed = torch.div(relevance, denominator.abs_(), out=denominator)
    absorbed = _kept(passage, signed, bias, signed, zero)
    if layer.bias is not None:
        absorbed = absorbed._replace(bias=absorbed.bias + passage.kept_by(quotient, more * layer.bias))
    back = layer.transpose(quotient, passage.xs, layer.weight)[0].mul_(more)
    other = layer.transpose(signed, passage.xs, weight)[0]
    return [back.add_(other).mul_(x) if passage.nonnegative else back.mul_(x).addcmul_(other, size)], absorbed


def _gamma_of_positive(passage: Passage, relevance: Tensor) -> Relevance:
    """Behind a ReLU and before one, inputs and outputs with relevance are positive: one sum is left."""
    rule, layer = passage.rule, passage.layer
    assert isinstance(rule, Gamma)
    weight, least = layer.modified(rule.rising), rule.stabilizer or torch.finfo(passage.z.dtype).tiny
    bias = None if layer.bias is None else rule.rising(layer.bias)

    def stabilised() -> Tensor:
        # With the stabilizer in the bias, it costs no sweep of its own.
        with_bias = None if bias is None else bias + rule.stabilizer
        total = layer.apply(passage.xs, weight, with_bias).to(relevance.dtype)
        return (total.add_(rule.stabilizer) if bias is None else total).clamp_(min=least)

    denominator = _memo(passage, "rising", stabilised)
    quotient = torch.div(relevance, denominator, out=denominator if passage.memo is None else None)
    back = layer.transpose(quotient, passage.xs, weight)[0]
    return [back.mul_(passage.xs[0])], _kept(passage, quotient, bias, quotient, None)


def _has_zeros(values: Tensor) -> bool:
    return int(values.count_nonzero()) < values.numel()


def _memo(passage: Passage, name: str, compute: Callable[[], Tensor]) -> Tensor:
    """A total, which other targets of the same images share."""
    if passage.memo is None:
        return compute()
    if name not in passage.memo:
        passage.memo[name] = compute()
    found: Tensor = passage.memo[name]
    return found


def _kept(passage: Passage, quotient: Tensor, bias: Tensor | None, signed: Tensor, zero: Tensor | None) -> Absorbed:
    """What bias, stabiliser and zero totals keep.

    Args:
        quotient: relevance by total.
        bias: that is part of the total.
        signed: the quotient times the sign that the stabiliser was added with.
        zero: kept where totals are zero.
    """
    summed = passage.over_places(quotient, bias)
    by_bias = summed.new_zeros(passage.n) if bias is None else passage.per_image(summed * bias)
    by_stabilizer = passage.per_image(summed if signed is quotient else signed) * passage.rule.stabilizer
    return Absorbed(by_bias, by_stabilizer, torch.zeros_like(by_stabilizer) if zero is None else zero)


FUSED: dict[type[Rule], Callable[[Passage, Tensor], Relevance]] = {
    Epsilon: epsilon,
    Norm: epsilon,
    Ratio: ratio,
    AlphaBeta: alpha_beta,
    ZPlus: alpha_beta,
    Gamma: gamma,
}
