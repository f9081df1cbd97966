import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from whycluster.lrp import (
    LRP,
    Attribution,
    Composite,
    EpsilonAlpha2Beta1,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    Receipt,
    graph,
)
from whycluster.lrp import lrp as engine

Mixed = Callable[[int], nn.Module]
LeftAlone = Callable[[nn.Module], Callable[[], None]]

COMPOSITES = [EpsilonGammaBox(-2, 2), EpsilonPlus(), EpsilonPlusFlat(), EpsilonAlpha2Beta1(), EpsilonPlus(0.1, 0.1)]


def first_output(output: Tensor) -> Tensor:
    return output * torch.eye(output.shape[1], dtype=output.dtype)[0]


def balanced(receipt: Receipt) -> None:
    parts = [receipt.entered, receipt.arrived, *(value for layer in receipt.layers.values() for value in layer)]
    scale = torch.stack(parts).abs().amax(0)
    assert ((receipt.entered - receipt.arrived - receipt.absorbed).abs() <= 1e-10 * scale).all()


def same(one: Attribution, other: Attribution) -> None:
    assert torch.equal(one.output, other.output)
    assert torch.equal(one.relevance, other.relevance)
    torch.testing.assert_close(one.receipt.layers, other.receipt.layers, rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("composite", COMPOSITES)
def test_receipts_balance(composite: Composite, seed: int, mixed: Mixed, images: Tensor) -> None:
    network = mixed(seed).train()  # explained as evaluated all the same
    weight = torch.randn(len(images), 4, dtype=torch.float64)
    attribution = LRP(network, composite).attribute(images, lambda output: output * weight)
    output, relevance, receipt = attribution
    torch.testing.assert_close(output, network.eval()(images).detach(), rtol=1e-12, atol=1e-12)
    assert list(receipt.layers) == [
        *("out", "hidden", "pool", "avg_pool2d", "mix"),
        *(["right", "left"] if "right" in list(receipt.layers)[5:6] else ["left", "right"]),
        "stem.0",
    ]
    torch.testing.assert_close(receipt.entered, (output * weight).sum(1))
    torch.testing.assert_close(receipt.arrived, relevance.sum((1, 2, 3)))
    torch.testing.assert_close(receipt.absorbed, sum(layer.total for layer in receipt.layers.values()))
    balanced(receipt)


def test_an_image_is_explained_alone_as_in_a_batch(mixed: Mixed, images: Tensor) -> None:
    lrp = LRP(mixed(0), EpsilonGammaBox(-2, 2))
    together = lrp(images, first_output)[1]
    alone = torch.cat([lrp(image[None], first_output)[1] for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-14)


def test_relevance_of_output_may_be_a_tensor(mixed: Mixed, images: Tensor) -> None:
    lrp = LRP(mixed(0), EpsilonPlus())
    output, relevance = lrp(images, first_output)
    same(lrp.attribute(images, first_output(output)), lrp.attribute(images, first_output))
    assert torch.equal(lrp(images, first_output(output))[1], relevance)


def test_no_images(mixed: Mixed, images: Tensor) -> None:
    output, relevance = LRP(mixed(0), EpsilonGammaBox(-2, 2))(images[:0], first_output)
    assert (output.shape, relevance.shape) == ((0, 4), (0, 3, 9, 8))


# The network is left alone.


def explain_in_three_ways(lrp: LRP, images: Tensor) -> None:
    lrp(images, first_output)
    lrp.forward(images).propagate(torch.ones(len(images), 4, dtype=images.dtype))
    with torch.inference_mode():
        lrp(images, first_output)


def test_the_network_is_left_exactly_as_it_was(mixed: Mixed, images: Tensor, left_alone: LeftAlone) -> None:
    network = mixed(0)
    called = []
    for module in network.modules():
        module.register_forward_hook(lambda *_: called.append(1))
        module.register_full_backward_hook(lambda *_: called.append(1))
    check, before = left_alone(network), images.clone()
    for composite in COMPOSITES:
        explain_in_three_ways(LRP(network, composite), images)
    check()
    assert not called  # not even a hook that was there runs
    assert torch.equal(images, before)


class OopsError(Exception):
    pass


def oops(output: Tensor) -> Tensor:
    raise OopsError("on purpose")


@pytest.mark.parametrize(
    ("images", "relevance", "error", "sentence"),
    [
        (torch.rand(2, 3, 9, 8).double(), oops, OopsError, "on purpose"),
        (torch.rand(2, 4, 9, 8).double(), first_output, ValueError, "channels"),
        (torch.rand(2, 3, 9, 8), first_output, ValueError, "dtype|type"),
        (torch.rand(2, 3, 9, 8).double(), torch.ones(2, 5).double(), ValueError, r"\(2, 5\) does not fit the output"),
        (torch.rand(2, 3, 9, 8).double(), lambda o: o.sum(1), ValueError, r"\(2,\) does not fit the output"),
    ],
    ids=["relevance raises", "channels", "dtype", "relevance of another shape", "function of another shape"],
)
def test_the_network_is_left_alone_after_an_exception(
    images: Tensor, relevance: object, error: type, sentence: str, mixed: Mixed, left_alone: LeftAlone
) -> None:
    network = mixed(0)
    check = left_alone(network)
    lrp = LRP(network, EpsilonGammaBox(-2, 2))
    with pytest.raises(error, match=sentence):
        lrp(images, relevance)
    check()
    good = torch.rand(2, 3, 9, 8, dtype=torch.float64)
    same(lrp.attribute(good, first_output), LRP(network, EpsilonGammaBox(-2, 2)).attribute(good, first_output))


# Modes, and weights that change.


def test_gradients_are_neither_needed_nor_left(mixed: Mixed, images: Tensor) -> None:
    lrp = LRP(mixed(0), EpsilonGammaBox(-2, 2))
    expected = lrp.attribute(images, first_output)
    leaf = images.clone().requires_grad_()
    attribution = lrp.attribute(leaf, first_output)
    same(attribution, expected)
    assert not attribution.output.requires_grad
    assert not attribution.relevance.requires_grad
    assert leaf.grad is None


def test_inference_mode(mixed: Mixed, images: Tensor) -> None:
    expected = LRP(mixed(0), EpsilonGammaBox(-2, 2)).attribute(images, first_output)
    for mode in (torch.no_grad(), torch.enable_grad()):
        with mode:
            same(LRP(mixed(0), EpsilonGammaBox(-2, 2)).attribute(images, first_output), expected)
    with torch.inference_mode():
        made_inside = LRP(mixed(0), EpsilonGammaBox(-2, 2))
        inside = images.clone()
        same(made_inside.attribute(inside, first_output), expected)
        cache = made_inside.forward(inside)
        same(cache.propagate(first_output(cache.output)), expected)
    same(made_inside.attribute(inside, first_output), expected)


def replace_weights(network: nn.Module, other: nn.Module) -> None:
    network.load_state_dict(other.state_dict())


def replace_weights_without_copying(network: nn.Module, other: nn.Module) -> None:
    network.load_state_dict(other.state_dict(), assign=True)


@torch.no_grad()
def write_weights(network: nn.Module, other: nn.Module) -> None:
    for old, new in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        old.copy_(new)


@pytest.mark.parametrize("change", [replace_weights, replace_weights_without_copying, write_weights])
def test_changed_weights_count(change: Callable[..., None], mixed: Mixed, images: Tensor) -> None:
    network, other = mixed(0), mixed(1)
    lrp = LRP(network, EpsilonGammaBox(-2, 2))
    lrp(images, first_output)  # modified weights are kept from here on
    change(network, other)
    same(lrp.attribute(images, first_output), LRP(other, EpsilonGammaBox(-2, 2)).attribute(images, first_output))


@pytest.mark.parametrize("name", ["norm.running_mean", "mix.bias", "out.weight"])
def test_one_changed_number_counts(name: str, mixed: Mixed, images: Tensor) -> None:
    network = mixed(0)
    lrp = LRP(network, EpsilonPlus())
    lrp(images, first_output)
    network.state_dict()[name].view(-1)[0] += 1
    same(lrp.attribute(images, first_output), LRP(network, EpsilonPlus()).attribute(images, first_output))


class Remembering(nn.Module):
    """Keeps what it saw last, counts, and has settings in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.last: Tensor | None = None
        self.seen: list[Tensor] = []
        self.register_buffer("calls", torch.zeros(()))
        self.settings = {"scale": 2.0}

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = self.conv(x) * self.settings["scale"]
        self.seen.append(self.last)
        return self.last


def test_settings_in_a_dictionary_count() -> None:
    network, images = Remembering(), torch.rand(2, 3, 5, 5)
    lrp = LRP(network, EpsilonPlus())
    network.settings["scale"] = 5.0
    torch.testing.assert_close(lrp(images, torch.ones_like)[0], network(images).detach())


def test_another_precision(mixed: Mixed, images: Tensor) -> None:
    network = mixed(0)
    exact = LRP(copy.deepcopy(network), EpsilonGammaBox(-2, 2)).attribute(images, first_output)
    lrp = LRP(network, EpsilonGammaBox(-2, 2))
    network.float()
    rough = lrp.attribute(images.float(), first_output)
    assert rough.relevance.dtype == torch.float32
    torch.testing.assert_close(rough.relevance.double(), exact.relevance, rtol=1e-2, atol=1e-4)
    network.double()
    assert lrp.attribute(images, first_output).relevance.dtype == torch.float64


# The graph, which is exported once.


def exports(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Grows by the shape of the images whenever a network is exported."""
    found: list[tuple[int, ...]] = []
    export = graph.export_graph
    monkeypatch.setattr(
        engine, "export_graph", lambda network, images: found.append(images.shape) or export(network, images)
    )
    return found


def test_a_graph_serves_batches_of_any_size_and_other_weights(
    mixed: Mixed, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, other = mixed(0), mixed(1)
    expected = LRP(other, EpsilonPlus()).attribute(images, first_output)
    exported = exports(monkeypatch)
    lrp = LRP(network, EpsilonPlus())
    lrp.prepare(images[:1])
    assert len(exported) == 1
    for n in (0, 1, 2, 3):
        output, relevance = lrp(images[:n], first_output)
        assert (len(output), len(relevance)) == (n, n)
    same(lrp.of(other).attribute(images, first_output), expected)
    mine = lrp.attribute(images, first_output)
    assert not torch.equal(mine.relevance, expected.relevance)
    same(lrp.of(nn.DataParallel(network)).attribute(images, first_output), mine)
    assert len(exported) == 1
    lrp(torch.rand(2, 3, 12, 12, dtype=torch.float64), first_output)
    assert exported[1:] == [(2, 3, 12, 12)]
    lrp(images, first_output)
    assert len(exported) == 2  # both are kept


def test_replaced_modules_and_changed_settings_count(monkeypatch: pytest.MonkeyPatch) -> None:
    exported = exports(monkeypatch)
    network = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU()).eval()
    lrp, images = LRP(network, EpsilonPlus()), torch.rand(2, 3, 9, 9)
    lrp(images, torch.ones_like)
    network.train()
    lrp(images, torch.ones_like)  # explained as evaluated in either mode
    assert len(exported) == 1
    network.eval()
    changes: list[Callable[[], object]] = [
        lambda: setattr(network[1], "eps", 0.5),
        lambda: setattr(network[0], "stride", (2, 2)),
        lambda: network.__setitem__(2, nn.Softplus()),
        lambda: network.append(nn.Conv2d(3, 2, 1)),
        lambda: setattr(network[0], "weight", nn.Parameter(torch.randn(3, 3, 2, 2))),
    ]
    for at, change in enumerate(changes, start=2):
        change()
        attribution = lrp.attribute(images, torch.ones_like)
        assert len(exported) == at
        torch.testing.assert_close(attribution.output, network(images).detach())


def test_a_network_that_remembers_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    exports(monkeypatch)  # not those of others
    network, images = Remembering(), torch.rand(2, 3, 5, 5)
    lrp = LRP(network, EpsilonPlus())
    with pytest.warns(UserWarning, match="assigned during export"):
        output = lrp(images, torch.ones_like)[0]
    assert (network.last, network.seen, float(network.calls)) == (None, [], 0)
    torch.testing.assert_close(output, network(images).detach())
    lrp(images, torch.ones_like)
    assert len(network.seen) == 1


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda net: torch.compile(nn.DataParallel(net))])
def test_wrapped_networks_are_those_within(
    wrap: Callable[[nn.Module], nn.Module], mixed: Mixed, images: Tensor
) -> None:
    network = mixed(0)
    expected = LRP(network, EpsilonPlus()).attribute(images, first_output)
    same(LRP(wrap(network), EpsilonPlus()).attribute(images, first_output), expected)


