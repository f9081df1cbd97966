"""The walk: memory, several targets, layouts and precisions, and values that are not finite."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from families import FAMILIES
from networks import randomized
from torch import Tensor, nn

from whycluster.lrp import (
    LRP,
    Attribution,
    Composite,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    Row,
    recording,
)
from whycluster.lrp.linear_maps import Convolution, LinearMap
from whycluster.lrp.rules import Rule, flat, gamma
from whycluster.lrp.shares import Signal

LOW, HIGH = -2.0, 2.0
# With residual sums, gates, parts, layer norms and lone batch norms between them.
SOME = ("resnet, bottleneck", "densenet", "shufflenet", "efficientnet", "convnext", "mobilenet_v3")


def network_of(family: str) -> nn.Module:
    torch.manual_seed(0)
    return randomized(FAMILIES[family][0]()).eval()


def images_of(n: int = 3) -> Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(1)).clamp(LOW, HIGH)


def close(one: Attribution, other: Attribution, share: float) -> None:
    """Within a share of the largest relevance."""
    scale = other.relevance.abs().max()
    assert (one.relevance.to(scale) - other.relevance).abs().max() <= share * scale


def output(values: Tensor) -> Tensor:
    return values


@pytest.mark.parametrize("family", SOME)
def test_several_targets_share_all_that_does_not_depend_on_them(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lrp = LRP(network_of(family).double(), EpsilonGammaBox(LOW, HIGH))
    images = images_of().double()
    targets = [torch.eye(3, dtype=torch.float64)[at].expand(3, 3) for at in range(3)]
    alone = [lrp.attribute(images, target) for target in targets]
    applied: list[LinearMap] = []
    apply = Convolution.apply
    monkeypatch.setattr(Convolution, "apply", lambda layer, *inputs: applied.append(layer) or apply(layer, *inputs))
    kept = lrp.record(images)
    products = []
    together = []
    for at, target in enumerate(targets):
        applied.clear()
        together.append(kept.propagate(target, keep=at < 2))
        products.append(len(applied))
    assert products[0] > 0
    assert products[1:] == [0, 0]  # denominators and activations are there already
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.relevance, other.relevance, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(one.receipt.layers, other.receipt.layers, rtol=1e-10, atol=1e-13)


BENT = {
    "softplus": (nn.Softplus(), False),  # positive where its input is not
    "hardtanh": (nn.Hardtanh(0.5, 2.0), False),  # so is this
    "relu": (nn.ReLU(), True),
    "relu6": (nn.ReLU6(), True),
}


@pytest.mark.parametrize("composite", [EpsilonGammaBox(LOW, HIGH), EpsilonPlus(residual="norm"), EpsilonPlusFlat()])
@pytest.mark.parametrize("family", SOME)
def test_knowing_where_relevance_can_be_changes_nothing(
    family: str, composite: Composite, monkeypatch: pytest.MonkeyPatch
) -> None:
    lrp, images = LRP(network_of(family).double(), composite), images_of().double()
    knowing = lrp.attribute(images, output)
    monkeypatch.setattr(
        recording, "Signal", lambda operands, z, nonnegative, confined: Signal(operands, z, nonnegative)
    )
    asking = lrp.attribute(images, output)
    torch.testing.assert_close(knowing.relevance, asking.relevance, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(knowing.receipt.layers, asking.receipt.layers, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("bent", BENT)
@pytest.mark.parametrize("rule", [gamma, flat])
def test_relevance_is_known_to_be_at_positive_outputs_only_where_it_is(
    rule: Rule, bent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    activation, rectifies = BENT[bent]
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.MaxPool2d(2), nn.Dropout(), nn.Conv2d(4, 2, 3))
    row = Row(partial(gamma, gamma=0.25) if rule is gamma else rule, 1e-6)
    known = []
    share_out = recording.redistribute
    monkeypatch.setattr(
        recording,
        "redistribute",
        lambda layer, signal, *args: known.append(signal.confined) or share_out(layer, signal, *args),
    )
    LRP(network.eval(), Composite({Convolution: row})).attribute(images_of(), output)
    assert known == [False, rectifies and rule is gamma]


@pytest.mark.parametrize("family", SOME)
def test_some_images_after_the_others_are_as_all_at_once(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lrp = LRP(network_of(family).double(), EpsilonGammaBox(LOW, torch.full((3, 1, 1), HIGH)))
    images = images_of(5).double()
    whole = lrp.attribute(images, output)
    monkeypatch.setattr(recording, "CHEAP", 2**14)
    sizes = []
    share_out = recording.redistribute
    monkeypatch.setattr(recording, "redistribute", lambda *args: sizes.append(len(args[3])) or share_out(*args))
    parts = lrp.attribute(images, output)
    assert min(sizes) < 5
    torch.testing.assert_close(parts.relevance, whole.relevance, rtol=1e-10, atol=1e-15)
    torch.testing.assert_close(parts.receipt.layers, whole.receipt.layers, rtol=1e-8, atol=1e-12)
    several = lrp.record(images)
    for _ in range(2):
        torch.testing.assert_close(several.propagate(several.output).relevance, whole.relevance, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("family", SOME)
def test_what_can_be_computed_again_is_not_kept(family: str) -> None:
    lrp = LRP(network_of(family), EpsilonGammaBox(LOW, HIGH))
    recording = lrp.record(images_of())
    kept = {at for at in recording._values if at >= 0}
    assert kept == {at for at, step in enumerate(lrp.steps) if step.kept} | {len(lrp.steps) - 1}
    assert len(kept) < len(lrp.steps) - 3
    recording.propagate(recording.output)
    assert {at for at in recording._values if at >= 0} <= kept
    recording.propagate(recording.output, keep=False)
    assert set(recording._values) == {-1}
    assert not recording._totals


@pytest.mark.parametrize("family", SOME)
def test_channels_last_is_the_same(family: str) -> None:
    network, images = network_of(family), images_of()
    lrp = LRP(network, EpsilonGammaBox(LOW, HIGH))
    expected = lrp.attribute(images, output)
    last = LRP(network.to(memory_format=torch.channels_last), EpsilonGammaBox(LOW, HIGH)).attribute(
        images.to(memory_format=torch.channels_last), output
    )
    close(last, expected, 1e-4)
    assert last.relevance.shape == images.shape
    assert last.relevance.is_contiguous()


@pytest.mark.parametrize("family", SOME)
def test_bfloat16_agrees_as_far_as_it_reaches(family: str) -> None:
    lrp = LRP(network_of(family), EpsilonPlus())
    images = images_of()
    exact = lrp.attribute(images, output)
    with torch.autocast("cpu", torch.bfloat16):
        rough = lrp.attribute(images, output)
        recording = lrp.record(images)
    assert rough.relevance.dtype == torch.float32
    correlation = torch.corrcoef(torch.stack([rough.relevance.flatten(), exact.relevance.flatten()]))[0, 1]
    assert correlation > 0.98
    assert rough.receipt.imbalance.max() <= 0.03
    later = recording.propagate(rough.output)  # outside of autocast, the walk back is as the forward pass was
    torch.testing.assert_close(later.relevance, rough.relevance)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", SOME)
def test_a_gpu_agrees(family: str) -> None:
    network, images = network_of(family).double(), images_of().double()
    expected = LRP(network, EpsilonGammaBox(LOW, HIGH)).attribute(images, output)
    there = LRP(network.cuda(), EpsilonGammaBox(LOW, HIGH)).attribute(images.cuda(), output)
    close(Attribution(there.output.cpu(), there.relevance.cpu(), there.receipt), expected, 1e-8)


# Values that are not finite.


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )


def infinite_weight(network: nn.Sequential, images: Tensor) -> Tensor:
    network[2].bias.data[1] = torch.inf
    return images


def nan_weight(network: nn.Sequential, images: Tensor) -> Tensor:
    network[6].weight.data[1, 1] = torch.nan
    return images


def nan_pixel(network: nn.Sequential, images: Tensor) -> Tensor:
    images[1, 0, 2, 2] = torch.nan
    return images


def overflowing(network: nn.Sequential, images: Tensor) -> Tensor:
    network[2].weight.data *= 1e30
    network[6].weight.data *= 1e30
    return images


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
    damage: Callable[[nn.Sequential, Tensor], Tensor], sentence: str
) -> None:
    network = small()
    images = damage(network, images_of())
    with pytest.raises(ValueError, match=sentence):
        LRP(network, EpsilonGammaBox(LOW, HIGH))(images, output)


def test_relevance_that_is_not_finite_is_named() -> None:
    with pytest.raises(ValueError, match="the relevance given for the output holds values that are not finite"):
        LRP(small(), EpsilonPlus())(images_of(), lambda output: output / 0)


def test_relevance_that_overflows_on_its_way_is_named() -> None:
    lrp = LRP(small(), EpsilonPlus(epsilon=0, stabilizer=0))
    # Nothing but rounding holds the sum of the last layer away from zero.
    images = images_of(1)
    with pytest.raises(ValueError, match=r"the relevance that '\d' passes on holds (an infinity|NaN)"):
        lrp(images, lambda output: torch.full_like(output, 3e38))


def test_relevance_that_an_infinity_swallows_is_an_error() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network[0].weight.data[:] = 1e38
    with pytest.raises(ValueError, match="the output of '0' holds an infinity"):
        LRP(network, EpsilonPlus())(images_of().abs() + 2, output)


def test_an_infinity_that_hardly_counts_is_an_error() -> None:
    network = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 1))
    network[0].weight.data[5] = 3e38
    network[4].weight.data[:] = 1
    network[4].weight.data[0, 5] = 1e-4
    with pytest.raises(ValueError, match="the output of '0' holds an infinity"):
        LRP(network, EpsilonPlus())(images_of().abs() + 2, output)


def test_images_taken_apart_into_a_larger_batch_have_a_receipt() -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3 * 32 * 8, 4)

        def forward(self, x: Tensor) -> Tensor:
            patches = x.reshape(x.shape[0], 3, 4, 8, 32).transpose(1, 2).reshape(-1, 3 * 8 * 32)
            return self.linear(patches).reshape(x.shape[0], 4, 4).mean(1)

    images = images_of()
    receipt = LRP(Patches(), EpsilonPlus()).attribute(images, output).receipt
    torch.testing.assert_close(receipt.absorbed, receipt.entered - receipt.arrived)
    assert len(receipt.layers["linear"].bias) == 4 * len(images)
    kept = sum(layer.total.sum() for layer in receipt.layers.values())
    torch.testing.assert_close(kept, receipt.absorbed.sum(), rtol=1e-4, atol=1e-5)
    assert receipt.is_plausible()


def test_weights_that_changed_unnoticed_show_in_the_receipt() -> None:
    network = small()
    lrp = LRP(network, EpsilonGammaBox(LOW, HIGH))
    lrp(images_of(), output)
    network[2].weight.data.mul_(-1)
    with pytest.raises(ValueError, match=r"changed through \.data"):
        lrp(images_of(), output)


def test_a_recording_serves_until_it_is_used_up() -> None:
    recording = LRP(small(), EpsilonPlus()).record(images_of())
    first = recording.propagate(recording.output)
    recording.output.zero_()  # its owner may do with it what they like
    again = recording.propagate(first.output + 1, keep=False)
    assert torch.isfinite(again.relevance).all()
    with pytest.raises(ValueError, match="this recording was used up"):
        recording.propagate(recording.output)


def test_the_relevance_given_is_not_written_into() -> None:
    network = nn.Sequential(nn.Flatten(), nn.ReLU())
    images, given = images_of(), torch.ones(3, 3 * 32 * 32)
    _, relevance = LRP(network, EpsilonPlus())(images, given)
    relevance.zero_()
    assert given.min() == 1


# Constants that take relevance.


class Shifted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 1, bias=False).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(nn.functional.pad(x + 1, (0, 0, 0, 2), value=3.0))


def test_what_constants_take_is_in_the_receipt() -> None:
    images = images_of(2).double()
    _, _, receipt = LRP(Shifted(), EpsilonGammaBox(LOW, HIGH, residual="norm")).attribute(images, output)
    assert receipt.layers["pad"].bias.abs().min() > 0
    assert receipt.layers["add"].bias.abs().min() > 0
    torch.testing.assert_close(receipt.entered, receipt.arrived + receipt.absorbed)


def test_relevance_that_cancels_is_no_imbalance() -> None:
    """As one cluster minus another at equal distances: the sums are zero, and their rounding is not an error."""
    entering = torch.tensor([1.0, -1.0])[:, None, None].expand(8, 2, 6, 6)
    lrp = LRP(nn.Sequential(nn.Conv2d(3, 2, 3, bias=False)), EpsilonGammaBox(LOW, HIGH))
    receipt = lrp.attribute(torch.rand(8, 3, 8, 8), entering).receipt
    assert receipt.entered.eq(0).all()
    assert receipt.arrived.abs().max() < 1e-4
    assert receipt.imbalance.max() <= 1e-5
