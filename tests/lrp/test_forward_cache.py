"""One forward pass, and relevance on its way back as often as wanted."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import FAMILIES, TRANSFORMERS
from networks import randomized
from torch import Tensor, nn

from whycluster.lrp import LRP, Attribution, Convolution, EpsilonGammaBox, EpsilonPlus, Linear, LinearMap, TokenLinear

Mixed = Callable[[int], nn.Module]


def same(one: Attribution, other: Attribution) -> None:
    torch.testing.assert_close(one.output, other.output, rtol=0, atol=0)
    assert torch.equal(one.relevance, other.relevance)
    torch.testing.assert_close(one.receipt.layers, other.receipt.layers, rtol=0, atol=0)


@pytest.mark.parametrize("family", ["densenet", "efficientnet", "convnext", "vit"])
def test_several_targets_share_all_that_does_not_depend_on_them(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, size = {**FAMILIES, **TRANSFORMERS}[family]
    lrp = LRP(randomized(build()).double(), EpsilonGammaBox(-2, 2, tokens=0.05))
    images = torch.rand(3, 3, size, size, dtype=torch.float64) * 4 - 2
    targets = [torch.eye(3, dtype=torch.float64)[at].expand(3, 3) for at in range(3)]
    alone = [lrp.attribute(images, target) for target in targets]
    applied: list[LinearMap] = []
    for kind in (Convolution, Linear):
        monkeypatch.setattr(
            kind, "apply", lambda layer, *given, apply=kind.apply: applied.append(layer) or apply(layer, *given)
        )
    cache = lrp.forward(images)
    first = next(layer for layer in applied if isinstance(layer, Convolution))
    products, together = [], []
    for at, target in enumerate(targets):
        applied.clear()
        together.append(cache.propagate(target, retain_graph=at < 2))
        # What the box rule makes of the images is computed for each target.
        products.append([type(layer) for layer in applied if layer is not first])
    assert Convolution in products[0] or TokenLinear in products[0]
    assert products[1:] == [[], []]  # denominators and activations are there already
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.relevance, other.relevance, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(one.receipt.layers, other.receipt.layers, rtol=1e-8, atol=1e-11)


def test_targets_do_not_depend_on_each_other(mixed: Mixed, images: Tensor) -> None:
    lrp = LRP(mixed(0), EpsilonGammaBox(-2, 2))
    cache = lrp.forward(images)
    targets = cache.output[:, :, None] * torch.eye(4, dtype=torch.float64)  # (N, outputs, target)
    for target in targets.unbind(2):
        torch.testing.assert_close(
            cache.propagate(target).relevance, lrp.attribute(images, target).relevance, rtol=1e-12, atol=1e-14
        )
    again = [cache.propagate(targets[..., 2], retain_graph=retain) for retain in (True, False)]
    torch.testing.assert_close(again[0].relevance, again[1].relevance, rtol=1e-12, atol=1e-14)


def test_a_cache_serves_until_it_is_used_up(mixed: Mixed, images: Tensor) -> None:
    cache = LRP(mixed(0), EpsilonPlus()).forward(images)
    cache.propagate(cache.output)
    cache.propagate(cache.output, retain_graph=False)
    with pytest.raises(ValueError, match=r"were freed by propagate\(…, retain_graph=False\); run forward again"):
        cache.propagate(cache.output)


def test_relevance_of_a_wrong_shape_uses_nothing_up(mixed: Mixed, images: Tensor) -> None:
    cache = LRP(mixed(0), EpsilonPlus()).forward(images)
    with pytest.raises(ValueError, match=r"relevance of shape \(3, 5\) does not fit the output"):
        cache.propagate(torch.ones(3, 5), retain_graph=False)
    assert cache.propagate(cache.output, retain_graph=False).relevance.isfinite().all()


def test_values_are_freed_once_relevance_has_passed(written: type[nn.Module]) -> None:
    """As many bytes as the layers' values have are alive before, and none of them afterwards."""
    network = written(lambda net, x: net.layers(x), layers=nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))))
    cache = LRP(network, EpsilonPlus()).forward(torch.rand(2, 4, dtype=torch.float64))
    [end] = cache._outputs
    node = end.grad_fn
    assert node is not None
    assert len(node.saved_tensors) == 2
    cache.propagate(cache.output, retain_graph=False)
    with pytest.raises(RuntimeError, match="already been freed"):
        _ = node.saved_tensors
    assert not cache._outputs


