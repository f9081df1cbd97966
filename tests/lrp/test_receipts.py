"""Where relevance went: balance, constants, and values that are not finite."""

from collections.abc import Callable

import pytest
import torch
from families import FAMILIES, TRANSFORMERS
from networks import randomized
from torch import Tensor, nn
from torch.nn import functional as F

from whycluster.lrp import LRP, Composite, EpsilonGammaBox, EpsilonPlus, Linear, Norm, Receipt, named_composite
from whycluster.lrp.receipts import Absorbed, Ledger, per_image
from whycluster.lrp.rules import AlphaBeta

LOW, HIGH = -2.0, 2.0
NAMES = ("epsilon_gamma_box", "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1")


def images_of(n: int = 3, size: int = 32) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1)).clamp(LOW, HIGH)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", ["densenet", "efficientnet", "vit"])
def test_every_composite_balances(family: str, name: str, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    build, size = {**FAMILIES, **TRANSFORMERS}[family]
    network, images = randomized(build()).to(dtype), images_of(3, size).to(dtype)
    weights = torch.randn(3, 3, dtype=dtype)
    lrp = LRP(network, named_composite(name, LOW, HIGH))
    output, relevance, receipt = lrp.attribute(images, lambda output: output * weights)
    torch.testing.assert_close(receipt.entered, (output * weights).sum(1))
    torch.testing.assert_close(receipt.arrived, relevance.sum((1, 2, 3)))
    kept = sum(layer.bias + layer.stabilizer + layer.zero for layer in receipt.layers.values())
    amounts = [receipt.entered, receipt.arrived, *(part for layer in receipt.layers.values() for part in layer)]
    scale = torch.stack([*amounts, relevance.abs().sum((1, 2, 3))]).abs().amax(0)
    assert ((receipt.entered - receipt.arrived - kept).abs() <= tolerance * scale).all()
    assert receipt.is_plausible()


def test_the_receipt_of_each_layer() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    network.load_state_dict(
        {
            "0.weight": torch.tensor([[1.0, 1.0], [0.0, 0.0]]),
            "0.bias": torch.tensor([1.0, 0.0]),
            "2.weight": torch.tensor([[2.0, 5.0], [0.0, 0.0]]),
            "2.bias": torch.tensor([-1.0, 0.0]),
        }
    )
    # x = (1, 2), hidden (4, 0), output (7, 0); 7 of relevance enter at each output.
    attribution = LRP(network, EpsilonPlus(epsilon=1.0)).attribute(
        torch.tensor([[1.0, 2.0]], dtype=torch.float64), torch.full((1, 2), 7.0, dtype=torch.float64)
    )
    out, hidden = attribution.receipt.layers["2"], attribution.receipt.layers["0"]
    expected = [-7 / 8, 7 / 8, 7.0], [7 / 5, 7 / 5, 0.0]  # 7 = 8·7/8 (hidden) - 7/8 (bias) + 7/8 (epsilon); ...
    torch.testing.assert_close(torch.cat(out).tolist(), expected[0])
    torch.testing.assert_close(torch.cat(hidden).tolist(), expected[1])
    torch.testing.assert_close(attribution.relevance.tolist(), [[7 / 5, 14 / 5]])


def test_a_layer_called_twice_has_one_receipt_for_both(written: type[nn.Module]) -> None:
    def twice(net: nn.Module, x: Tensor) -> Tensor:
        return net.conv(net.conv(x).relu())

    network = written(twice, conv=nn.Conv2d(3, 3, 3, padding=1))
    images = images_of(2, 4).double()
    receipt = LRP(network, EpsilonPlus(stabilizer=0.0)).attribute(images, torch.abs).receipt
    assert list(receipt.layers) == ["conv"]
    torch.testing.assert_close(receipt.entered, receipt.arrived + receipt.layers["conv"].total)


# Constants that take relevance.


def test_what_constants_take_is_in_the_receipt(written: type[nn.Module]) -> None:
    def shifted(net: nn.Module, x: Tensor) -> Tensor:
        return F.pad(x + 1, (0, 0, 0, 2), value=3.0)

    images = images_of(2, 4).double()
    composite = Composite([(kind, Norm(0.0)) for kind, _ in EpsilonPlus().rows])
    output, relevance, receipt = LRP(written(shifted), composite).attribute(images, lambda output: output * 2)
    torch.testing.assert_close(relevance, images * 2)  # of (x + 1)·2
    torch.testing.assert_close(receipt.layers["add"].bias, torch.full((2,), 2.0 * 3 * 4 * 4, dtype=torch.float64))
    torch.testing.assert_close(receipt.layers["pad"].bias, torch.full((2,), 2.0 * 3.0 * 3 * 2 * 4, dtype=torch.float64))
    assert output.shape == (2, 3, 6, 4)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (lambda net, x: torch.cat([x, net.mean.expand(x.shape)], 1), lambda x, r: r[:, 3:]),
        (lambda net, x: x.masked_fill(net.mean > 0, 7.0), lambda x, r: r[:, ::2]),
        (lambda net, x: torch.where(net.mean > 0, x, net.mean), lambda x, r: r[:, 1]),
        (lambda net, x: torch.maximum(x, net.mean), lambda x, r: r * (x < torch.tensor([0.5, -1, 2])[:, None, None])),
    ],
    ids=["cat", "masked_fill", "where", "maximum"],
)
def test_constants_keep_the_relevance_of_their_places(
    change: Callable[..., Tensor], kept: Callable[[Tensor, Tensor], Tensor], written: type[nn.Module]
) -> None:
    images = images_of(2, 4).double() * 0.9
    network = written(change)
    relevance = torch.randn_like(network(images))
    attribution = LRP(network, EpsilonPlus()).attribute(images, relevance)
    [absorbed] = attribution.receipt.layers.values()
    torch.testing.assert_close(absorbed.bias, kept(images, relevance).flatten(1).sum(1))
    torch.testing.assert_close(attribution.receipt.entered, attribution.receipt.arrived + absorbed.bias)


