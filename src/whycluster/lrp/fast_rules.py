"""Faster versions of the rules: identities that hold where signs are known save sums.

Each function here computes what `redistribute` does for one rule, and says by which identity; tests compare the two.
Tensors at the outputs of a layer are as large as its activations, and reading them costs more than the arithmetic:
hence operations in place, on tensors that the function has made itself.
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

# Bytes of a tensor whose memory the C library's allocator reuses; larger ones it fetches from the system page by page,
# which takes as long as reading them several times.
REUSED_BYTES = 16 * 2**20
Pairs = Sequence[tuple[Tensor, Tensor | None]]  # relevance divided by a total, and the bias in that total
Fast = Callable[[Passage, Tensor], Redistributed]


def redistribute_fast(passage: Passage, relevance: Tensor) -> Redistributed:
    """Computes what `redistribute` does, with fewer sums, and in parts of the batch where that is faster."""
    fast = FAST.get(type(passage.rule), redistribute)
    ranges = _nonzero_ranges(passage, relevance)
    if ranges is not None:
        return _redistribute_within(passage, relevance, ranges, fast)
    parts = [fast(part, relevance[some]) for some, part in _parts(passage)]
    if len(parts) == 1:
        return parts[0]
    passed, absorbed = zip(*parts, strict=True)
    return [torch.cat(one) for one in zip(*passed, strict=True)], Absorbed(*map(torch.cat, zip(*absorbed, strict=True)))


def _parts(passage: Passage) -> list[tuple[slice, Passage]]:
    """Splits a batch so that the intermediate results of one part fit into memory that the allocator reuses."""
    n = passage.n
    largest = max(x.numel() * x.element_size() for x in (passage.z, *passage.xs))
    separable = passage.batch == (0, 1) and all(len(x) == n for x in (passage.z, *passage.xs) if x.ndim)
    separable = separable and not isinstance(passage.layer, MatrixProduct)  # each image may have weights of its own
    size = n if passage.z.device.type != "cpu" or not separable else max(1, n * REUSED_BYTES // max(largest, 1))
    if size >= n:
        return [(slice(None), passage)]
    some = [slice(start, start + size) for start in range(0, n, size)]
    return [(images, passage.of(images)) for images in some]


def _nonzero_ranges(passage: Passage, relevance: Tensor) -> list[slice] | None:
    """Finds the range, in each dimension of the outputs of a layer on tokens, outside of which relevance is zero;
    returns `None` for other layers, and where every row and column has relevance. Queries and keys get none where
    attention is constant; where the class token is explained, other tokens get none in the last block.
    """
    axis, dims = passage.batch.axis, range(relevance.ndim)
    if not isinstance(passage.layer, TokenLinear) or passage.memo is not None or not relevance.numel():
        return None
    if not passage.rule.proportional:  # its inputs may have bounds of their own
        return None
    for some in (relevance.narrow(axis, 0, 1), relevance):  # the first image decides in most cases, at less cost
        arrives = [_not_zero(some, [at for at in dims if at != dim]) for dim in dims if dim != axis]
        if all(bool(places.all()) for places in arrives):
            return None
    found = [places.nonzero()[:, 0].tolist() or [0] for places in arrives]
    ranges = [slice(places[0], places[-1] + 1) for places in found]
    return [*ranges[:axis], slice(None), *ranges[axis:]]


def _not_zero(values: Tensor, dims: list[int]) -> Tensor:
    """Tells where some value along `dims` is not zero; faster than `any`, and true of NaN."""
    return (values.amax(dims) != 0) | (values.amin(dims) != 0)


def _redistribute_within(passage: Passage, relevance: Tensor, ranges: list[slice], fast: Fast) -> Redistributed:
    """Computes what `redistribute_fast` does where relevance is zero outside of some ranges of the outputs."""
    layer, rows, (x,) = passage.layer, (*ranges[:-1],), passage.xs
    smaller = TokenLinear(layer.weight[ranges[-1]], None if layer.bias is None else layer.bias[ranges[-1]])
    part = replace(passage, layer=smaller, xs=[x[rows]], z=passage.z[(*ranges,)])
    (passed,), absorbed = fast(part, relevance[(*ranges,)])
    whole = torch.zeros_like(x, dtype=passed.dtype)
    whole[rows] = passed
    return [whole], absorbed


def epsilon(passage: Passage, relevance: Tensor) -> Redistributed:
    """Computes `Epsilon` with the output of the layer as the total, so that no sum is computed again."""
    layer, z, stabilizer, zero = passage.layer, passage.z, passage.rule.stabilizer, None
    if passage.rectified:  # relevance is zero except where z > 0
        denominator = z + stabilizer if stabilizer else z.clone()
        denominator.clamp_(min=stabilizer or torch.finfo(z.dtype).tiny)
        quotient = signed = torch.div(relevance, denominator, out=denominator)
    else:
        sign = z.sign()
        quotient, zero = _divided(passage, relevance, torch.add(z, sign, alpha=stabilizer), sign)
        signed = sign.mul_(quotient) if stabilizer else quotient
    absorbed = _kept(passage, [(quotient, layer.bias)], signed, stabilizer, zero)
    *others, last = passage.xs
    if isinstance(layer, Add):  # all summands have the same quotient; the last product overwrites it
        return [*(quotient * x for x in others), quotient.mul_(last)], absorbed
    passed = layer.transpose(quotient, passage.xs, layer.weight)
    return [back * x for back, x in zip(passed, passage.xs, strict=True)], absorbed


def ratio(passage: Passage, relevance: Tensor) -> Redistributed:
    """Computes `Ratio` for summands `>= 0` as `Epsilon`: they equal their absolute values, and sum to the output."""
    if passage.nonnegative and isinstance(passage.layer, Add) and min(passage.layer.signs) > 0:
        return epsilon(passage, relevance)
    return redistribute(passage, relevance)


def alpha_beta(passage: Passage, relevance: Tensor) -> Redistributed:
    """Computes `AlphaBeta` for inputs `>= 0` with weights of one sign at a time, which is also that of the total."""
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
    """Computes `wᵀ (R / total)` for weights and bias of one sign, and what the contribution absorbs."""
    layer, weight, bias = passage.layer, passage.layer.modified(modify), _bias(passage.layer, modify)
    total = _memo(passage, modify.__name__, lambda: layer.apply(passage.xs, weight, bias).to(relevance.dtype))
    quotient, zero = _divided(passage, relevance, total + sign * passage.rule.stabilizer, total.sign())
    back = layer.transpose(quotient, passage.xs, weight)[0]
    absorbed = _kept(passage, [(quotient, bias)], quotient, passage.rule.stabilizer, zero)
    return back, absorbed if sign > 0 else absorbed._replace(stabilizer=-absorbed.stabilizer)


def gamma(passage: Passage, relevance: Tensor) -> Redistributed:
    """Computes `Gamma` with one sum for outputs of both signs, by `(x w)⁺ = (|x w| + x w) / 2`: with `c = γ / (2 + γ)`
    an input contributes `(sign(z) x w + c |x w|) / (|z| + c Σ |x w|)`. Numerator and denominator of the rule, and with
    them the stabilizer, are divided by `1 + γ/2`.
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
    pairs = [(signed, _bias(layer, scaled)), (quotient, layer.bias)]
    return [back], _kept(passage, pairs, signed, stabilizer, zero)


