"""zennit as the oracle: the same networks, the same composites, in float64."""

import copy
from itertools import pairwise

import pytest
import torch
import zennit.composites
from torch import Tensor, nn
from torchvision.models import get_model

from whycluster import lrp

LOW = torch.tensor([-2.0, -2.5, -3.0], dtype=torch.float64).view(1, 3, 1, 1)
HIGH = torch.tensor([2.5, 2.0, 3.0], dtype=torch.float64).view(1, 3, 1, 1)

COMPOSITES = {
    "epsilon_gamma_box": (lrp.EpsilonGammaBox(LOW, HIGH), lambda: zennit.composites.EpsilonGammaBox(LOW, HIGH)),
    "epsilon_plus": (lrp.EpsilonPlus(), zennit.composites.EpsilonPlus),
    "epsilon_plus_flat": (lrp.EpsilonPlusFlat(), zennit.composites.EpsilonPlusFlat),
    "epsilon_alpha2_beta1": (lrp.EpsilonAlpha2Beta1(), zennit.composites.EpsilonAlpha2Beta1),
}

SIZES = {"vgg11": 64, "vgg11_bn": 64, "alexnet": 96, "squeezenet1_0": 64}


def narrow(network: nn.Module) -> None:
    """Fully connected layers of 32 units, not 4096: in float64 the weights would take a gigabyte."""
    layers = [module for module in network.classifier if isinstance(module, nn.Linear)]
    for layer, (inputs, outputs) in zip(layers, [(layers[0].in_features, 32), (32, 32), (32, 10)], strict=True):
        layer.weight = nn.Parameter(torch.randn(outputs, inputs) * (2 / inputs) ** 0.5)
        layer.bias = nn.Parameter(torch.empty(outputs))


def folded(network: nn.Module) -> nn.Module:
    """A copy without batch norms; zennit's own merging fails with torch of today."""
    network = copy.deepcopy(network)
    layers = list(network.features)
    for conv, norm in pairwise(layers):
        if isinstance(norm, nn.BatchNorm2d):
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            conv.weight = nn.Parameter(conv.weight * scale.view(-1, 1, 1, 1))
            conv.bias = nn.Parameter((conv.bias - norm.running_mean) * scale + norm.bias)
    network.features = nn.Sequential(*(layer for layer in layers if not isinstance(layer, nn.BatchNorm2d)))
    return network


@pytest.fixture(scope="module", params=SIZES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(0)
    network = get_model(request.param, weights=None)
    if not request.param.startswith("squeezenet"):
        narrow(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
        if getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias, 0, 0.1)
    network = network.double().eval()
    size = SIZES[request.param]
    return network, folded(network), LOW + (HIGH - LOW) * torch.rand(2, 3, size, size, dtype=torch.float64)


@pytest.mark.parametrize("name", COMPOSITES)
def test_relevance_is_that_of_zennit(case: tuple[nn.Module, nn.Module, Tensor], name: str) -> None:
    network, plain, images = case
    ours, theirs = COMPOSITES[name]
    weight = torch.randn(2, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    output, relevance = lrp.LRP(network, ours)(images, lambda output: output * weight)

    leaf = images.clone().requires_grad_()
    with theirs().context(plain) as hooked:
        expected_output = hooked(leaf)
        (expected,) = torch.autograd.grad(expected_output, leaf, expected_output.detach() * weight)

    torch.testing.assert_close(output, expected_output.detach(), rtol=1e-10, atol=1e-12)
    assert (relevance - expected).abs().max() <= 1e-8 * expected.abs().max()
