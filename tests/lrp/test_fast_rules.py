"""The shorter forms of rules against the rules as they are written, in float64."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import pytest
import torch
from families import FAMILIES
from lrp.linear import LAYERS, inputs_of, linear_map
from networks import randomized
from torch import Tensor, nn

from whycluster.lrp import (
    LRP,
    Add,
    AlphaBeta,
    AveragePool,
    Bilinear,
    Composite,
    Convolution,
    Epsilon,
    EpsilonAlpha2Beta1,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    Flat,
    Gamma,
    LayerNorm,
    LinearMap,
    MatrixProduct,
    Norm,
    Ratio,
    Rule,
    TokenLinear,
    WSquare,
    ZBox,
    ZPlus,
    fast_rules,
    lrp,
    plan,
)
from whycluster.lrp.fast_rules import FAST, redistribute_fast
from whycluster.lrp.graph import Batch
from whycluster.lrp.receipts import Absorbed
from whycluster.lrp.redistribution import Passage, redistribute

RULES: dict[str, Callable[[float], Rule]] = {
    "Epsilon": Epsilon,
    "ZPlus": ZPlus,
    "AlphaBeta": lambda s: AlphaBeta(2, 1, s),
    "AlphaBeta 3 2": lambda s: AlphaBeta(3, 2, s),
    "Gamma": lambda s: Gamma(0.25, s),
    "Gamma 0": lambda s: Gamma(0.0, s),
    "Flat": Flat,
    "WSquare": WSquare,
    "ZBox": lambda s: ZBox(-3.0, torch.full((1,), 4.0), s),
}
KINDS = ("linear", "linear, many rows", "convolution", "groups", "transposed")
FLAGS = list(product([False, True], repeat=3))  # nonnegative, rectified, after the ReLU


def same(got: tuple[Sequence[Tensor], Absorbed], expected: tuple[Sequence[Tensor], Absorbed]) -> None:
    for one, other in zip((*got[0], *got[1]), (*expected[0], *expected[1]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def compare(layer: LinearMap, rule: Rule, xs: list[Tensor], nonnegative: bool, rectified: bool, relu: bool) -> None:
    z = layer.forward(xs)
    r = torch.randn_like(z)
    r[0, 0] = 0
    if rectified:
        r[z <= 0] = 0
    expected = redistribute(Passage(layer, rule, xs, z, Batch(0), len(z)), r)
    for memo in (None, {}):
        given = z.relu() if relu and rectified else z.clone()
        knowing = Passage(layer, rule, xs, given, Batch(0), len(z), nonnegative, rectified, memo)
        before = [one.clone() for one in (*xs, given, r)]
        same(redistribute_fast(knowing, r), expected)
        assert all(map(torch.equal, before, (*xs, given, r)))  # others read them
        if memo is not None:  # another target, by the totals of the first
            same(
                redistribute_fast(knowing, -3 * r),
                ([-3 * one for one in expected[0]], Absorbed(*(-3 * one for one in expected[1]))),
            )


@torch.no_grad()
@pytest.mark.parametrize("stabilizer", [0.0, 1e-6, 0.05])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", RULES)
def test_layers_with_weights(rule: str, kind: str, bias: bool, stabilizer: float) -> None:
    build, shape = LAYERS[kind]
    for at, (nonnegative, rectified, relu) in enumerate(FLAGS):
        torch.manual_seed(at)
        layer, x = linear_map(build(bias).double()), inputs_of(shape, nonnegative)
        compare(layer, RULES[rule](stabilizer), [x], nonnegative, rectified, relu)


@torch.no_grad()
@pytest.mark.parametrize("stabilizer", [0.0, 0.05])
@pytest.mark.parametrize("kind", ["sum", "difference", "pool", "layer norm", "constant factor", "two factors"])
@pytest.mark.parametrize("rule", [Epsilon, Norm, Ratio])
def test_layers_without_weights_to_modify(rule: Callable[[float], Rule], kind: str, stabilizer: float) -> None:
    torch.manual_seed(0)
    ones = torch.ones(3, dtype=torch.float64)
    kinds: dict[str, tuple[LinearMap, int]] = {
        "sum": (Add((1, 1)), 2),
        "difference": (Add((1, -1)), 2),
        "pool": (AveragePool(nn.AvgPool1d(2, 1, padding=1)), 1),
        "layer norm": (LayerNorm(ones * 2, ones, (3,), 1e-5), 1),
        "constant factor": (MatrixProduct(torch.randn(4, 4, 4, dtype=torch.float64), left=True), 1),
        "two factors": (Bilinear(), 2),
    }
    layer, operands = kinds[kind]
    for nonnegative, rectified, relu in FLAGS:
        xs = [inputs_of((4, 3), nonnegative, n=4) for _ in range(operands)]
        if kind == "two factors":
            xs[1] = xs[1].mT.contiguous()
        if isinstance(layer, Add):
            xs = layer.signed(xs)
        signs_known = nonnegative and kind != "difference"
        compare(layer, rule(stabilizer), xs, signs_known, rectified, relu)


@torch.no_grad()
@pytest.mark.parametrize("memo", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_some_images_after_the_others(rule: str, memo: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    build, shape = LAYERS["convolution"]
    layer, x = linear_map(build(True).double()), inputs_of(shape, True, n=5)
    z = layer.forward([x])
    r = torch.randn_like(z)
    passage = Passage(layer, RULES[rule](1e-6), [x], z, Batch(0), 5, nonnegative=True)
    expected = redistribute(passage, r)
    monkeypatch.setattr(fast_rules, "REUSED_BYTES", 2 * z[0].numel() * 8)  # two images at once
    sizes: list[int] = []
    for name, form in FAST.items():
        monkeypatch.setitem(FAST, name, lambda part, r, form=form: sizes.append(len(r)) or form(part, r))
    knowing = replace(passage, memo={} if memo else None)
    same(redistribute_fast(knowing, r), expected)
    if type(knowing.rule) in FAST:
        assert sizes == [2, 2, 1]
    same(redistribute_fast(knowing, r), expected)


def test_images_that_are_not_in_the_first_dimension_pass_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_rules, "REUSED_BYTES", 1)
    build, _ = LAYERS["linear, many rows"]
    layer, x = linear_map(build(True).double()), torch.randn(3, 3, 4, dtype=torch.float64)  # as many tokens as images
    z = layer.forward([x]).detach()
    passage = Passage(layer, Epsilon(), [x], z, Batch(1), 3)
    same(redistribute_fast(passage, torch.ones_like(z)), redistribute(passage, torch.ones_like(z)))


BUSY: dict[str, tuple[Batch, tuple[int, ...], tuple[object, ...], int | None]] = {
    "the last outputs": (Batch(0), (3, 4, 6), (..., slice(6, 9)), 3),
    "one token": (Batch(0), (3, 4, 6), (slice(None), slice(1, 2)), 9),
    "one token first": (Batch(1), (4, 3, 6), (slice(0, 1), ..., slice(3, 5)), 2),
    "one image": (Batch(0), (3, 4, 6), (slice(1, 2),), None),  # cannot be left out: receipts are of all
    "places": (Batch(0), (2, 4, 5, 6), (slice(None), slice(2, 4), slice(1, 2)), 9),
    "tokens and images in one": (Batch(0), (12, 6), (slice(3, 6), slice(2, 5)), 3),
    "nothing": (Batch(0), (3, 4, 6), (..., slice(0)), 1),
    "apart": (Batch(0), (3, 4, 6), (..., [1, 4]), 4),
}


@torch.no_grad()
@pytest.mark.parametrize("busy", BUSY)
@pytest.mark.parametrize("rule", ["Epsilon", "Gamma", "Gamma 0"])
def test_tokens_and_outputs_without_relevance_are_left_out(
    rule: str, busy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    batch, shape, some, n_outputs = BUSY[busy]
    layer = TokenLinear(torch.randn(9, 6, dtype=torch.float64), torch.randn(9, dtype=torch.float64))
    x = torch.randn(shape, dtype=torch.float64)
    z = layer.forward([x])
    r = torch.zeros_like(z)
    r[some] = torch.randn_like(r[some])
    n = 3 if busy == "tokens and images in one" else shape[batch.axis]
    passage = Passage(layer, RULES[rule](1e-6), [x], z, batch, n)
    products: list[int] = []
    transpose = TokenLinear.transpose
    monkeypatch.setattr(
        TokenLinear, "transpose", lambda self, y, *rest: products.append(y.shape[-1]) or transpose(self, y, *rest)
    )
    got = redistribute_fast(passage, r)
    assert set(products) == {n_outputs or 9}
    same(got, redistribute(passage, r))
    same(redistribute_fast(replace(passage, memo={}), r), redistribute(passage, r))


def test_relevance_that_is_no_number_is_never_left_out() -> None:
    layer = TokenLinear(torch.randn(9, 6), torch.randn(9))
    x, r = torch.randn(2, 4, 6), torch.zeros(2, 4, 9)
    r[1, 2, 3] = torch.nan
    (passed,), _ = redistribute_fast(Passage(layer, Gamma(), [x], layer.forward([x]), Batch(0), 2), r)
    assert passed[1, 2].isnan().all()


COMPOSITES = [EpsilonGammaBox(-2, 2), EpsilonPlus(residual="norm"), EpsilonPlusFlat(), EpsilonAlpha2Beta1()]
SOME = ("resnet, bottleneck", "densenet", "shufflenet", "efficientnet", "convnext", "mobilenet_v3")


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("family", SOME)
def test_a_network_without_short_cuts(family: str, composite: Composite, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    build, size = FAMILIES[family]
    network = randomized(build()).double()
    images = torch.rand(2, 3, size, size, dtype=torch.float64) * 4 - 2
    knowing = LRP(network, composite).attribute(images, torch.abs)

    def asking(*arguments: object) -> list[plan.Planned]:
        off = {"nonnegative": False, "rectified": False, "with_relu": False, "done_by_layer": False}
        return [replace(one, **off) for one in plan.plan(*arguments)]

    monkeypatch.setattr(lrp, "plan", asking)
    monkeypatch.setattr(fast_rules, "FAST", {})
    plain = LRP(network, composite).attribute(images, torch.abs)
    scale = plain.relevance.abs().max()
    torch.testing.assert_close(knowing.output, plain.output, rtol=1e-12, atol=1e-14)
    assert (knowing.relevance - plain.relevance).abs().max() <= 1e-10 * scale
    torch.testing.assert_close(knowing.receipt.layers, plain.receipt.layers, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("rule", [Gamma(), Flat()])
@pytest.mark.parametrize(
    ("activation", "rectifies", "computed"),
    [
        (nn.Softplus(), False, False),  # positive where its input is not
        (nn.Hardtanh(0.5, 2.0), False, False),  # so is this
        (nn.ReLU(), True, True),
        (nn.ReLU6(), True, False),  # not a ReLU that the layer could compute
    ],
)
def test_relevance_is_known_to_be_at_positive_outputs_only_where_it_is(
    rule: Rule, activation: nn.Module, rectifies: bool, computed: bool
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.MaxPool2d(2), nn.Dropout(), nn.Conv2d(4, 2, 3))
    _, planned = LRP(network, Composite([(Convolution, rule)]))._plan(torch.zeros(2, 3, 8, 8))
    first, last = [one for one in planned if one.rule is not None]
    proportional = isinstance(rule, Gamma)  # Flat hands relevance to inputs of zero, too
    assert (first.rectified, first.with_relu) == (rectifies and proportional, computed and proportional)
    assert (last.rectified, last.with_relu) == (False, False)