def test_relevance_made_in_inference_mode(mixed: Mixed, images: Tensor) -> None:
    cache = LRP(mixed(0), EpsilonPlus()).forward(images)
    with torch.inference_mode():
        relevance = cache.output * 2
    same(cache.propagate(relevance), cache.propagate(cache.output * 2))


def test_what_the_caller_writes_into_is_no_ones_else(mixed: Mixed, images: Tensor) -> None:
    lrp = LRP(mixed(0), EpsilonGammaBox(-2, 2))
    given = images.clone()
    cache = lrp.forward(given)
    target = torch.ones_like(cache.output)
    expected = lrp.attribute(images, target)
    given.zero_()
    first = cache.propagate(target)
    first.output.zero_()
    first.relevance.zero_()
    assert target.eq(1).all()
    cache.output.zero_()
    second = cache.propagate(target)
    torch.testing.assert_close(second.relevance, expected.relevance, rtol=1e-12, atol=1e-14)


def test_the_relevance_given_is_not_what_comes_back() -> None:
    images, given = torch.rand(3, 3, 4, 4), torch.ones(3, 48)
    _, relevance = LRP(nn.Sequential(nn.Flatten(), nn.ReLU()), EpsilonPlus())(images, given)
    relevance.zero_()
    assert given.min() == 1


def several(net: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    h = net.conv(x).relu()
    return net.again(h), h, h.mean((2, 3))


@pytest.fixture
def outputs(written: type[nn.Module]) -> tuple[LRP, nn.Module, Tensor]:
    network = written(several, conv=nn.Conv2d(3, 4, 3), again=nn.Conv2d(4, 2, 1))
    return LRP(network, EpsilonPlus()), network, torch.rand(2, 3, 5, 5, dtype=torch.float64)


def test_a_tuple_of_outputs(outputs: tuple[LRP, nn.Module, Tensor]) -> None:
    lrp, network, images = outputs
    attribution = lrp.attribute(images, lambda some: [one * (at + 1) for at, one in enumerate(some)])
    torch.testing.assert_close(attribution.output, tuple(one.detach() for one in network(images)))
    cache = lrp.forward(images)
    assert isinstance(cache.output, tuple)
    parts = []
    for at in range(3):
        given = [torch.zeros_like(one) for one in cache.output]
        given[at] = (at + 1) * cache.output[at]
        parts.append(cache.propagate(given))
    for values in ("relevance", "receipt.entered", "receipt.arrived", "receipt.absorbed"):
        *way, name = values.split(".")
        sums = [getattr(part.receipt if way else part, name) for part in parts]
        whole = getattr(attribution.receipt if way else attribution, name)
        torch.testing.assert_close(whole, torch.stack(sums).sum(0))


@pytest.mark.parametrize(
    ("relevance", "sentence"),
    [
        (torch.ones(2, 2, 3, 3), r"a tensor for each output, of shapes \[\(2, 2, 3, 3\), \(2, 4, 3, 3\), \(2, 4\)\]"),
        ([torch.ones(2, 2, 3, 3)] * 3, r"relevance of shape \[.*\] does not fit the output"),
        ([torch.ones(2, 2, 3, 3), torch.ones(2, 4, 3, 3), None], "should be a tensor for each output"),
    ],
)
def test_relevance_that_does_not_fit_a_tuple(
    relevance: Any, sentence: str, outputs: tuple[LRP, nn.Module, Tensor]
) -> None:
    lrp, _, images = outputs
    with pytest.raises(ValueError, match=sentence):
        lrp(images, relevance)
