"""The rules once more, for speed: shorter sums by identities that hold for signs that are known.

Each function here computes what `redistribute` does for one rule, and says by which identity; tests compare the two.
Tensors at the outputs of a layer are as large as its activations, and sweeps through memory cost more than arithmetic:
hence in place, over tensors that belong to the function alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from whycluster.lrp.linear_maps import Add, Convolution, LinearMap, MatrixProduct, Modify, TokenLinear
from whycluster.lrp.receipts import Absorbed
from whycluster.lrp.redistribution import Passage, Redistributed, redistribute
from whycluster.lrp.rules import AlphaBeta, Epsilon, Gamma, Norm, Ratio, Rule, ZBox, ZPlus, negative, positive

# Bytes of a block that the C library's allocator reuses; larger ones it fetches from the system page by page, which
# takes as long as several sweeps over them.
CHEAP = 16 * 2**20
Terms = Sequence[tuple[Tensor, Tensor | None]]
Fast = Callable[[Passage, Tensor], Redistributed]


def redistribute_fast(passage: Passage, relevance: Tensor) -> Redistributed:
    """What `redistribute` computes: by the shorter sums, and some images after the others where that is faster."""
    fast = FAST.get(type(passage.rule), redistribute)
    busy = _nonzero_ranges(passage, relevance)
    if busy is not None:
        return _pass_busy(passage, relevance, busy, fast)
    parts = [fast(part, relevance[some]) for some, part in _parts(passage)]
    if len(parts) == 1:
        return parts[0]
    passed, absorbed = zip(*parts, strict=True)
    return [torch.cat(one) for one in zip(*passed, strict=True)], Absorbed(*map(torch.cat, zip(*absorbed, strict=True)))


def _parts(passage: Passage) -> list[tuple[slice, Passage]]:
    """Images that are passed through a layer at once: as many as keep what is computed on the way in cheap memory."""
    n = passage.n
    largest = max(x.numel() * x.element_size() for x in (passage.z, *passage.xs))
    alone = passage.batch == (0, 1) and all(len(x) == n for x in (passage.z, *passage.xs) if x.ndim)
    alone = alone and not isinstance(passage.layer, MatrixProduct)  # whose weights may be those of each image
    size = n if passage.z.device.type != "cpu" or not alone else max(1, n * CHEAP // max(largest, 1))
    if size >= n:
        return [(slice(None), passage)]
    some = [slice(start, start + size) for start in range(0, n, size)]
    return [(images, passage.of(images)) for images in some]


def _nonzero_ranges(passage: Passage, relevance: Tensor) -> list[slice] | None:
    """The range in each dimension of the outputs of a layer on tokens that holds all relevance; `None` for others,
    and where every row and column has some. Where attention is constant, none arrives at queries and keys; from a class
    token, none at what the last block makes of other tokens.
    """
    axis, dims = passage.batch.axis, range(relevance.ndim)
    if not isinstance(passage.layer, TokenLinear) or passage.memo is not None or not relevance.numel():
        return None
    if not passage.rule.proportional:  # its inputs may have bounds of their own
        return None
    for some in (relevance.narrow(axis, 0, 1), relevance):  # mostly one image, or part of one, gets some everywhere
        arrives = [_not_zero(some, [at for at in dims if at != dim]) for dim in dims if dim != axis]
        if all(bool(places.all()) for places in arrives):
            return None
    found = [places.nonzero()[:, 0].tolist() or [0] for places in arrives]
    busy = [slice(places[0], places[-1] + 1) for places in found]
    return [*busy[:axis], slice(None), *busy[axis:]]


def _not_zero(values: Tensor, dims: list[int]) -> Tensor:
    """Where some value along `dims` is not zero; quicker than `any`, and true of NaN."""
    return (values.amax(dims) != 0) | (values.amin(dims) != 0)


def _pass_busy(passage: Passage, relevance: Tensor, busy: list[slice], fast: Fast) -> Redistributed:
    """What `redistribute_fast` computes, where only some tokens or outputs of a layer get relevance."""
    layer, rows, (x,) = passage.layer, (*busy[:-1],), passage.xs
    smaller = TokenLinear(layer.weight[busy[-1]], None if layer.bias is None else layer.bias[busy[-1]])
    part = replace(passage, layer=smaller, xs=[x[rows]], z=passage.z[(*busy,)])
    (passed,), absorbed = fast(part, relevance[(*busy,)])
    whole = torch.zeros_like(x, dtype=passed.dtype)
    whole[rows] = passed
    return [whole], absorbed


def epsilon(passage: Passage, relevance: Tensor) -> Redistributed:
    """The total is the output itself, which is there already."""
    layer, z, stabilizer, zero = passage.layer, passage.z, passage.rule.stabilizer, None
    if passage.rectified:  # where there is relevance, z > 0
        denominator = z + stabilizer if stabilizer else z.clone()
        denominator.clamp_(min=stabilizer or torch.finfo(z.dtype).tiny)
        quotient = signed = torch.div(relevance, denominator, out=denominator)
    else:
        sign = z.sign()
        quotient, zero = _divided(passage, relevance, torch.add(z, sign, alpha=stabilizer), sign)
        signed = sign.mul_(quotient) if stabilizer else quotient
    absorbed = _kept(passage, [(quotient, layer.bias)], signed, stabilizer, zero)
    *others, last = passage.xs
    if isinstance(layer, Add):  # each summand gets its part of the one quotient, the last one in its place
        return [*(quotient * x for x in others), quotient.mul_(last)], absorbed
    passed = layer.transpose(quotient, passage.xs, layer.weight)
    return [back * x for back, x in zip(passed, passage.xs, strict=True)], absorbed


def ratio(passage: Passage, relevance: Tensor) -> Redistributed:
    """Summands that cannot be negative are their own absolute values, and their sum is the output."""
    if passage.nonnegative and isinstance(passage.layer, Add) and min(passage.layer.signs) > 0:
        return epsilon(passage, relevance)
    return redistribute(passage, relevance)


def alpha_beta(passage: Passage, relevance: Tensor) -> Redistributed:
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
    layer, weight, bias = passage.layer, passage.layer.modified(modify), _bias(passage.layer, modify)
    total = _memo(passage, modify.__name__, lambda: layer.apply(passage.xs, weight, bias).to(relevance.dtype))
    quotient, zero = _divided(passage, relevance, total + sign * passage.rule.stabilizer, total.sign())
    back = layer.transpose(quotient, passage.xs, weight)[0]
    absorbed = _kept(passage, [(quotient, bias)], quotient, passage.rule.stabilizer, zero)
    return back, absorbed if sign > 0 else absorbed._replace(stabilizer=-absorbed.stabilizer)


def gamma(passage: Passage, relevance: Tensor) -> Redistributed:
    """By `(x w)⁺ = (|x w| + x w) / 2`, one sum serves outputs of both signs: with `c = γ / (2 + γ)`, the share of an
    input is `(sign(z) x w + c |x w|) / (|z| + c Σ |x w|)`: both sides of the rule's fraction, and with them the
    stabilizer, are divided by `1 + γ/2`.
    """
    rule, layer, x, z = passage.rule, passage.layer, passage.xs[0], passage.z
    assert isinstance(rule, Gamma)
    if len(passage.xs) > 1 or layer.weight is None:
        return redistribute(passage, relevance)
    if passage.nonnegative and passage.rectified:
        return _gamma_between_relus(passage, relevance)
    size, sign = x if passage.nonnegative else x.abs(), z.sign()
    scaled, stabilizer = _scaled_size(rule.gamma / (2 + rule.gamma)), rule.stabilizer / (1 + rule.gamma / 2)
    total = _memo(passage, "total", lambda: _total(passage, size, scaled, stabilizer).addcmul_(z, sign))
    signed, zero = _divided(passage, relevance, total, sign)
    quotient = sign.mul_(signed)
    back = layer.transpose(quotient, [x], layer.weight)[0].mul_(x)
    back.addcmul_(layer.transpose(signed, [x], layer.modified(scaled))[0], size)
    terms = [(signed, _bias(layer, scaled)), (quotient, layer.bias)]
    return [back], _kept(passage, terms, signed, stabilizer, zero)


@cache
def _scaled_size(factor: float) -> Modify:
    """`c |w|`; one function for each factor, as layers keep what it makes of their weights."""
    return lambda weight: weight.abs() * factor


def _gamma_between_relus(passage: Passage, relevance: Tensor) -> Redistributed:
    """Inputs are not negative, and only positive outputs have relevance: what is left is `x (w + γ w⁺)` of its sum."""
    rule, layer, z, x = passage.rule, passage.layer, passage.z, passage.xs[0]
    assert isinstance(rule, Gamma)
    stabilizer, modify = rule.stabilizer, rule.more_positive
    least = stabilizer or torch.finfo(z.dtype).tiny
    total = _memo(passage, "total", lambda: _total(passage, x, modify, stabilizer).clamp_(min=least))
    quotient = torch.div(relevance, total, out=total if passage.memo is None else None)
    back = layer.transpose(quotient, [x], layer.modified(modify))[0]
    return [back.mul_(x)], _kept(passage, [(quotient, _bias(layer, modify))], quotient, stabilizer)


def box(passage: Passage, relevance: Tensor) -> Redistributed:
    """The sum of two products is one product, of inputs and weights that stand side by side."""
    layer, rule, x = passage.layer, passage.rule, passage.xs[0]
    if not isinstance(layer, Convolution) or layer.transposed or layer.groups > 1:
        return redistribute(passage, relevance)
    products = rule.contributions[0].products
    inputs = torch.cat([product.input(x) for product in products], 1)
    weights = torch.cat([product.weight(layer.weight) for product in products], 1)
    total = _memo(passage, "box", lambda: layer.apply([inputs], weights).to(relevance.dtype))
    sign = total.sign()
    quotient, zero = _divided(passage, relevance, torch.add(total, sign, alpha=rule.stabilizer), sign)
    back = layer.transpose(quotient, [inputs], weights)[0].mul_(inputs)
    kept = _kept(passage, [], quotient * sign, rule.stabilizer, zero)
    return [back.view(len(back), len(products), *x.shape[1:]).sum(1)], kept


def _bias(layer: LinearMap, modify: Modify) -> Tensor | None:
    """The bias as a rule modifies it."""
    return None if layer.bias is None else modify(layer.bias)


def _total(passage: Passage, x: Tensor, modify: Modify, stabilizer: float) -> Tensor:
    """The sum with modified weights and bias, and the stabilizer, which costs no sweep of its own in the bias."""
    bias = _bias(passage.layer, modify)
    weight = passage.layer.modified(modify)
    total = passage.layer.apply([x], weight, None if bias is None else bias + stabilizer).to(passage.z.dtype)
    return total.add_(stabilizer) if bias is None else total


def _divided(passage: Passage, relevance: Tensor, denominator: Tensor, sign: Tensor) -> tuple[Tensor, Tensor | None]:
    """Relevance by denominators, in their place unless other targets need them; and what is kept where the total has no
    sign, as it is zero, so that no input takes relevance.
    """
    zero, ours = None, passage.memo is None
    if sign.prod() == 0:  # the quickest way to see whether there is such a one
        empty = sign == 0
        zero = passage.per_image(relevance * empty)
        denominator = denominator.masked_fill(empty, torch.inf)
    return torch.div(relevance, denominator, out=denominator if ours else None), zero


def _memo(passage: Passage, name: str, compute: Callable[[], Tensor]) -> Tensor:
    """A total, which other targets of the same images share."""
    if passage.memo is None:
        return compute()
    if name not in passage.memo:
        passage.memo[name] = compute()
    found: Tensor = passage.memo[name]
    return found


def _kept(passage: Passage, terms: Terms, signed: Tensor, stabilizer: float, zero: Tensor | None = None) -> Absorbed:
    """What biases, stabilizer and zero totals keep: `terms` are pairs, relevance by total and the bias in that total;
    `signed` is relevance by total, times the sign of the added stabilizer.
    """
    by_bias, summed = signed.new_zeros(passage.n), signed
    for quotient, bias in terms:
        if bias is not None:
            places = passage.over_places(quotient, bias)
            by_bias = by_bias + passage.per_image(places * bias)
            summed = places if quotient is signed else summed  # one sweep less
    by_stabilizer = passage.per_image(summed) * stabilizer
    return Absorbed(by_bias, by_stabilizer, torch.zeros_like(by_stabilizer) if zero is None else zero)


FAST: dict[type[Rule], Fast] = {
    Epsilon: epsilon,
    Norm: epsilon,
    Ratio: ratio,
    AlphaBeta: alpha_beta,
    ZPlus: alpha_beta,
    Gamma: gamma,
    ZBox: box,
}
