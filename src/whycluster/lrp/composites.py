"""Which rule passes relevance through which kind of layer: tables, named and parameterised as in zennit 0.5.1."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from whycluster.lrp.linear_maps import (
    Add,
    AveragePool,
    BatchNorm,
    Convolution,
    LayerNorm,
    Linear,
    LinearMap,
    Shift,
)
from whycluster.lrp.rules import Rule, alpha_beta, box, epsilon, flat, gamma, norm, ratio, z_plus


class Row(NamedTuple):
    """One line of a composite: the rule, and what is added to its denominators."""

    rule: Rule
    stabilizer: float


Table = Mapping[type[LinearMap], Row]
Residual = Literal["ratio", "norm"]
RESIDUALS: dict[Residual, Rule] = {"ratio": ratio, "norm": norm}


class Composite:
    """A rule for each kind of layer.

    Args:
        layers: kind of layer `->` row.
        first: the same, for layers that see the image itself; kinds it lacks are looked up in `layers`.

    Raises:
        ValueError: for what is no kind of layer of `whycluster.lrp`, such as a module of torch, or no row.
    """

    def __init__(self, layers: Table, first: Table | None = None) -> None:
        for kind, row in [*layers.items(), *(first or {}).items()]:
            if not (isinstance(kind, type) and issubclass(kind, LinearMap)):
                raise ValueError(f"{kind!r} is no kind of layer; take one of whycluster.lrp, such as Convolution.")
            if not isinstance(row, Row):
                raise ValueError(f"{row!r:.100} is no row of a composite; write Row(rule, stabilizer).")
        self.layers = layers
        self.first = first or {}

    def row(self, layer: LinearMap, first: bool) -> Row:
        """The row for a layer.

        Raises:
            ValueError: if the table has none.
        """
        row = self.first.get(type(layer)) if first else None
        row = row or self.layers.get(type(layer))
        if row is None:
            raise ValueError(f"{type(self).__name__} has no rule for a layer of kind {type(layer).__name__}")
        return row


class EpsilonGammaBox(Composite):
    """`box` for the first convolution, `gamma` for the others, `epsilon` for linear layers.

    Args:
        low: the lowest value that the first convolution can see; a float, or a tensor that broadcasts to an image. A
            network that normalises its images itself sees other values than it is given.
        high: the highest.
        epsilon: the stabiliser of linear layers.
        gamma: how much more counts what has the sign of the output.
        stabilizer: the stabiliser of all other layers.
        residual: how a residual addition shares out, `ratio` or `norm` (see `rules`).

    Raises:
        ValueError: for bounds that do not broadcast to images, or a `low` above `high`.
    """

    def __init__(
        self,
        low: float | Tensor,
        high: float | Tensor,
        epsilon: float = 1e-6,
        gamma: float = 0.25,
        stabilizer: float = 1e-6,
        residual: Residual = "ratio",
    ) -> None:
        _check_bounds(low, high)
        super().__init__(
            layers=_table(partial(_gamma, gamma=gamma), epsilon, stabilizer, residual),
            first={Convolution: Row(partial(box, low=low, high=high), stabilizer)},
        )


class EpsilonPlus(Composite):
    """`z_plus` for convolutions, `epsilon` for linear layers."""

    def __init__(self, epsilon: float = 1e-6, stabilizer: float = 1e-6, residual: Residual = "ratio") -> None:
        super().__init__(layers=_table(z_plus, epsilon, stabilizer, residual))


class EpsilonPlusFlat(Composite):
    """`flat` for the first layer, `z_plus` for the other convolutions, `epsilon` for linear layers."""

    def __init__(self, epsilon: float = 1e-6, stabilizer: float = 1e-6, residual: Residual = "ratio") -> None:
        first = Row(flat, stabilizer)
        super().__init__(
            layers=_table(z_plus, epsilon, stabilizer, residual), first={Convolution: first, Linear: first}
        )


class EpsilonAlpha2Beta1(Composite):
    """`alpha_beta` with 2 and 1 for convolutions, `epsilon` for linear layers."""

    def __init__(self, epsilon: float = 1e-6, stabilizer: float = 1e-6, residual: Residual = "ratio") -> None:
        super().__init__(layers=_table(partial(alpha_beta, alpha=2, beta=1), epsilon, stabilizer, residual))


def _check_bounds(low: float | Tensor, high: float | Tensor) -> None:
    bounds = torch.as_tensor(low), torch.as_tensor(high)
    for name, bound in zip(("low", "high"), bounds, strict=True):
        if bound.ndim == 1 and len(bound) > 1:
            raise ValueError(
                f"{name} of shape {tuple(bound.shape)} should be a number, or broadcast to an image; for a bound of "
                "each channel give the shape (channels, 1, 1)."
            )
    if bool((bounds[0].cpu() > bounds[1].cpu()).any()):
        raise ValueError(f"low={low} should not be above high={high}.")


_gamma = gamma  # the rule, where `gamma` is a parameter


def _table(convolution: Rule, linear_epsilon: float, stabilizer: float, residual: Residual) -> Table:
    """What all composites agree on.

    Raises:
        ValueError: for an unknown residual rule.
    """
    if residual not in RESIDUALS:
        raise ValueError(f"residual={residual!r} is unknown; choose from {', '.join(RESIDUALS)}.")
    return {
        Convolution: Row(convolution, stabilizer),
        Linear: Row(epsilon, linear_epsilon),
        BatchNorm: Row(epsilon, stabilizer),  # one that is not folded
        LayerNorm: Row(epsilon, stabilizer),
        AveragePool: Row(norm, stabilizer),
        Add: Row(RESIDUALS[residual], stabilizer),
        Shift: Row(norm, stabilizer),
    }


COMPOSITES: dict[str, Callable[..., Composite]] = {
    "epsilon_gamma_box": EpsilonGammaBox,
    "epsilon_plus_flat": EpsilonPlusFlat,
    "epsilon_alpha2_beta1": EpsilonAlpha2Beta1,
    "epsilon_plus": EpsilonPlus,
}


def named_composite(name: str, low: float | Tensor, high: float | Tensor, residual: Residual = "ratio") -> Composite:
    """A composite by its name, with zennit's default parameters.

    Args:
        name: one of `COMPOSITES`.
        low: the lowest value an input can have; only the box rule asks for it.
        high: the highest.
        residual: `ratio` or `norm`.

    Raises:
        ValueError: for an unknown name or residual rule.
    """
    if name not in COMPOSITES:
        raise ValueError(f"composite={name!r} is unknown; choose from {', '.join(COMPOSITES)}.")
    if name == "epsilon_gamma_box":
        return EpsilonGammaBox(low, high, residual=residual)
    return COMPOSITES[name](residual=residual)
