"""Each rule against its formula, written with the layer's dense matrix."""

import copy
from collections.abc import Callable

import pytest
import torch
from lrp.linear import LAYERS, dense, inputs_of, linear_map
from torch import Tensor, nn

from whycluster.lrp import (
    LRP,
    Add,
    AlphaBeta,
    AveragePool,
    Composite,
    Contribution,
    Convolution,
    Epsilon,
    Flat,
    Gamma,
    LayerNorm,
    Linear,
    Norm,
    Product,
    Ratio,
    Rule,
    WSquare,
    ZBox,
    ZPlus,
)
from whycluster.lrp.graph import Batch
from whycluster.lrp.linear_maps import unmodified
from whycluster.lrp.redistribution import Passage, redistribute

LOW, HIGH = -2.5, 3.0

Result = tuple[Tensor, Tensor, Tensor, Tensor]  # relevance (I,), and what bias, stabiliser and zero sums kept


def share(numerators: Tensor, biases: Tensor, relevance: Tensor, stabilizer: float) -> Result:
    """`numerators` is `(J, I)`: what input i contributes to output j."""
    total = numerators.sum(1) + biases
    sign = torch.where(total < 0, -1.0, 1.0).double()
    quotient = torch.where(total == 0, 0 if stabilizer == 0 else 1 / stabilizer, 1 / (total + sign * stabilizer))
    quotient = quotient * relevance
    return (
        quotient @ numerators,
        (quotient * biases).sum(),
        (quotient * sign * stabilizer)[total != 0].sum(),
        relevance[total == 0].sum(),
    )


def add(first: Result, second: Result) -> Result:
    return tuple(a + b for a, b in zip(first, second, strict=True))


def by_epsilon(w: Tensor, ones: Tensor, b: Tensor, x: Tensor, r: Tensor, s: float) -> Result:
    return share(w * x, b, r, s)


def by_z_plus(w: Tensor, ones: Tensor, b: Tensor, x: Tensor, r: Tensor, s: float) -> Result:
    return share((w * x).clamp(min=0), b.clamp(min=0), r, s)


def by_alpha_beta(w: Tensor, ones: Tensor, b: Tensor, x: Tensor, r: Tensor, s: float) -> Result:
    excite = share((w * x).clamp(min=0), b.clamp(min=0), 3 * r, s)
    return add(excite, share((w * x).clamp(max=0), b.clamp(max=0), -2 * r, s))


def by_gamma(w: Tensor, ones: Tensor, b: Tensor, x: Tensor, r: Tensor, s: float) -> Result:
    z, c = w @ x + b, w * x
    risen = share(c + 0.4 * c.clamp(min=0), b + 0.4 * b.clamp(min=0), r * (z > 0), s)
    sunk = share(c + 0.4 * c.clamp(max=0), b + 0.4 * b.clamp(max=0), r * (z < 0), s)
    relevance, bias, stabilizer, lost = add(risen, sunk)
    return relevance, bias, stabilizer, lost + r[z == 0].sum()


def by_flat(w: Tensor, ones: Tensor, b: Tensor, x: Tensor, r: Tensor, s: float) -> Result:
    return share(ones, torch.zeros_like(b), r, s)


def by_w_square(w: Tensor, ones: Tensor, b: Tensor, x: Tensor, r: Tensor, s: float) -> Result:
    return share(w**2, b**2, r, s)


def by_box(w: Tensor, ones: Tensor, b: Tensor, x: Tensor, r: Tensor, s: float) -> Result:
    return share(w * x - LOW * w.clamp(min=0) - HIGH * w.clamp(max=0), torch.zeros_like(b), r, s)


RULES: dict[str, tuple[Callable[[float], Rule], Callable[..., Result]]] = {
    "Epsilon": (Epsilon, by_epsilon),
    "Norm": (Norm, by_epsilon),
    "ZPlus": (ZPlus, by_z_plus),
    "AlphaBeta": (lambda s: AlphaBeta(3, 2, s), by_alpha_beta),
    "Gamma": (lambda s: Gamma(0.4, s), by_gamma),
    "Flat": (Flat, by_flat),
    "WSquare": (WSquare, by_w_square),
    "ZBox": (lambda s: ZBox(LOW, HIGH, s), by_box),
    "ZBox of tensors": (lambda s: ZBox(torch.tensor(LOW), torch.tensor([HIGH]), s), by_box),
}