def test_relevance_that_cancels_is_no_imbalance() -> None:
    """As one cluster minus another at equal distances: the sums are zero, and their rounding is not an error."""
    entering = torch.tensor([1.0, -1.0])[:, None, None].expand(8, 2, 6, 6)
    lrp = LRP(nn.Sequential(nn.Conv2d(3, 2, 3, bias=False)), EpsilonGammaBox(LOW, HIGH))
    receipt = lrp.attribute(torch.rand(8, 3, 8, 8), entering).receipt
    assert receipt.entered.eq(0).all()
    assert receipt.arrived.abs().max() < 1e-4
    assert receipt.imbalance.max() <= 1e-5


def test_relevance_that_cancels_on_the_way_is_no_imbalance() -> None:
    """What is missing is measured by the largest relevance of a layer without places, summed without signs."""
    enormous = Receipt(*torch.zeros(2, 1), {}, (torch.tensor([1e6]),))
    missing = Receipt(torch.ones(1), torch.zeros(1), {}, (torch.ones(1),))
    torch.testing.assert_close(missing.imbalance.item(), 1.0)
    assert not missing.is_plausible()
    assert Receipt(torch.ones(1), torch.zeros(1), {}, enormous.unsigned).is_plausible()


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-6), (torch.float32, 1e-3), (torch.bfloat16, 0.1)])
def test_how_much_may_be_missing(dtype: torch.dtype, allowed: float) -> None:
    one = torch.ones(1, dtype=dtype)
    for factor in (0.5, 2.0):
        receipt = Receipt(one, one - factor * allowed, {}, (one,))
        assert receipt.is_plausible() == (factor < 1)
        assert receipt.is_plausible(short=True) == (factor * allowed < 0.1)
    for broken in (torch.nan, torch.inf):
        assert not Receipt(one, one * broken, {}, (one,)).is_plausible()


