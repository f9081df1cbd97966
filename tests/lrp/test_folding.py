import pytest
import torch
from networks import randomized
from torch import nn

from whycluster.lrp import LRP, EpsilonPlus, folding
from whycluster.lrp.folding import TOLERANCE, fold, folding_error
from whycluster.lrp.graph import trace
from whycluster.lrp.linear_maps import BatchNorm, Convolution, Linear

LAYERS = {
    "convolution": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "without bias": lambda: nn.Conv2d(4, 6, 3, bias=False),
    "groups": lambda: nn.Conv2d(4, 6, (2, 3), groups=2, dilation=2, padding="same"),
    "one dimension": lambda: nn.Conv1d(4, 6, 3),
    "linear": lambda: nn.Linear(4, 6),
}


def parts(build, dtype):
    """A layer and a norm as LRP knows them."""
    torch.manual_seed(0)
    layer = build().to(dtype)
    kinds = {nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d, nn.Linear: nn.BatchNorm1d}
    norm = randomized(kinds[type(layer)](6)).to(dtype).eval()
    [one], [other] = trace(nn.Sequential(layer)), trace(nn.Sequential(norm).eval())
    return one.operation, other.operation


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", LAYERS)
def test_folding_changes_nothing_but_rounding(kind, dtype):
    layer, norm = parts(LAYERS[kind], dtype)
    folded = fold(layer, norm, "norm")
    assert type(folded) in (Convolution, Linear)
    x = torch.randn(3, 4, *[5] * (layer.weight.ndim - 2)).to(dtype)
    expected = norm.forward(layer.forward(x))
    difference = (folded.forward(x) - expected).abs().max() / expected.abs().max()
    assert difference <= (TOLERANCE if dtype == torch.float32 else 1e-14)
    assert folding_error(layer, norm, folded) <= (TOLERANCE if dtype == torch.float32 else 1e-14)
    assert folded.weight.dtype == dtype


def test_what_folding_would_change_stays_apart(monkeypatch):
    monkeypatch.setattr(folding, "TOLERANCE", -1.0)  # what rounding does to weights never reaches the real one
    torch.manual_seed(0)
    network = randomized(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))).eval()
    monkeypatch.setattr(folding, "_tolerance", lambda dtype: folding.TOLERANCE)
    lrp = LRP(network, EpsilonPlus())
    assert [step.name for step in lrp.steps] == ["0", "1", "2", "3"]
    assert isinstance(lrp.steps[1].operation, BatchNorm)
    images = torch.rand(2, 3, 4, 4)
    attribution = lrp.attribute(images, lambda output: output)
    last = images.to(memory_format=torch.channels_last)  # as LRP computes
    assert torch.equal(attribution.output, network(last).detach())  # to the last bit
    assert attribution.receipt.imbalance.max() <= 1e-5


@pytest.mark.parametrize("kind", ["convolution", "linear"])
def test_folding_does_not_depend_on_the_precision_around_it(kind):
    layer, norm = parts(LAYERS[kind], torch.float32)
    expected = folding_error(layer, norm, fold(layer, norm, "norm"))
    with torch.autocast("cpu", torch.bfloat16):
        assert folding_error(layer, norm, fold(layer, norm, "norm")) == expected


def test_a_norm_after_a_linear_layer_on_places():
    network, images = randomized(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(5))).eval(), torch.rand(2, 5, 4)
    output = LRP(network, EpsilonPlus())(images, torch.ones_like)[0]
    torch.testing.assert_close(output, network(images).detach())
    square = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)).eval()
    with pytest.raises(ValueError, match=r"the batch norm '1' follows a linear layer on inputs of shape \(2, 5, 4\)"):
        LRP(square, EpsilonPlus())(torch.rand(2, 5, 4), torch.ones_like)
    apart = randomized(nn.Sequential(nn.Linear(4, 5), nn.Identity(), nn.BatchNorm1d(5))).eval()
    output = LRP(apart, EpsilonPlus())(images, torch.ones_like)[0]
    torch.testing.assert_close(output, apart(images).detach())


def test_a_folded_layer_forgets_weights_modified_before():
    layer, norm = parts(LAYERS["linear"], torch.float64)
    before = layer.positive()
    folded = fold(layer, norm, "norm")
    assert not torch.equal(folded.positive(), before)
    assert torch.equal(layer.positive(), before)


def test_folding_leaves_the_random_numbers_of_others_alone():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    LRP(network, EpsilonPlus())
    assert torch.equal(torch.rand(3), expected)
