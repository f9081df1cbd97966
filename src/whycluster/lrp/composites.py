"""Which rule passes relevance through which kind of layer: tables, named and parameterised as in zennit 0.5.1."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from torch import Tensor

from whycluster.lrp.operations import AveragePool, Convolution, Linear, LinearMap
from whycluster.lrp.rules import Rule, alpha_beta, box, epsilon, flat, gamma, z_plus


class Row(NamedTuple):
    """One line of a composite: the rule, and what is added to its denominators."""

    rule: Rule
    stabilizer: float


Table = Mapping[type[LinearMap], Row]


class Composite:
    """A rule for each kind of layer.

    Args:
        layers: kind of layer `->` row.
        first: the same, for layers that see the image itself; kinds it lacks are looked up in `layers`.
    """

    def __init__(self, layers: Table, first: Table | None = None) -> None:
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
        low: the lowest value an input can have; a float, or a tensor that broadcasts to the images.
        high: the highest.
        epsilon: the stabiliser of linear layers.
        gamma: how much more counts what has the sign of the output.
        stabilizer: the stabiliser of all other layers.
    """

    def __init__(
        self,
        low: float | Tensor,
        high: float | Tensor,
        epsilon: float = 1e-6,
        gamma: float = 0.25,
        stabilizer: float = 1e-6,
    ) -> None:
        super().__init__(
            layers=_table(partial(_gamma, gamma=gamma), epsilon, stabilizer),
            first={Convolution: Row(partial(box, low=low, high=high), stabilizer)},
        )


class EpsilonPlus(Composite):
    """`z_plus` for convolutions, `epsilon` for linear layers."""

    def __init__(self, epsilon: float = 1e-6, stabilizer: float = 1e-6) -> None:
        super().__init__(layers=_table(z_plus, epsilon, stabilizer))


class EpsilonPlusFlat(Composite):
    """`flat` for the first layer, `z_plus` for the other convolutions, `epsilon` for linear layers."""

    def __init__(self, epsilon: float = 1e-6, stabilizer: float = 1e-6) -> None:
        first = Row(flat, stabilizer)
        super().__init__(layers=_table(z_plus, epsilon, stabilizer), first={Convolution: first, Linear: first})


class EpsilonAlpha2Beta1(Composite):
    """`alpha_beta` with 2 and 1 for convolutions, `epsilon` for linear layers."""

    def __init__(self, epsilon: float = 1e-6, stabilizer: float = 1e-6) -> None:
        super().__init__(layers=_table(partial(alpha_beta, alpha=2, beta=1), epsilon, stabilizer))


_gamma = gamma  # the rule, where `gamma` is a parameter


def _table(convolution: Rule, linear_epsilon: float, stabilizer: float) -> Table:
    """What all composites agree on; average pooling goes by its contributions (zennit calls this rule Norm)."""
    return {
        Convolution: Row(convolution, stabilizer),
        Linear: Row(epsilon, linear_epsilon),
        AveragePool: Row(epsilon, stabilizer),
    }


COMPOSITES: dict[str, Callable[..., Composite]] = {
    "epsilon_gamma_box": EpsilonGammaBox,
    "epsilon_plus_flat": EpsilonPlusFlat,
    "epsilon_alpha2_beta1": EpsilonAlpha2Beta1,
    "epsilon_plus": EpsilonPlus,
}


def named_composite(name: str, low: float | Tensor, high: float | Tensor) -> Composite:
    """A composite by its name, with zennit's default parameters.

    Args:
        name: one of `COMPOSITES`.
        low: the lowest value an input can have; only the box rule asks for it.
        high: the highest.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in COMPOSITES:
        raise ValueError(f"composite={name!r} is unknown; choose from {', '.join(COMPOSITES)}.")
    if name == "epsilon_gamma_box":
        return EpsilonGammaBox(low, high)
    return COMPOSITES[name]()
