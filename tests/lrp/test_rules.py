"""Each rule against its formula, written with the layer's dense matrix."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from whycluster.lrp.graph import trace
from whycluster.lrp.linear_maps import Add
from whycluster.lrp.rules import alpha_beta, box, epsilon, flat, gamma, norm, ratio, w_square, z_plus
from whycluster.lrp.shares import Signal, redistribute

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


RULES = {
    "epsilon": (epsilon, by_epsilon),
    "z_plus": (z_plus, by_z_plus),
    "alpha_beta": (partial(alpha_beta, alpha=3, beta=2), by_alpha_beta),
    "alpha_beta 1 0": (partial(alpha_beta, alpha=1, beta=0), by_z_plus),
    "gamma": (partial(gamma, gamma=0.4), by_gamma),
    "flat": (flat, by_flat),
    "w_square": (w_square, by_w_square),
    "box": (partial(box, low=LOW, high=HIGH), by_box),
    "box of tensors": (partial(box, low=torch.tensor(LOW), high=torch.tensor([HIGH])), by_box),
}

LAYERS: dict[str, tuple[Callable[[bool], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda bias: nn.Linear(7, 5, bias), (7,)),
    "linear, many rows": (lambda bias: nn.Linear(4, 5, bias), (3, 4)),
    "convolution": (lambda bias: nn.Conv2d(2, 3, 3, padding=1, bias=bias), (2, 4, 5)),
    "stride that leaves a rim": (lambda bias: nn.Conv2d(2, 3, 3, stride=2, bias=bias), (2, 6, 5)),
    "stride and padding": (lambda bias: nn.Conv2d(2, 3, (3, 2), (2, 1), (2, 0), bias=bias), (2, 5, 4)),
    "groups": (lambda bias: nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=bias), (4, 3, 4)),
    "depthwise": (lambda bias: nn.Conv2d(3, 6, 2, groups=3, bias=bias), (3, 3, 4)),
    "dilation": (lambda bias: nn.Conv2d(2, 3, 2, padding=1, dilation=(1, 2), bias=bias), (2, 4, 5)),
    "same, even kernel": (lambda bias: nn.Conv2d(2, 3, (2, 4), padding="same", bias=bias), (2, 4, 5)),
    "same, dilated": (lambda bias: nn.Conv2d(2, 3, (3, 2), padding="same", dilation=(1, 3), bias=bias), (2, 4, 5)),
    "one dimension": (lambda bias: nn.Conv1d(2, 3, 4, padding="same", bias=bias), (2, 7)),
    "three dimensions": (lambda bias: nn.Conv3d(1, 2, (2, 1, 3), padding="same", bias=bias), (1, 3, 2, 3)),
}


def dense(module: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """`(outputs, inputs)`: what the module without its bias makes of each unit input."""
    module = copy.deepcopy(module)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    units = torch.eye(torch.Size(shape).numel(), dtype=torch.float64)
    return module(units.view(-1, *shape)).flatten(1).T


@torch.no_grad()
def compare(
    module: nn.Module,
    shape: tuple[int, ...],
    rule: str,
    nonnegative: bool,
    stabilizer: float,
    confined: bool = False,
) -> None:
    x = torch.randn(3, *shape, dtype=torch.float64)
    x[x.abs() < 0.2] = 0
    x = x.abs() if nonnegative else x
    x[2] = 0  # nothing but bias
    z = module(x)
    r = torch.randn_like(z)
    r[0, 0] = 0
    if confined:
        r[z <= 0] = 0
    ones = copy.deepcopy(module)
    nn.init.ones_(ones.weight)
    w, ones = dense(module, shape), dense(ones, shape)
    b = module(torch.zeros(1, *shape, dtype=torch.float64)).flatten()

    [step] = trace(nn.Sequential(module))
    ours, expected = RULES[rule]
    signal = Signal((x,), z, nonnegative, confined)
    [relevance], absorbed, _ = redistribute(step.operation, signal, ours(step.operation, signal), r.clone(), stabilizer)

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


@pytest.mark.parametrize("stabilizer", [0.0, 0.05])
@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_knowing_that_relevance_is_at_positive_outputs_changes_nothing(
    rule: str, nonnegative: bool, stabilizer: float
) -> None:
    torch.manual_seed(len(rule))
    build, shape = LAYERS["convolution"]
    compare(build(True).double(), shape, rule, nonnegative, stabilizer, confined=True)


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
    [step] = trace(nn.Sequential(pool))
    signal = Signal((x,), z, False)
    [relevance], absorbed, _ = redistribute(step.operation, signal, norm(step.operation, signal), r, stabilizer)
    for n in range(len(x)):
        expected = share(w * x[n].flatten(), torch.zeros(len(w)), r[n].flatten(), stabilizer)
        torch.testing.assert_close(relevance[n].flatten(), expected[0])
        torch.testing.assert_close(absorbed.stabilizer[n], expected[2])


@pytest.mark.parametrize("stabilizer", [0.0, 0.05])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rule", [norm, ratio])
def test_sums_share_out_by_contributions(rule: Callable[..., object], sign: int, stabilizer: float) -> None:
    torch.manual_seed(0)
    x, y, r = torch.randn(3, 2, 5, 4, dtype=torch.float64)
    x[0, 1], y[0, 1] = 1.5, -1.5 * sign  # branches that cancel
    x[1, 2] = y[1, 2] = 0
    layer = Add((1, sign))
    signal = Signal(layer.operands((x, y), x + sign * y), x + sign * y, False)
    [to_x, to_y], absorbed, _ = redistribute(layer, signal, rule(layer, signal), r, stabilizer)
    parts = torch.stack([x, sign * y])
    parts = parts.abs() if rule is ratio else parts
    total = parts.sum(0)
    moved = torch.where(total < 0, -stabilizer, stabilizer)
    quotient = torch.where(total == 0, r / stabilizer if stabilizer else 0, r / (total + moved))
    torch.testing.assert_close(torch.stack([to_x, to_y]), parts * quotient)
    torch.testing.assert_close(absorbed.zero, torch.where(total == 0, r, 0).sum((1, 2)))
    torch.testing.assert_close(absorbed.stabilizer, torch.where(total == 0, 0, moved * quotient).sum((1, 2)))
    torch.testing.assert_close((to_x + to_y).sum((1, 2)) + absorbed.total, r.sum((1, 2)))
    if rule is ratio:
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
    [step] = trace(nn.Sequential(module))
    z = step.operation.forward(x)
    torch.testing.assert_close(z, module(x).detach())
    r = torch.randn_like(z)
    signal = Signal((x,), z, False)
    [relevance], absorbed, _ = redistribute(step.operation, signal, epsilon(step.operation, signal), r, 0.05)
    n = torch.Size(shape).numel()
    rows = list(zip(x.reshape(-1, n), r.reshape(-1, n), strict=True))
    weight, bias = (module.weight.flatten(), module.bias.flatten()) if affine else (torch.ones(n), torch.zeros(n))
    expected = []
    for one, of_one in rows:
        centring = torch.eye(n, dtype=torch.float64) - 1 / n
        w = weight[:, None] * centring / (one.var(correction=0) + 1e-3).sqrt()
        expected.append(by_epsilon(w.double(), torch.ones_like(w), bias.double(), one, of_one, 0.05))
    torch.testing.assert_close(relevance.reshape(-1, n), torch.stack([one[0] for one in expected]))
    torch.testing.assert_close(absorbed.bias.sum(), sum(one[1] for one in expected))
    torch.testing.assert_close(absorbed.stabilizer.sum(), sum(one[2] for one in expected))


def test_weighted_rules_refuse_layers_without_weights() -> None:
    [step] = trace(nn.Sequential(nn.AvgPool2d(2)))
    x = torch.rand(1, 1, 2, 2)
    with pytest.raises(ValueError, match="AveragePool has no weights"):
        list(z_plus(step.operation, Signal((x,), x[..., :1, :1], True)))


def test_a_total_that_follows_from_another_wants_that_one() -> None:
    [step] = trace(nn.Sequential(nn.Linear(2, 2)))
    x = torch.rand(1, 2)
    z = step.operation.forward(x)
    first, second = gamma(step.operation, Signal((x,), z, True), gamma=0.25), Signal((x,), z, True)
    wrong = [share._replace(only_its_sign=False) for share in first]
    with pytest.raises(ValueError, match="has to follow one with `only_its_sign`"):
        redistribute(step.operation, second, wrong, torch.ones_like(z), 1e-6)
