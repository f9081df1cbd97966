import pytest
import torch
from networks import randomized
from torch import nn

from whycluster.lrp import LRP, EpsilonPlus
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
    folded = fold(layer, norm)
    assert type(folded) in (Convolution, Linear)
    x = torch.randn(3, 4, *[5] * (layer.weight.ndim - 2)).to(dtype)
    expected = norm.forward(layer.forward(x))
    difference = (folded.forward(x) - expected).abs().max() / expected.abs().max()
    assert difference <= (TOLERANCE if dtype == torch.float32 else 1e-14)
    assert folding_error(layer, norm, folded) <= (TOLERANCE if dtype == torch.float32 else 1e-14)
    assert folded.weight.dtype == dtype


def test_what_folding_would_change_stays_apart():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=0.0), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    # A channel that hardly varies, far from zero: what the norm subtracts is nearly all there is.
    nn.init.constant_(network[0].bias, 1e3)
    nn.init.constant_(network[1].running_mean, 1e3)
    nn.init.constant_(network[1].running_var, 1e-2)
    lrp = LRP(network, EpsilonPlus())
    assert [step.name for step in lrp.steps] == ["0", "1", "2", "3"]
    assert isinstance(lrp.steps[1].operation, BatchNorm)
    images = torch.rand(2, 3, 4, 4)
    output = lrp(images, lambda output: output)[0]
    torch.testing.assert_close(output, network(images).detach(), rtol=1e-2, atol=1e-2)


def test_a_folded_layer_forgets_weights_modified_before():
    layer, norm = parts(LAYERS["linear"], torch.float64)
    before = layer.positive()
    folded = fold(layer, norm)
    assert not torch.equal(folded.positive(), before)
    assert torch.equal(layer.positive(), before)


def test_folding_leaves_the_random_numbers_of_others_alone():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    LRP(network, EpsilonPlus())
    assert torch.equal(torch.rand(3), expected)
