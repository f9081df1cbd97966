import inspect
from collections.abc import Iterable
from typing import Any

import pytest
import torch
import zennit.composites
from torch import nn

from whycluster import lrp
from whycluster.lrp import (
    COMPOSITES,
    LRP,
    Composite,
    Convolution,
    EpsilonGammaBox,
    Row,
    Share,
    Signal,
    Term,
    named_composite,
)
from whycluster.lrp.linear_maps import LinearMap
from whycluster.lrp.rules import epsilon, flat, z_plus


def chosen(composite: Composite, network: nn.Module) -> dict[str, str]:
    """Layer `->` name of the rule it gets."""
    rows = {
        step.name: composite.row(step.operation, step.first).rule
        for step in LRP(network, composite).steps
        if hasattr(step.operation, "weight")
    }
    return {name: getattr(rule, "func", rule).__name__ for name, rule in rows.items()}


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("epsilon_gamma_box", ["box", "norm", "gamma", "epsilon"]),
        ("epsilon_plus", ["z_plus", "norm", "z_plus", "epsilon"]),
        ("epsilon_plus_flat", ["flat", "norm", "z_plus", "epsilon"]),
        ("epsilon_alpha2_beta1", ["alpha_beta", "norm", "alpha_beta", "epsilon"]),
    ],
)
def test_layers_get_their_rules(name: str, rules: list[str]) -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(8, 2)
    )
    assert list(chosen(named_composite(name, -1, 1), network).values()) == rules


def test_pooling_the_image_leaves_the_next_convolution_the_first() -> None:
    network = nn.Sequential(nn.AvgPool2d(2), nn.MaxPool2d(1), nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1))
    assert list(chosen(named_composite("epsilon_gamma_box", -1, 1), network).values()) == ["norm", "box", "gamma"]


def test_flat_is_for_a_first_linear_layer_too_and_the_box_is_not() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Linear(2, 2))
    assert list(chosen(lrp.EpsilonPlusFlat(), network).values()) == ["flat", "epsilon"]
    assert list(chosen(lrp.EpsilonGammaBox(-1, 1), network).values()) == ["epsilon", "epsilon"]


@pytest.mark.parametrize("name", ["EpsilonGammaBox", "EpsilonPlus", "EpsilonPlusFlat", "EpsilonAlpha2Beta1"])
def test_parameters_and_defaults_are_those_of_zennit(name: str) -> None:
    theirs = inspect.signature(getattr(zennit.composites, name)).parameters
    own = inspect.signature(getattr(lrp, name)).parameters
    for parameter, ours in own.items():
        if parameter == "residual":  # there the rule belongs to a module that its canonizers put into the network
            continue
        assert ours.default == theirs[parameter].default


def test_parameters_reach_the_rules() -> None:
    layer = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1), nn.AvgPool2d(1), nn.Flatten(), nn.Linear(1, 1))
    composite = lrp.EpsilonGammaBox(-3, 4, epsilon=0.1, gamma=0.2, stabilizer=0.3)
    steps = [step for step in LRP(layer, composite).steps if hasattr(step.operation, "weight")]
    box, gamma, pool, linear = (composite.row(step.operation, step.first) for step in steps)
    assert box.rule.keywords == {"low": -3, "high": 4}
    assert gamma.rule.keywords == {"gamma": 0.2}
    assert [row.stabilizer for row in (box, gamma, pool, linear)] == [0.3, 0.3, 0.3, 0.1]


def test_every_composite_has_a_name() -> None:
    built = {type(named_composite(name, -1, 1)) for name in COMPOSITES}
    assert built == {lrp.EpsilonGammaBox, lrp.EpsilonPlus, lrp.EpsilonPlusFlat, lrp.EpsilonAlpha2Beta1}


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"composite='lrp' is unknown; choose from epsilon_gamma_box, .*epsilon_plus"):
        named_composite("lrp", -1, 1)


