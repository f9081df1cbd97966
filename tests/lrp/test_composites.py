from typing import Any

import pytest
import torch
from torch import nn

from whycluster.lrp import (
    COMPOSITES,
    LRP,
    AlphaBeta,
    Composite,
    Convolution,
    Epsilon,
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


def test_the_description_names_rules_and_folded_norms() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    lines = LRP(network, EpsilonPlus()).describe(torch.rand(1, 3, 3, 3)).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["0", "Convolution", "ZPlus(stabilizer=1e-06)", "1"],
        ["2", "relu", "pass"],
        ["3", "view", "move", "back"],
        ["4", "Linear", "Epsilon(stabilizer=1e-06)"],
    ]