@cache
def _scaled_size(factor: float) -> Modify:
    """Returns the function `c |w|`, the same one for the same factor, as layers cache their modified weights by
    function.
    """
    return lambda weight: weight.abs() * factor


def _gamma_between_relus(passage: Passage, relevance: Tensor) -> Redistributed:
    """Computes `Gamma` for inputs `>= 0` and relevance at positive outputs only: in proportion to `x (w + γ w⁺)`."""
    rule, layer, z, x = passage.rule, passage.layer, passage.z, passage.xs[0]
    assert isinstance(rule, Gamma)
    stabilizer, modify = rule.stabilizer, rule.more_positive
    least = stabilizer or torch.finfo(z.dtype).tiny
    total = _memo(passage, "total", lambda: _total(passage, x, modify, stabilizer).clamp_(min=least))
    quotient = torch.div(relevance, total, out=total if passage.memo is None else None)
    back = layer.transpose(quotient, [x], layer.modified(modify))[0]
    return [back.mul_(x)], _kept(passage, [(quotient, _bias(layer, modify))], quotient, stabilizer)


def box(passage: Passage, relevance: Tensor) -> Redistributed:
    """Computes `ZBox` with one product in place of two, of inputs and weights concatenated along the channels."""
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
    """Returns the bias as a rule modifies it."""
    return None if layer.bias is None else modify(layer.bias)


def _total(passage: Passage, x: Tensor, modify: Modify, stabilizer: float) -> Tensor:
    """Computes the sum with modified weights and bias, plus the stabilizer, which is added to the bias where there is
    one.
    """
    bias = _bias(passage.layer, modify)
    weight = passage.layer.modified(modify)
    total = passage.layer.apply([x], weight, None if bias is None else bias + stabilizer).to(passage.z.dtype)
    return total.add_(stabilizer) if bias is None else total


def _divided(passage: Passage, relevance: Tensor, denominator: Tensor, sign: Tensor) -> tuple[Tensor, Tensor | None]:
    """Divides relevance by denominators, in place unless other targets need them; also returns the relevance of outputs
    whose total is zero, which no input gets.
    """
    zero, ours = None, passage.memo is None
    if sign.prod() == 0:  # the fastest test for a zero
        empty = sign == 0
        zero = passage.per_image(relevance * empty)
        denominator = denominator.masked_fill(empty, torch.inf)
    return torch.div(relevance, denominator, out=denominator if ours else None), zero


def _memo(passage: Passage, name: str, compute: Callable[[], Tensor]) -> Tensor:
    """Computes a total, or returns the one that another target of the same images has computed."""
    if passage.memo is None:
        return compute()
    if name not in passage.memo:
        passage.memo[name] = compute()
    found: Tensor = passage.memo[name]
    return found


def _kept(passage: Passage, pairs: Pairs, signed: Tensor, stabilizer: float, zero: Tensor | None = None) -> Absorbed:
    """Computes what biases, stabilizer and zero totals absorb: `pairs` are relevance divided by a total, and the bias
    in that total; `signed` is relevance divided by a total, times the sign of the added stabilizer.
    """
    by_bias, summed = signed.new_zeros(passage.n), signed
    for quotient, bias in pairs:
        if bias is not None:
            places = passage.over_places(quotient, bias)
            by_bias = by_bias + passage.per_image(places * bias)
            summed = places if quotient is signed else summed  # it is summed in part already
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