@torch.no_grad()
def compare(module: nn.Module, shape: tuple[int, ...], rule: str, nonnegative: bool, stabilizer: float) -> None:
    x = inputs_of(shape, nonnegative)
    z = module(x)
    r = torch.randn_like(z)
    ones = copy.deepcopy(module)
    nn.init.ones_(ones.weight)
    w, ones = dense(module, shape), dense(ones, shape)
    b = module(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
    ours, expected = RULES[rule]
    [relevance], absorbed = redistribute(Passage(linear_map(module), ours(stabilizer), [x], z, Batch(0), 3), r)
    for n in range(len(x)):
        one = expected(w, ones, b, x[n].flatten(), r[n].flatten(), stabilizer)
        got = relevance[n].flatten(), absorbed.bias[n], absorbed.stabilizer[n], absorbed.zero[n]
        torch.testing.assert_close(got, one, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(relevance.flatten(1).sum(1) + absorbed.total, r.flatten(1).sum(1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_its_formula(rule: str, layer: str, bias: bool, nonnegative: bool) -> None:
    torch.manual_seed(len(rule) + len(layer))
    build, shape = LAYERS[layer]
    compare(build(bias).double(), shape, rule, nonnegative, stabilizer=0.05)  # large, so that its place matters


@pytest.mark.parametrize("stabilizer", [0.0, 1e-6])
@pytest.mark.parametrize("rule", RULES)
def test_an_output_that_nothing_reaches_keeps_its_relevance(rule: str, stabilizer: float) -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(2, 3, 2).double()
    nn.init.zeros_(module.weight[1].data)
    nn.init.zeros_(module.bias.data[1:])
    compare(module, (2, 3, 3), rule, False, stabilizer)


@pytest.mark.parametrize("stabilizer", [0.0, 0.05])
@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (nn.AvgPool2d(2), (2, 5, 4)),
        (nn.AvgPool2d(3, 2, padding=1), (2, 5, 4)),
        (nn.AvgPool2d(2, divisor_override=1), (2, 4, 4)),
        (nn.AdaptiveAvgPool2d(3), (2, 2, 5)),  # also to more places than there were
    ],
)
def test_average_pooling_goes_by_contributions(pool: nn.Module, shape: tuple[int, ...], stabilizer: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, *shape, dtype=torch.float64)
    z = pool(x)
    r = torch.randn_like(z)
    w = pool(torch.eye(x[0].numel(), dtype=torch.float64).view(-1, *shape)).flatten(1).T
    passage = Passage(AveragePool(pool), Norm(stabilizer), [x], z, Batch(0), 2)
    [relevance], absorbed = redistribute(passage, r)
    for n in range(len(x)):
        expected = share(w * x[n].flatten(), torch.zeros(len(w)), r[n].flatten(), stabilizer)
        torch.testing.assert_close(relevance[n].flatten(), expected[0])
        torch.testing.assert_close(absorbed.stabilizer[n], expected[2])


@pytest.mark.parametrize("stabilizer", [0.0, 0.05])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rule", [Norm, Ratio])
def test_sums_share_out_by_contributions(rule: Callable[[float], Rule], sign: int, stabilizer: float) -> None:
    torch.manual_seed(0)
    x, y, r = torch.randn(3, 2, 5, 4, dtype=torch.float64)
    x[0, 1], y[0, 1] = 1.5, -1.5 * sign  # branches that cancel
    x[1, 2] = y[1, 2] = 0
    layer = Add((1, sign))
    xs = layer.signed([x, y])
    passage = Passage(layer, rule(stabilizer), xs, layer.forward(xs), Batch(0), 2)
    torch.testing.assert_close(passage.z, x + sign * y)
    [to_x, to_y], absorbed = redistribute(passage, r)
    parts = torch.stack([x, sign * y])
    parts = parts.abs() if rule is Ratio else parts
    total = parts.sum(0)
    moved = torch.where(total < 0, -stabilizer, stabilizer)
    quotient = torch.where(total == 0, 0, r / (total + moved))
    torch.testing.assert_close(torch.stack([to_x, to_y]), parts * quotient)
    torch.testing.assert_close(absorbed.zero, torch.where(total == 0, r, 0).sum((1, 2)))
    torch.testing.assert_close(absorbed.stabilizer, torch.where(total == 0, 0, moved * quotient).sum((1, 2)))
    torch.testing.assert_close((to_x + to_y).sum((1, 2)) + absorbed.total, r.sum((1, 2)))
    if rule is Ratio:
        assert ((to_x / r).nan_to_num() >= 0).all()
        assert (to_x.abs() + to_y.abs() <= r.abs() + 1e-12).all()  # so it cannot blow up


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_a_layer_norm_is_centred_and_its_deviation_a_constant(shape: tuple[int, ...], affine: bool) -> None:
    torch.manual_seed(0)
    module = nn.LayerNorm(shape, eps=1e-3, elementwise_affine=affine).double()
    if affine:
        nn.init.normal_(module.weight)
        nn.init.normal_(module.bias)
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    weight, bias = (module.weight.detach(), module.bias.detach()) if affine else (None, None)
    layer = LayerNorm(weight, bias, shape, 1e-3)
    z = layer.forward([x])
    torch.testing.assert_close(z, module(x).detach())
    r = torch.randn_like(z)
    [relevance], absorbed = redistribute(Passage(layer, Epsilon(0.05), [x], z, Batch(0), 2), r)
    n = torch.Size(shape).numel()
    scale, shift = (weight.flatten(), bias.flatten()) if affine else (torch.ones(n), torch.zeros(n))
    expected = []
    for one, of_one in zip(x.reshape(-1, n), r.reshape(-1, n), strict=True):
        centring = torch.eye(n, dtype=torch.float64) - 1 / n
        w = (scale[:, None] * centring / (one.var(correction=0) + 1e-3).sqrt()).double()
        expected.append(by_epsilon(w, torch.ones_like(w), shift.double(), one, of_one, 0.05))
    torch.testing.assert_close(relevance.reshape(-1, n), torch.stack([one[0] for one in expected]))
    torch.testing.assert_close(absorbed.bias.sum(), sum(one[1] for one in expected))
    torch.testing.assert_close(absorbed.stabilizer.sum(), sum(one[2] for one in expected))


@pytest.mark.parametrize("rule", [ZPlus(), Gamma(), Flat(), WSquare(), ZBox(0, 1)])
def test_rules_of_modified_weights_refuse_layers_without_weights(rule: Rule) -> None:
    x = torch.rand(1, 1, 2, 2)
    pool = nn.AvgPool2d(2)
    with pytest.raises(ValueError, match="AveragePool has no weights to modify"):
        redistribute(Passage(AveragePool(pool), rule, [x], pool(x), Batch(0), 1), torch.ones(1, 1, 1, 1))


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Epsilon(-1.0), "stabilizer=-1.0 should be a finite number >= 0"),
        (lambda: Ratio(float("inf")), "stabilizer=inf should be a finite number >= 0"),
        (lambda: Norm(float("nan")), "stabilizer=nan should be"),
        (lambda: Flat(-1e-9), "stabilizer=-1e-09 should be"),
        (lambda: Gamma(-0.1), "gamma=-0.1 should be a finite number >= 0"),
        (lambda: Gamma(float("inf")), "gamma=inf should be a finite number >= 0"),
        (lambda: Gamma(0.1, -1.0), "stabilizer=-1.0 should be"),
        (lambda: AlphaBeta(2, 2), "alpha=2 minus beta=2 should be 1, or relevance is created or lost"),
        (lambda: AlphaBeta(0.5, -0.5), "beta=-0.5 should be a finite number >= 0"),
        (lambda: ZBox(1.0, 0.0), "low=1.0 should not be above high=0.0"),
        (lambda: ZBox(torch.zeros(3), 1.0), r"low of shape \(3,\) should be a number, .*\(channels, 1, 1\)"),
    ],
)
def test_numbers_that_make_no_rule(build: Callable[[], Rule], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()


def test_rules_say_what_they_are() -> None:
    rules = [Epsilon(0.5), Gamma(0.25), AlphaBeta(2, 1), ZPlus(), Flat(0.1)]
    assert repr(rules) == (
        "[Epsilon(stabilizer=0.5), Gamma(gamma=0.25, stabilizer=1e-06), AlphaBeta(alpha=2, beta=1, stabilizer=1e-06), "
        "ZPlus(stabilizer=1e-06), Flat(stabilizer=0.1)]"
    )


class Absolute(Rule):
    """In proportion to `|x|·|w|`, but for a factor that should be 1."""

    def __init__(self, factor: float = 1.0) -> None:
        contribution = Contribution([Product(torch.abs, torch.abs)], bias=torch.abs, factor=factor)
        super().__init__([contribution], 0.0)


@torch.no_grad()
def test_a_rule_of_ones_own() -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(2, 3, 2).double()
    x = torch.randn(2, 2, 3, 3, dtype=torch.float64)
    attribution = LRP(network, Composite([(Convolution, Absolute())])).attribute(x, lambda output: output)
    w, b = dense(network, (2, 3, 3)), network(torch.zeros_like(x[:1])).flatten()
    for n in range(2):
        r = attribution.output[n].flatten()
        expected, kept, _, _ = share((w * x[n].flatten()).abs(), b.abs(), r, 0.0)
        torch.testing.assert_close(attribution.relevance[n].flatten(), expected)
        torch.testing.assert_close(attribution.receipt.layers["convolution"].bias[n], kept)


def test_outputs_of_one_sign_keep_what_no_input_takes() -> None:
    """Of the outputs 2, -2 and 0, the first has no contribution of the kind that counts, and the last has no sign."""
    contributions = [
        Contribution([Product(lambda x: x.clamp(min=0), unmodified)], outputs="positive"),
        Contribution([Product(lambda x: x.clamp(max=0), unmodified)], outputs="negative"),
    ]
    layer = nn.Linear(2, 3, bias=False)
    layer.weight.data = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    lrp = LRP(layer, Composite([(Linear, Rule(contributions, 0.0))]))
    attribution = lrp.attribute(torch.tensor([[-2.0, 1.0]]), torch.tensor([[3.0, 5.0, 7.0]]))
    torch.testing.assert_close(attribution.relevance, torch.tensor([[5.0, 0.0]]))
    [absorbed] = attribution.receipt.layers.values()
    assert [float(amount) for amount in absorbed] == [0, 0, 3 + 7]


@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_a_rule_that_loses_or_creates_relevance_is_an_error(factor: float) -> None:
    lrp = LRP(nn.Conv2d(3, 2, 3), Composite([(Convolution, Absolute(factor))]))
    with pytest.raises(ValueError, match="or a rule of your own takes more or less than all of the relevance"):
        lrp(torch.rand(1, 3, 5, 5), torch.ones_like)
