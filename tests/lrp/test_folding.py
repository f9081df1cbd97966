"""Batch norms folded into the layers before them, and those that stay layers."""

from collections.abc import Callable

import pytest
import torch
from lrp.linear import linear_map
from networks import randomized
from torch import Tensor, nn
from torch.nn import functional as F

from whycluster.lrp import LRP, Composite, Epsilon, EpsilonPlus, LinearMap
from whycluster.lrp.folding import folded
from whycluster.lrp.operations import scale_and_shift

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolution": (lambda: nn.Conv2d(4, 6, 3, padding=1), (4, 5, 5)),
    "without bias": (lambda: nn.Conv2d(4, 6, 3, bias=False), (4, 5, 5)),
    "groups": (lambda: nn.Conv2d(4, 6, (2, 3), groups=2, dilation=2), (4, 6, 5)),
    "one dimension": (lambda: nn.Conv1d(4, 6, 3), (4, 5)),
    "three dimensions": (lambda: nn.Conv3d(4, 6, 2), (4, 3, 2, 3)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, 2), (4, 3, 2)),
    "transposed groups": (lambda: nn.ConvTranspose2d(4, 6, 3, (2, 1), groups=2, bias=False), (4, 3, 2)),
    "linear": (lambda: nn.Linear(7, 6), (7,)),
}
NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def norm_of(ndim: int, far_apart: bool) -> nn.Module:
    """With statistics; `far_apart`: channels whose deviations are between 1e-4 and 1e3."""
    norm = randomized(NORMS[ndim](6)).eval()
    if far_apart:
        norm.running_var.copy_(10.0 ** torch.tensor([-8.0, -4.0, 0.0, 2.0, 4.0, 6.0]))
        norm.running_mean.mul_(norm.running_var.sqrt())
    return norm


@torch.no_grad()
@pytest.mark.parametrize("far_apart", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_folded_layer_computes_what_both_do(kind: str, dtype: torch.dtype, tolerance: float, far_apart: bool) -> None:
    build, shape = LAYERS[kind]
    layer, norm = build().to(dtype), norm_of(len(shape) + 1, far_apart).to(dtype)
    numbers = norm.weight, norm.bias, norm.running_mean, norm.running_var
    one = folded(linear_map(layer), *scale_and_shift(numbers, norm.eps))
    x = torch.randn(3, *shape).to(dtype)
    expected = norm.double()(layer.double()(x.double()))
    got = one.forward([x])
    assert got.dtype == dtype
    error = (got - expected).transpose(0, 1).flatten(1).abs().amax(1)
    size = expected.transpose(0, 1).flatten(1).abs().amax(1)  # of each channel
    assert (error <= tolerance * 10 * size).all()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", LAYERS)
def test_relevance_passes_layer_and_norm_as_one(kind: str, affine: bool, written: type[nn.Module]) -> None:
    build, shape = LAYERS[kind]
    norm = NORMS[len(shape) + 1](6, affine=affine)
    network = written(lambda net, x: net.norm(net.layer(x)), layer=build(), norm=norm)
    x = torch.randn(2, *shape, dtype=torch.float64)
    attribution = LRP(network, EpsilonPlus(epsilon=0.0, stabilizer=0.0)).attribute(x, torch.abs)
    assert list(attribution.receipt.layers) == ["layer"]
    torch.testing.assert_close(attribution.output, network(x).detach(), rtol=1e-12, atol=1e-13)
    for n in range(2):
        w = torch.autograd.functional.jacobian(lambda one: network(one[None])[0], x[n]).reshape(-1, x[n].numel())
        z = attribution.output[n].flatten()
        parts, rest = w * x[n].flatten(), z - w @ x[n].flatten()
        if kind != "linear":  # the z⁺-rule
            parts, rest = parts.clamp(min=0), rest.clamp(min=0)
        total = parts.sum(1) + rest
        expected = torch.where(total == 0, 0, z.abs() / total) @ parts
        torch.testing.assert_close(attribution.relevance[n].flatten(), expected, rtol=1e-8, atol=1e-10)


def after_relu(net: nn.Module, x: Tensor) -> Tensor:
    return net.norm(net.conv(x).relu())


def read_twice(net: nn.Module, x: Tensor) -> Tensor:
    h = net.conv(x)
    return net.norm(h) + h


def returned(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    h = net.conv(x)
    return net.norm(h), h


def without_statistics(net: nn.Module, x: Tensor) -> Tensor:
    return F.instance_norm(net.conv(x), weight=net.norm.weight, bias=net.norm.bias)


@pytest.mark.parametrize(
    ("compute", "apart"),
    [
        (lambda net, x: net.norm(net.conv(x)), None),
        (lambda net, x: net.norm(net.norm(net.conv(x))), None),
        (lambda net, x: net.norm(x), "norm"),
        (after_relu, "norm"),
        (read_twice, "norm"),
        (returned, "norm"),
        (without_statistics, "layer_norm"),
    ],
)
def test_what_cannot_be_folded_stays_a_layer(
    compute: Callable[..., Tensor], apart: str | None, written: type[nn.Module]
) -> None:
    network = written(compute, conv=nn.Conv2d(3, 3, 3), norm=nn.BatchNorm2d(3))
    images = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    attribution = LRP(network, Composite([(LinearMap, Epsilon())])).attribute(
        images, lambda output: [one * 2 for one in output] if isinstance(output, tuple) else output
    )
    torch.testing.assert_close(attribution.output, network(images), rtol=1e-12, atol=1e-12)
    assert attribution.receipt.imbalance.max() <= 1e-12
    layers = set(attribution.receipt.layers)
    assert apart in layers if apart else layers == {"conv"}


def test_a_norm_after_a_linear_layer_on_tokens_stays_apart() -> None:
    """Its channels are the tokens, even where there are as many features."""
    for features in (6, 5):
        network = randomized(nn.Sequential(nn.Linear(4, features), nn.BatchNorm1d(5))).double().eval()
        images = torch.rand(2, 5, 4, dtype=torch.float64)
        attribution = LRP(network, EpsilonPlus()).attribute(images, torch.abs)
        torch.testing.assert_close(attribution.output, network(images).detach(), rtol=1e-12, atol=1e-12)
        assert set(attribution.receipt.layers) == {"0", "1"}


def test_a_folded_layer_forgets_weights_modified_before() -> None:
    layer = linear_map(nn.Linear(7, 3))
    before = layer.modified(torch.abs)
    other = folded(layer, torch.tensor([1.0, -2.0, 3.0]).double(), torch.zeros(3).double())
    torch.testing.assert_close(other.modified(torch.abs), before * torch.tensor([1.0, 2.0, 3.0])[:, None])
    assert layer.modified(torch.abs) is before