def test_what_layers_absorb_is_added_up() -> None:
    ledger, one = Ledger(2), Absorbed(*torch.arange(6.0).reshape(3, 2))
    ledger.add("a", one)
    ledger.add("b", one)
    ledger.add("a", one)
    torch.testing.assert_close(ledger.layers["a"].total, 2 * ledger.layers["b"].total)
    torch.testing.assert_close(one.total, torch.tensor([6.0, 9.0]))
    assert Absorbed.nothing(torch.ones(4, 3), 2).total.tolist() == [0, 0]
    torch.testing.assert_close(per_image(torch.ones(2, 3, 4)), torch.tensor([12.0, 12.0]))
    torch.testing.assert_close(per_image(torch.ones(2)), torch.ones(2))


# Values that are not finite.


def small() -> nn.Sequential:
    torch.manual_seed(0)
    body = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*body, nn.Linear(4, 2))


def output(values: Tensor) -> Tensor:
    return values


def infinite_weight(network: nn.Sequential, images: Tensor) -> None:
    network[2].bias.data[1] = torch.inf


def nan_weight(network: nn.Sequential, images: Tensor) -> None:
    network[6].weight.data[1, 1] = torch.nan


def nan_pixel(network: nn.Sequential, images: Tensor) -> None:
    images[1, 0, 2, 2] = torch.nan


def overflowing(network: nn.Sequential, images: Tensor) -> None:
    network[2].weight.data *= 1e30
    network[6].weight.data *= 1e30


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (infinite_weight, "the output of '2' holds an infinity; look at the weights there"),
        (nan_weight, "the output of '6' holds NaN"),
        (nan_pixel, "the batch of images holds values that are not finite"),
        (overflowing, "the output of '6' holds (an infinity|NaN)"),
    ],
)
def test_what_is_not_finite_is_an_error_that_names_the_node(
    damage: Callable[[nn.Sequential, Tensor], None], sentence: str
) -> None:
    network, images = small(), images_of()
    damage(network, images)
    with pytest.raises(ValueError, match=sentence):
        LRP(network, EpsilonGammaBox(LOW, HIGH))(images, output)


def test_relevance_that_is_not_finite_is_named() -> None:
    with pytest.raises(ValueError, match="the relevance given for the output holds values that are not finite"):
        LRP(small(), EpsilonPlus())(images_of(), lambda output: output / 0)


def test_relevance_that_overflows_on_its_way_is_named() -> None:
    # Nothing but rounding holds the sum of the last layer away from zero.
    lrp = LRP(small(), EpsilonPlus(epsilon=0, stabilizer=0))
    with pytest.raises(ValueError, match=r"the relevance that arrives at '\w+' holds (an infinity|NaN)"):
        lrp(images_of(1), lambda output: torch.full_like(output, 3e38))


@pytest.mark.parametrize("last", [1.0, 1e-4])
def test_an_infinity_that_hardly_counts_is_an_error(last: float) -> None:
    network = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 1))
    network[0].weight.data[5] = 3e38
    network[4].weight.data[:] = 1
    network[4].weight.data[0, 5] = last
    with pytest.raises(ValueError, match="the output of '0' holds an infinity"):
        LRP(network, EpsilonPlus())(images_of().abs() + 2, output)


def test_weights_that_changed_unnoticed_show() -> None:
    network = small()
    lrp = LRP(network, EpsilonGammaBox(LOW, HIGH))
    lrp(images_of(), output)
    network[2].weight.data.mul_(-1)
    with pytest.raises(ValueError, match=r"changed through \.data"):
        lrp(images_of(), output)


def test_a_rule_that_loses_relevance_shows() -> None:
    lossy = AlphaBeta(2, 1)
    lossy.contributions = lossy.contributions[:1]
    lrp = LRP(nn.Linear(4, 3), Composite([(Linear, lossy)]))
    with pytest.raises(ValueError, match="a rule of your own takes more or less than all of the relevance"):
        lrp(torch.randn(2, 4), output)