def test_a_single_layer_is_a_network() -> None:
    images, layer = torch.rand(2, 5), nn.Linear(5, 3)
    output, relevance = LRP(layer, EpsilonPlus())(images, lambda output: output)
    torch.testing.assert_close(output, layer(images).detach())
    assert relevance.shape == images.shape


# What users may get wrong.


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((lambda x: x, EpsilonPlus()), "the network should be an nn.Module; here it is <function"),
        ((nn.ReLU(), "epsilon_plus"), "composite='epsilon_plus' should be a composite such as EpsilonPlus"),
        ((nn.ReLU(), EpsilonPlus), "composite=<class .* should be a composite such as EpsilonPlus"),
        ((nn.ReLU(), EpsilonPlus(), "softmax"), "attention='softmax' is unknown; choose 'cp' or 'attn'"),
    ],
)
def test_no_engine_is_made_of_that(arguments: tuple[Any, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LRP(*arguments)


@pytest.mark.parametrize(
    ("images", "relevance", "sentence"),
    [
        (np.ones((2, 5)), torch.ones(2, 3), r"images should be a tensor \(N, ...\) of floating point numbers; .*array"),
        (torch.ones(2, 5, dtype=torch.uint8), torch.ones(2, 3), r"here it is one of torch.uint8, \(2, 5\)"),
        (torch.tensor(1.0), torch.ones(2, 3), r"here it is one of torch.float32, \(\)"),
        (torch.ones(2, 5), 2, r"should be a tensor of shape \(2, 3\), or a function .*here it is 2"),
        (
            torch.ones(2, 5),
            lambda output: None,
            r"should be a tensor of shape \(2, 3\), or a function .*here it is None",
        ),
        (
            torch.ones(2, 5),
            torch.ones(3),
            r"relevance of shape \(3,\) does not fit the output: a tensor of shape \(2, 3\)",
        ),
    ],
)
def test_nothing_is_explained_with_that(images: Any, relevance: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LRP(nn.Linear(5, 3), EpsilonPlus())(images, relevance)


class Summary(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean()


@pytest.mark.parametrize("network", [nn.Sequential(nn.Linear(5, 3), nn.Flatten(0)), Summary()])
def test_an_output_has_a_row_for_each_image(network: nn.Module) -> None:
    with pytest.raises(ValueError, match="a row for each image"):
        LRP(network, EpsilonPlus())(torch.ones(2, 5), lambda output: output)
