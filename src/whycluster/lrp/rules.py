"""How relevance passes a linear map: each rule says in a few lines which inputs meet which weights.

A rule looks at a map `z = w·x + b` and yields shares (see `shares`): sums of terms `input·weight` and a bias, which
take the relevance of the outputs and hand it to the inputs in proportion to what each contributed to the sum.

Conventions (bias, sign and stabiliser of each rule) are those of zennit 0.5.1. `x⁺ = max(x, 0)`, `x⁻ = min(x, 0)`.
"""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from whycluster.lrp.linear_maps import LinearMap
from whycluster.lrp.shares import Share, Signal, Term

Rule = Callable[[LinearMap, Signal], Iterable[Share]]


def epsilon(layer: LinearMap, signal: Signal) -> Iterable[Share]:
    """In proportion to `x·w`; LRP-0 where the stabiliser is 0 (Bach et al. 2015)."""
    terms = tuple(Term(x, layer.weight, at) for at, x in enumerate(signal.operands))
    yield Share(terms, layer.bias, total=signal.z)


def norm(layer: LinearMap, signal: Signal) -> Iterable[Share]:
    """The same where there are no weights to learn, poolings and sums; zennit's name for it."""
    return epsilon(layer, signal)


def ratio(layer: LinearMap, signal: Signal) -> Iterable[Share]:
    """For sums: in proportion to `|x|`, so that branches which cancel cannot blow it up (Otsuki et al. 2024)."""
    yield Share(tuple(Term(x.abs(), None, at) for at, x in enumerate(signal.operands)), sign=1)


def z_plus(layer: LinearMap, signal: Signal) -> Iterable[Share]:
    """Only what excites: in proportion to `(x·w)⁺` (Montavon et al. 2017)."""
    yield Share(signal.meets(layer.positive, layer.negative), clamp(layer.bias, low=0), sign=1)


def alpha_beta(layer: LinearMap, signal: Signal, *, alpha: float, beta: float) -> Iterable[Share]:
    """`alpha` times what excites, minus `beta` times what inhibits; `alpha - beta = 1` (Bach et al. 2015)."""
    yield Share(signal.meets(layer.positive, layer.negative), clamp(layer.bias, low=0), alpha, sign=1)
    if beta:
        yield Share(signal.meets(layer.negative, layer.positive), clamp(layer.bias, high=0), -beta, sign=-1)


def gamma(layer: LinearMap, signal: Signal, *, gamma: float) -> Iterable[Share]:
    """What has the sign of the output counts `1 + gamma` times (generalized: Andéol et al. 2021)."""
    bias = layer.bias
    excite = partial(layer.modified, f"{gamma} excite", lambda weight: weight + gamma * weight.clamp(min=0))
    inhibit = partial(layer.modified, f"{gamma} inhibit", lambda weight: weight + gamma * weight.clamp(max=0))
    risen = None if bias is None else bias + gamma * bias.clamp(min=0)
    sunk = None if bias is None else bias + gamma * bias.clamp(max=0)
    yield Share(signal.meets(excite, inhibit), risen, sign=1, only_its_sign=True)
    yield Share(signal.meets(inhibit, excite), sunk, sign=-1, only_its_sign=True, with_before=2 + gamma)
    yield Share(())  # an output of exactly zero has no sign


def flat(layer: LinearMap, signal: Signal) -> Iterable[Share]:
    """Evenly over the receptive field, whatever the input and the weights (Lapuschkin et al. 2019)."""
    ones = layer.modified("ones", torch.ones_like)
    yield Share((Term(torch.ones_like(signal.x[:1]), ones),), sign=1)


def w_square(layer: LinearMap, signal: Signal) -> Iterable[Share]:
    """In proportion to the squared weights (Montavon et al. 2017)."""
    squares = layer.modified("squares", torch.square)
    bias = None if layer.bias is None else layer.bias.square()
    yield Share((Term(torch.ones_like(signal.x[:1]), squares),), bias, sign=1)


def box(layer: LinearMap, signal: Signal, *, low: float | Tensor, high: float | Tensor) -> Iterable[Share]:
    """For inputs between `low` and `high`: `x·w - low·w⁺ - high·w⁻` (Montavon et al. 2017).

    The bias falls out of the sum. Written with `x - low` and `x - high`, no term cancels another: none is negative.
    """
    x = signal.x
    if x.ndim == 4 and x.device.type == "cpu":  # there, few channels first cost a convolution nine times as much
        x = x.contiguous(memory_format=torch.channels_last)
    above, below = x - torch.as_tensor(low).to(x), x - torch.as_tensor(high).to(x)
    yield Share((Term(above, layer.positive()), Term(below, layer.negative())))


def clamp(bias: Tensor | None, low: float | None = None, high: float | None = None) -> Tensor | None:
    """The bias between `low` and `high`, where there is one."""
    return None if bias is None else bias.clamp(low, high)
