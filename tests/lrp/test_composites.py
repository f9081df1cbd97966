import inspect
from typing import Any

import pytest
import torch
import zennit.composites
from torch import Tensor, nn

from whycluster import lrp as room
from whycluster.lrp import (
    COMPOSITES,
    LRP,
    AlphaBeta,
    Composite,
    Convolution,
    Epsilon,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    First,
    Flat,
    Gamma,
    Linear,
    TokenLinear,
    ZBox,
    ZPlus,
    named_composite,
)


def test_the_first_row_that_fits_counts() -> None:
    composite = Composite([("blocks.*.fc1", Gamma(1.0)), (First(Convolution), Flat()), (Convolution, ZPlus())])
    assert isinstance(composite.rule(Convolution, "blocks.3.fc1", first=True), Gamma)
    assert isinstance(composite.rule(Convolution, "stem", first=True), Flat)
    assert isinstance(composite.rule(Convolution, "stem", first=False), ZPlus)
    with pytest.raises(ValueError, match="Composite has no rule for a layer of kind Linear"):
        composite.rule(Linear, "head", first=False)


def test_flat_is_for_a_first_linear_layer_too() -> None:
    assert isinstance(EpsilonPlusFlat().rule(TokenLinear, "0", first=True), Flat)
    assert isinstance(EpsilonPlusFlat().rule(Linear, "0", first=False), Epsilon)


@pytest.mark.parametrize(
    ("name", "first", "later"),
    [
        ("epsilon_gamma_box", ZBox, Gamma),
        ("epsilon_plus", ZPlus, ZPlus),
        ("epsilon_plus_flat", Flat, ZPlus),
        ("epsilon_alpha2_beta1", AlphaBeta, AlphaBeta),
    ],
)
def test_composites_by_name(name: str, first: type, later: type) -> None:
    composite = named_composite(name, -1.0, 1.0)
    assert type(composite.rule(Convolution, "0", first=True)) is first
    assert type(composite.rule(Convolution, "3", first=False)) is later
    assert set(COMPOSITES) == {"epsilon_gamma_box", "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1"}


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([(nn.Conv2d, ZPlus())], "is no kind of layer; take one of whycluster.lrp, such as Convolution"),
        ([(Convolution, "z_plus")], "is no row of a composite"),
    ],
)
def test_rows_that_no_layer_would_get(rows: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Composite(rows)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: AlphaBeta(2.0, 2.0), "should be >=|beta=2|should be 1"),
        (lambda: Epsilon(-1.0), "stabilizer=-1.0 should be a finite number >= 0"),
        (lambda: Gamma(float("inf")), "gamma=inf should be a finite number >= 0"),
        (lambda: ZBox(1.0, 0.0), "low=1.0 should not be above high=0.0"),
        (lambda: EpsilonPlus(residual="sum"), "residual='sum' is unknown"),  # type: ignore[arg-type]
        (lambda: named_composite("plus", 0.0, 1.0), "composite='plus' is unknown"),
    ],
)
def test_numbers_that_make_no_rule(make: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


@pytest.mark.parametrize("name", ["EpsilonGammaBox", "EpsilonPlus", "EpsilonPlusFlat", "EpsilonAlpha2Beta1"])
def test_parameters_and_defaults_are_those_of_zennit(name: str) -> None:
    theirs = inspect.signature(getattr(zennit.composites, name)).parameters
    own = inspect.signature(getattr(room, name)).parameters
    for parameter in own.keys() - {"residual", "tokens"}:  # there zennit has a module, and there it has nothing
        assert own[parameter].default == theirs[parameter].default


def test_linear_layers_on_tokens_go_with_the_rule_of_attention() -> None:
    for name in room.COMPOSITES:
        made = [named_composite(name, -1.0, 1.0, attention=attention) for attention in ("attn", "cp")]
        rules = [repr(composite.rule(TokenLinear, "", first=False)) for composite in made]
        assert rules == ["Epsilon(stabilizer=1e-06)", "Gamma(gamma=0.05, stabilizer=1e-06)"]


def test_parameters_reach_the_rules() -> None:
    composite = EpsilonGammaBox(-3, 4, epsilon=0.1, gamma=0.2, stabilizer=0.3, residual="norm", tokens=0.5)
    rules = {kind: repr(composite.rule(kind, "", first=False)) for kind in (Convolution, Linear, TokenLinear, room.Add)}
    assert list(rules.values()) == [
        "Gamma(gamma=0.2, stabilizer=0.3)",
        "Epsilon(stabilizer=0.1)",
        "Gamma(gamma=0.5, stabilizer=0.3)",
        "Norm(stabilizer=0.3)",
    ]
    assert repr(EpsilonPlus(epsilon=0.1, tokens=0).rule(TokenLinear, "", first=False)) == "Epsilon(stabilizer=0.1)"
    assert type(EpsilonPlus().rule(room.Add, "", first=False)) is room.Ratio


def test_rows_reach_layers_of_a_network_by_their_names(written: type[nn.Module]) -> None:
    """Names count before kinds where they stand before them; a row of a sum is by its operation."""

    def compute(net: nn.Module, x: Tensor) -> Tensor:
        h = net.stem(x).relu()
        return net.body(h) + h

    network = written(compute, stem=nn.Conv2d(3, 4, 1), body=nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)))
    composite = Composite(
        [("body.1", Gamma(1.0)), ("*.add", Epsilon(0.5)), ("add", Epsilon(0.25)), *EpsilonPlus().rows]
    )
    lines = LRP(network, composite).describe(torch.rand(1, 3, 3, 3, dtype=torch.float64)).splitlines()[1:]
    assert [line.split()[:1] + line.split()[2:] for line in lines] == [
        ["stem", "ZPlus(stabilizer=1e-06)"],
        ["relu", "pass"],
        ["body.0", "ZPlus(stabilizer=1e-06)"],
        ["body.1", "Gamma(gamma=1,", "stabilizer=1e-06)"],
        ["add", "Epsilon(stabilizer=0.25)"],
    ]


def test_bounds_of_the_box_may_be_tensors_that_broadcast() -> None:
    network, images = nn.Sequential(nn.Conv2d(3, 2, 2)), torch.rand(2, 3, 4, 4)
    number = LRP(network, EpsilonGammaBox(-1.0, 2.0))(images, torch.sign)[1]
    tensor = LRP(network, EpsilonGammaBox(torch.full((3, 1, 1), -1.0), torch.full((1, 3, 1, 1), 2.0)))
    torch.testing.assert_close(tensor(images, torch.sign)[1], number)


def test_gamma_of_the_gamma_box() -> None:
    for gamma, shown in ((None, "0.25"), (0.5, "0.5"), (0, "0")):
        rule = named_composite("epsilon_gamma_box", -1.0, 1.0, gamma=gamma).rule(Convolution, "", first=False)
        assert repr(rule) == f"Gamma(gamma={shown}, stabilizer=1e-06)"
    for name in set(COMPOSITES) - {"epsilon_gamma_box"}:
        with pytest.raises(ValueError, match=f"gamma=1.0 is of composite=epsilon_gamma_box, and {name} has none"):
            named_composite(name, -1.0, 1.0, gamma=1.0)
    with pytest.raises(ValueError, match="gamma='x' should be a number >= 0"):
        named_composite("epsilon_gamma_box", -1.0, 1.0, gamma="x")  # type: ignore[arg-type]