def test_a_composite_of_ones_own() -> None:
    network = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False))
    own = Composite({type(LRP(network, lrp.EpsilonPlus()).steps[0].operation): Row(z_plus, 0)})
    assert list(chosen(own, network).values()) == ["z_plus", "z_plus"]


def test_a_layer_without_a_row_is_reported_before_any_image() -> None:
    with pytest.raises(ValueError, match="Composite has no rule for a layer of kind Convolution"):
        LRP(nn.Sequential(nn.Conv2d(1, 1, 1)), Composite({}))


def test_kinds_that_first_lacks_are_looked_up_in_layers() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(4, 1))
    convolution, _, linear = (step.operation for step in LRP(network, lrp.EpsilonPlus()).steps)
    composite = Composite({type(linear): Row(epsilon, 0)}, first={type(convolution): Row(flat, 0)})
    assert composite.row(linear, first=True).rule is epsilon
    assert composite.row(convolution, first=True).rule is flat
    with pytest.raises(ValueError, match="no rule"):
        composite.row(convolution, first=False)


def test_bounds_of_the_box_may_be_tensors_that_broadcast() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 2))
    images = torch.rand(2, 3, 4, 4)
    number = LRP(network, lrp.EpsilonGammaBox(-1.0, 2.0))(images, torch.sign)[1]
    tensor = LRP(network, lrp.EpsilonGammaBox(torch.full((3, 1, 1), -1.0), torch.full((1, 3, 1, 1), 2.0)))
    assert torch.equal(tensor(images, torch.sign)[1], number)


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        (
            {nn.Conv2d: Row(epsilon, 1e-6)},
            "Conv2d'> is no kind of layer; take one of whycluster.lrp, such as Convolution",
        ),
        ({"Convolution": Row(epsilon, 1e-6)}, "'Convolution' is no kind of layer"),
        ({Convolution: epsilon}, r"is no row of a composite; write Row\(rule, stabilizer\)"),
    ],
)
def test_rows_that_no_layer_would_get(layers: Any, sentence: str) -> None:
    for table in ({"layers": layers}, {"layers": {}, "first": layers}):
        with pytest.raises(ValueError, match=sentence):
            Composite(**table)


@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [
        ([0, 0, 0], 1.0, r"low of shape \(3,\) should be a number, .*\(channels, 1, 1\)"),
        (0.0, torch.ones(3), r"high of shape \(3,\)"),
        (1.0, 0.0, "low=1.0 should not be above high=0.0"),
    ],
)
def test_bounds_that_make_no_box(low: Any, high: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        EpsilonGammaBox(low, high)


def returned(layer: LinearMap, signal: Signal) -> Share:
    return Share((Term(signal.x.abs(), layer.modified("absolute", torch.abs)),))


def forgotten(layer: LinearMap, signal: Signal) -> None:
    returned(layer, signal)


@pytest.mark.parametrize(("rule", "kind"), [(returned, "Share"), (forgotten, "NoneType")])
def test_a_rule_yields(rule: Any, kind: str) -> None:
    lrp = LRP(nn.Conv2d(3, 2, 3), Composite({Convolution: Row(rule, 1e-6)}))
    with pytest.raises(ValueError, match=f"the rule '{rule.__name__}' should yield shares; it returned {kind}"):
        lrp(torch.rand(1, 3, 5, 5), torch.ones_like)


def lossy(layer: LinearMap, signal: Signal) -> Iterable[Share]:
    yield returned(layer, signal)._replace(factor=0.99)


def test_a_rule_that_loses_relevance_is_an_error() -> None:
    lrp = LRP(nn.Conv2d(3, 2, 3), Composite({Convolution: Row(lossy, 1e-6)}))
    with pytest.raises(ValueError, match="a rule of your own has shares that take more or less than all"):
        lrp(torch.rand(1, 3, 5, 5), torch.ones_like)
