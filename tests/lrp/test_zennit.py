"""zennit as the oracle: the same networks, the same composites, in float64, and once in float32 on photos."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import zennit.composites
from networks import network_of, without_norms
from torch import Tensor, nn
from torchvision.datasets import ImageFolder
from torchvision.models import squeezenet1_0
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize
from zennit.canonizers import Canonizer
from zennit.torchvision import ResNetCanonizer

from whycluster import lrp

LOW = torch.tensor([-2.0, -2.5, -3.0], dtype=torch.float64).view(1, 3, 1, 1)
HIGH = torch.tensor([2.5, 2.0, 3.0], dtype=torch.float64).view(1, 3, 1, 1)

# zennit has one rule for residual sums, `norm`.
COMPOSITES: dict[str, tuple[Callable[..., lrp.Composite], Callable[..., zennit.composites.Composite]]] = {
    "epsilon_gamma_box": (
        lambda low, high: lrp.EpsilonGammaBox(low, high, residual="norm"),
        lambda low, high, **more: zennit.composites.EpsilonGammaBox(low, high, **more),
    ),
    "epsilon_plus": (
        lambda low, high: lrp.EpsilonPlus(residual="norm"),
        lambda low, high, **more: zennit.composites.EpsilonPlus(**more),
    ),
    "epsilon_plus_flat": (
        lambda low, high: lrp.EpsilonPlusFlat(residual="norm"),
        lambda low, high, **more: zennit.composites.EpsilonPlusFlat(**more),
    ),
    "epsilon_alpha2_beta1": (
        lambda low, high: lrp.EpsilonAlpha2Beta1(residual="norm"),
        lambda low, high, **more: zennit.composites.EpsilonAlpha2Beta1(**more),
    ),
}

SIZES = {
    "vgg11": 32,
    "vgg11_bn": 32,
    "vgg16": 32,
    "vgg16_bn": 32,
    "alexnet": 64,
    "squeezenet1_0": 40,
    "resnet18": 40,
    "resnet50": 32,
}


def narrow(network: nn.Module) -> None:
    """Fully connected layers of 32 units, not 4096: in float64 the weights would take a gigabyte."""
    layers = [module for module in network.classifier if isinstance(module, nn.Linear)]
    for layer, (inputs, outputs) in zip(layers, [(layers[0].in_features, 32), (32, 32), (32, 10)], strict=True):
        layer.weight = nn.Parameter(torch.randn(outputs, inputs) * (2 / inputs) ** 0.5)
        layer.bias = nn.Parameter(torch.randn(outputs) * 0.1)


@pytest.fixture(scope="module", params=SIZES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module, Tensor, list[Canonizer]]:
    network = network_of(request.param)
    if request.param.startswith(("vgg", "alexnet")):
        narrow(network)
    network = network.double()
    size = SIZES[request.param]
    images = LOW + (HIGH - LOW) * torch.rand(1, 3, size, size, dtype=torch.float64)
    canonizers = [ResNetCanonizer()] if request.param.startswith("resnet") else []
    return network, without_norms(network), images, canonizers


@pytest.mark.parametrize("name", COMPOSITES)
def test_relevance_is_that_of_zennit(case: tuple[nn.Module, nn.Module, Tensor, list[Canonizer]], name: str) -> None:
    network, plain, images, canonizers = case
    ours, theirs = COMPOSITES[name]
    weight = torch.randn(1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    output, relevance = lrp.LRP(network, ours(LOW, HIGH))(images, lambda output: output * weight)

    leaf = images.clone().requires_grad_()
    with theirs(LOW, HIGH, canonizers=canonizers).context(plain) as hooked:
        expected_output = hooked(leaf)
        (expected,) = torch.autograd.grad(expected_output, leaf, expected_output.detach() * weight)

    torch.testing.assert_close(output, expected_output.detach(), rtol=1e-10, atol=1e-12)
    assert (relevance - expected).abs().max() <= 1e-8 * expected.abs().max()


ASSETS = os.environ.get("WHYCLUSTER_ASSETS")


@pytest.mark.skipif(not ASSETS, reason="WHYCLUSTER_ASSETS names no folder with trained weights and photos")
@pytest.mark.parametrize("name", ["epsilon_gamma_box", "epsilon_plus_flat"])
def test_heatmaps_of_photos_are_those_of_zennit(name: str) -> None:
    place = Path(str(ASSETS))
    network = squeezenet1_0()
    network.load_state_dict(torch.load(place / "squeezenet1_0.pt", weights_only=True))
    features = network.eval().features
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    folder = ImageFolder(str(place / "photos"))
    photos = [folder[at][0] for at in range(0, len(folder), 48)]
    images = torch.stack([(pil_to_tensor(center_crop(resize(photo, 256), 224)) / 255 - mean) / std for photo in photos])
    low, high = (-mean / std)[None], ((1 - mean) / std)[None]
    ours, theirs = COMPOSITES[name]

    _, relevance = lrp.LRP(features, ours(low, high))(images, lambda output: output)

    # In the layout that LRP computes in: rounding decides which of two equal values a pooling takes.
    leaf = images.to(memory_format=torch.channels_last).requires_grad_()
    with theirs(low, high).context(features) as hooked:
        output = hooked(leaf)
        (expected,) = torch.autograd.grad(output, leaf, output.detach())
    heatmaps, theirs_summed = relevance.sum(1), expected.sum(1)
    worst = (heatmaps - theirs_summed).abs().amax((1, 2)) / theirs_summed.abs().amax((1, 2))
    assert worst.max() <= 1e-4
