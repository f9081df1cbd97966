"""What is known of a network before any image, and what it must not be."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from whycluster.lrp import (
    LRP,
    Composite,
    Convolution,
    Epsilon,
    EpsilonPlus,
    First,
    Flat,
    Gamma,
    Linear,
    TokenLinear,
    ZPlus,
)
from whycluster.lrp.plan import Planned

Compute = Callable[[Any, Tensor], Any]
IMAGES = torch.zeros(2, 3, 4, 4, dtype=torch.float64)


def layers() -> dict[str, nn.Module]:
    return {"conv": nn.Conv2d(3, 3, 3, padding=1), "again": nn.Conv2d(3, 3, 3, padding=1), "norm": nn.BatchNorm2d(3)}


@pytest.fixture
def planned(written: type[nn.Module]) -> Callable[[Compute], list[Planned]]:
    composite = Composite([(First(Convolution), Flat()), *EpsilonPlus().rows])
    return lambda compute: LRP(written(compute, **layers()), composite)._plan(IMAGES)[1]


def last(plan: list[Planned], name: str = "again") -> Planned:
    return next(one for one in reversed(plan) if one.name == name)


def test_layers_are_named_and_first_until_one_with_weights() -> None:
    body = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU())
    network = nn.Sequential(nn.AvgPool2d(2), body, nn.AvgPool2d(2), nn.Conv2d(2, 2, 1), nn.Flatten(1), nn.Linear(2, 2))
    composite = Composite([(First(Convolution), Flat()), *EpsilonPlus().rows])
    _, plan = LRP(network, composite)._plan(torch.zeros(2, 1, 4, 4))
    rules = {one.name: type(one.rule).__name__ for one in plan if one.rule is not None}
    assert rules == {"0": "Norm", "1.0": "Flat", "2": "Norm", "3": "ZPlus", "5": "Epsilon"}
    assert {one.name: one.norm for one in plan if one.norm} == {"1.0": "1.1"}
    assert [one.nonnegative for one in plan if one.rule] == [False, False, True, True, False]


@pytest.mark.parametrize(
    ("compute", "first"),
    [
        (lambda net, x: net.again(torch.cat([x, x.flip(1)], 2)), True),
        (lambda net, x: net.again(F.max_pool2d(x, 2) * 2 - net.mean), True),
        (lambda net, x: net.again(torch.cat([net.conv(x).relu(), x], 2)), False),
        (lambda net, x: net.again(net.norm(x)), False),
        (lambda net, x: net.again(x + net.conv(x)), False),
        (lambda net, x: net.again(x * net.conv(x).sigmoid()), True),  # a gate is a constant
    ],
)
def test_the_first_layer(compute: Compute, first: bool, planned: Callable[[Compute], list[Planned]]) -> None:
    assert isinstance(last(planned(compute)).rule, Flat if first else ZPlus)


def test_what_a_folded_norm_stands_for_is_not_computed_beside_it() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.ReLU())
    graph, plan = LRP(network, EpsilonPlus())._plan(IMAGES.float())
    assert len(graph.nodes) > len(plan) == 2
    assert [one.name for one in plan] == ["0", "2"]


@pytest.mark.parametrize(
    ("compute", "kind"),
    [
        (lambda net, x: net.linear(x.mean(3)), TokenLinear),
        (lambda net, x: net.linear(x.mean(3).reshape(-1, 4)).reshape(x.shape[0], 3, 4), TokenLinear),
        (lambda net, x: net.linear(x.mean((1, 2))), Linear),
    ],
)
def test_linear_layers_on_tokens_are_known(compute: Compute, kind: type[Linear], written: type[nn.Module]) -> None:
    network = written(compute, linear=nn.Linear(4, 4)).double()
    composite = Composite([(TokenLinear, Gamma()), (Linear, Epsilon()), *EpsilonPlus().rows])
    found = last(LRP(network, composite)._plan(IMAGES)[1], "linear")
    assert isinstance(found.rule, Gamma if kind is TokenLinear else Epsilon)


NONNEGATIVE: list[tuple[Compute, bool]] = [
    (lambda net, h: h, False),
    (lambda net, h: h.relu() * h.sigmoid(), True),
    (lambda net, h: h.relu() * h.tanh(), False),
    (lambda net, h: h * h.sigmoid(), False),
    (lambda net, h: h.relu() + h.flip(1).sigmoid(), True),
    (lambda net, h: h.relu() - h.sigmoid(), False),
    (lambda net, h: h.relu() + 1, False),  # of a constant nothing is known
    (lambda net, h: h.relu() * -2, False),
    (lambda net, h: h.relu() * 2 / 3, True),
    (lambda net, h: -h.relu(), False),
    (lambda net, h: F.relu6(h).permute(0, 1, 3, 2).reshape(h.shape), True),
    (lambda net, h: F.hardtanh(h, 0.0, 6.0), True),
    (lambda net, h: F.hardtanh(h), False),
    (lambda net, h: h.clamp(min=0), True),
    (lambda net, h: h.clamp(0.5, 1), True),
    (lambda net, h: h.clamp(max=1), False),
    (lambda net, h: F.softplus(h), True),
    (lambda net, h: F.silu(h.relu()), False),
    (lambda net, h: F.pad(h.relu(), (1, 1)), True),
    (lambda net, h: F.pad(h.relu(), (1, 1), value=-1.0), False),
    (lambda net, h: F.avg_pool2d(F.max_pool2d(h.relu(), 2), 1)[:, :], True),
    (lambda net, h: F.interpolate(h.relu(), scale_factor=2, mode="bilinear"), True),
    (lambda net, h: F.interpolate(h.relu(), scale_factor=2, mode="bicubic"), False),  # overshoots
    (lambda net, h: net.norm(h.relu()), False),
    (lambda net, h: torch.cat(h.relu().chunk(2, 3)[::-1], 3), True),
    (lambda net, h: torch.cat([h.relu(), h], 3), False),
    (lambda net, h: torch.cat([h.relu(), net.mean.expand(h.shape)], 3), False),
    (lambda net, h: h.relu().masked_fill(net.mean > 0, -1.0), False),
    (lambda net, h: h.relu().requires_grad_(False).clone(), True),
]


@pytest.fixture(scope="module")
def readers(written: type[nn.Module]) -> list[Planned]:
    """The layers that read what may be negative, of one network for all."""
    network = written(lambda net, x: tuple(net.again(way(net, net.conv(x))) for way, _ in NONNEGATIVE), **layers())
    return [one for one in LRP(network, EpsilonPlus())._plan(IMAGES)[1] if one.name == "again"]


@pytest.mark.parametrize("at", range(len(NONNEGATIVE)))
def test_what_cannot_be_negative_is_known(at: int, readers: list[Planned]) -> None:
    assert len(readers) == len(NONNEGATIVE)
    assert readers[at].nonnegative == NONNEGATIVE[at][1]


RECTIFIED: list[tuple[Compute, bool, bool]] = [
    (lambda net, h: net.again(h.relu()), True, True),
    (lambda net, h: net.again(F.max_pool2d(h.relu(), 2)), True, True),
    (lambda net, h: net.again(F.relu(h) * 2), True, True),
    (lambda net, h: net.again(h.relu() * h.tanh()), False, False),
    (lambda net, h: h.relu(), False, False),  # nothing is known of the relevance that users give
    (lambda net, h: net.again(h.relu()) + h, False, False),
    (lambda net, h: net.again(h.relu()) + h.relu(), True, False),  # a sum, too, shares out in proportion
    (lambda net, h: net.again(F.silu(h)), False, False),
    (lambda net, h: net.again(h.clamp(min=0)), True, False),
    (lambda net, h: net.again(h.relu() + h.flip(1).relu()), True, False),  # two ReLUs read it
    (lambda net, h: net.again(F.max_pool2d(h, 2).relu()), True, False),  # the ReLU is that of the pooling
]


@pytest.fixture(scope="module")
def read(written: type[nn.Module]) -> list[Planned]:
    """The layers before what is read in these ways, of one network for all."""
    network = written(lambda net, x: tuple(way(net, net.conv(x)) for way, _, _ in RECTIFIED), **layers())
    return [one for one in LRP(network, EpsilonPlus())._plan(IMAGES)[1] if one.name == "conv"]


@pytest.mark.parametrize("at", range(len(RECTIFIED)))
def test_where_relevance_can_be(at: int, read: list[Planned]) -> None:
    assert len(read) == len(RECTIFIED)
    assert (read[at].rectified, read[at].with_relu) == RECTIFIED[at][1:]


# What relevance cannot pass.


@pytest.mark.parametrize(
    ("compute", "sentence"),
    [
        (lambda net, x: torch.linalg.inv(net.conv(x)), "LRP does not know how relevance passes aten.linalg_inv"),
        (lambda net, x: torch.fft.fft(net.conv(x)).real, "LRP does not know how relevance passes aten"),
        (lambda net, x: F.linear(x, net.conv(x)[0, 0]), "the network mixes its images at node 'select'"),
        (lambda net, x: torch.div(net.conv(x), 2, rounding_mode="floor"), "quotients without rounding"),
        (
            lambda net, x: net.conv(x).sign(),
            "no relevance can reach the images: what the network returns should depend",
        ),
        (lambda net, x: 1 / net.conv(x), "no relevance can reach the images"),
        (lambda net, x: (x > 0).double(), "no relevance can reach the images"),
        (lambda net, x: net.conv(x) + net.conv(x).mean(0), "the network mixes its images at node 'mean'"),
        (lambda net, x: F.normalize(net.conv(x), dim=0).sum(0), "the network mixes its images at node 'sum'"),
    ],
)
def test_errors_name_the_node(compute: Compute, sentence: str, planned: Callable[[Compute], list[Planned]]) -> None:
    with pytest.raises(ValueError, match=sentence):
        planned(compute)


def test_errors_name_the_line_and_the_cure(planned: Callable[[Compute], list[Planned]]) -> None:
    def compute(net: Any, x: Tensor) -> Tensor:
        return torch.linalg.inv(net.conv(x))

    with pytest.raises(
        ValueError, match=r"node 'linalg_inv\w*', File .*conftest\.py\", line \d+, in forward\); cut the network at"
    ):
        planned(compute)


@pytest.mark.parametrize(
    "compute",
    [
        lambda net, x: net.conv(x) * torch.fft.fft(x).abs().sigmoid(),  # within a gate
        lambda net, x: (net.conv(x), torch.linalg.inv(net.conv(x)))[0],  # for nobody
        lambda net, x: net.conv(x) * torch.linalg.inv(torch.eye(4).double() * 2),  # of constants
    ],
)
def test_unknown_operations_that_relevance_does_not_reach(
    compute: Compute, planned: Callable[[Compute], list[Planned]]
) -> None:
    assert last(planned(compute), "conv").rule is not None


def test_a_layer_without_a_rule_is_named(written: type[nn.Module]) -> None:
    network = written(lambda net, x: net.conv(x).mean((2, 3)), **layers())
    with pytest.raises(ValueError, match="Composite has no rule for a layer of kind AveragePool, node 'mean'"):
        LRP(network, Composite([(Convolution, ZPlus())])).describe(IMAGES)
