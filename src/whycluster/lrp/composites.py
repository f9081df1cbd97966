"""Which rule passes relevance through which layer: lists of rows, named and parameterised as in zennit 0.5.1."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal

from torch import Tensor

from whycluster.errors import UserError, real_number
from whycluster.lrp import linear_maps
from whycluster.lrp.linear_maps import Convolution, Linear, LinearMap, TokenLinear
from whycluster.lrp.rules import AlphaBeta, Epsilon, Flat, Gamma, Norm, Ratio, Rule, ZBox, ZPlus
from whycluster.lrp.steps import Attention

Residual = Literal["ratio", "norm"]
# The gamma of linear layers on tokens that explains a vision transformer best (`docs/transformers.md`).
TOKEN_GAMMAS: dict[Attention, float] = {"attn": 0.0, "cp": 0.05}
GAMMA = 0.25  # of convolutions, as in zennit
RESIDUALS: dict[Residual, Callable[[float], Rule]] = {"ratio": Ratio, "norm": Norm}


@dataclass(frozen=True)
class First:
    """A key for the layers of a kind, such as `Convolution`, that see the image itself: no layer with weights precedes
    them.
    """

    kind: type[LinearMap]


Key = type[LinearMap] | First | str
Row = tuple[Key, Rule]


class Composite:
    """A rule for each layer: the first row that fits it.

    Args:
        rows: pairs of a key and a rule. A key is a kind of layer (`Convolution`), `First(kind)`, or the name of layers
            (`features.0`), in which `*` stands for any text (`blocks.*.mlp.fc1`).

    Raises:
        UserError: for a key that is none of these, such as a module of torch, or for a value that is no rule.

    Example:
        >>> from whycluster.lrp import Convolution, EpsilonPlus, Gamma
        >>> composite = Composite([("features.0", Gamma(1.0)), *EpsilonPlus().rows])
        >>> composite.rule(Convolution, "features.0", first=True)
        Gamma(gamma=1, stabilizer=1e-06)
        >>> composite.rule(Convolution, "features.3", first=False)
        ZPlus(stabilizer=1e-06)
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if not (isinstance(row, tuple) and len(row) == 2 and isinstance(row[1], Rule)):
                raise UserError(f"{row!r:.100} is no row of a composite; write (Convolution, Gamma(0.25)).")
            kind = row[0].kind if isinstance(row[0], First) else row[0]
            if not (isinstance(kind, str) or (isinstance(kind, type) and issubclass(kind, LinearMap))):
                raise UserError(f"{kind!r} is no kind of layer; take one of whycluster.lrp, such as Convolution.")
        self.rows = list(rows)

    def rule(self, kind: type[LinearMap], name: str, first: bool) -> Rule:
        """Returns the rule for a layer of this kind and name; `first`: no layer with weights precedes it.

        Raises:
            UserError: if no row fits.
        """
        for key, rule in self.rows:
            if isinstance(key, str):
                fits = fnmatchcase(name, key)
            elif isinstance(key, First):
                fits = first and issubclass(kind, key.kind)
            else:
                fits = issubclass(kind, key)
            if fits:
                return rule
        if isinstance(kind.default_rule, Rule):
            return kind.default_rule
        raise UserError(f"{type(self).__name__} has no rule for a layer of kind {kind.__name__}")


# Pairs of a key and a function that makes its rule from the stabilizer.
Makers = tuple[tuple[Key, Callable[[float], Rule]], ...]
COMMON_RULES: Makers = (
    (linear_maps.BatchNorm, Epsilon),  # one that is not folded
    (linear_maps.LayerNorm, Epsilon),
    (linear_maps.MatrixProduct, Epsilon),
    (linear_maps.Bilinear, Epsilon),
    (linear_maps.AveragePool, Norm),
    (linear_maps.Shift, Norm),
)


class NamedComposite(Composite):
    """The rules that all named composites have in common; subclasses add those of convolutions, which come first.

    Args:
        epsilon: the stabiliser of linear layers, `>= 0`.
        stabilizer: of all other layers, `>= 0`.
        residual: the rule of additions: `ratio` (`Ratio`) or `norm` (`Norm`).
        tokens: the gamma of linear layers on tokens, `>= 0`; with 0 they have `Epsilon`. Which one is right depends on
            the rule of attention (`docs/transformers.md`).

    Raises:
        UserError: for a number below 0 or an unknown residual rule.
    """

    convolutions: Makers = ()

    def __init__(
        self, epsilon: float = 1e-6, stabilizer: float = 1e-6, residual: Residual = "ratio", tokens: float = 0.0
    ) -> None:
        if residual not in RESIDUALS:
            raise UserError(f"residual={residual!r} is unknown; choose from {', '.join(RESIDUALS)}.")
        rows: list[Row] = [
            (TokenLinear, Gamma(tokens, stabilizer) if tokens else Epsilon(epsilon)),
            (Linear, Epsilon(epsilon)),
        ]
        others: Makers = (*COMMON_RULES, (linear_maps.Add, RESIDUALS[residual]))
        first, last = ([(key, make(stabilizer)) for key, make in makers] for makers in (self.convolutions, others))
        super().__init__([*first, *rows, *last])


class EpsilonPlus(NamedComposite):
    """`ZPlus` for convolutions, `Epsilon` for linear layers (Kohlbrenner et al., arXiv 1910.09840)."""

    convolutions = ((Convolution, ZPlus),)


class EpsilonPlusFlat(NamedComposite):
    """`Flat` for the first layer, `ZPlus` for the other convolutions, else `Epsilon` (arXiv 1910.09840)."""

    convolutions = ((First(Convolution), Flat), (First(Linear), Flat), (Convolution, ZPlus))


class EpsilonAlpha2Beta1(NamedComposite):
    """`AlphaBeta` with 2 and 1 for convolutions, `Epsilon` for linear layers (arXiv 1910.09840)."""

    convolutions = ((Convolution, partial(AlphaBeta, 2, 1)),)


class EpsilonGammaBox(NamedComposite):
    """`ZBox` for the first convolution, `Gamma` for the others, else `Epsilon`.

    Montavon et al. 2019, section 10.3 (doi 10.1007/978-3-030-28954-6_10).

    Args:
        low: the lowest input of the first convolution; a float, or a tensor that broadcasts to an image. In a network
            that normalises its images itself these are not the values of the images.
        high: the highest.
        epsilon: as of `NamedComposite`, and so are `stabilizer`, `residual` and `tokens`.
        gamma: in convolutions, contributions with the sign of the output count `1 + gamma` times; `>= 0`.

    Raises:
        UserError: for bounds that do not broadcast to images, a `low` above `high`, or a number below 0.
    """

    def __init__(
        self,
        low: float | Tensor,
        high: float | Tensor,
        epsilon: float = 1e-6,
        gamma: float = GAMMA,
        stabilizer: float = 1e-6,
        residual: Residual = "ratio",
        tokens: float = 0.0,
    ) -> None:
        self.convolutions = ((First(Convolution), partial(ZBox, low, high)), (Convolution, partial(Gamma, gamma)))
        super().__init__(epsilon, stabilizer, residual, tokens)


COMPOSITES: dict[str, Callable[..., Composite]] = {
    "epsilon_gamma_box": EpsilonGammaBox,
    "epsilon_plus_flat": EpsilonPlusFlat,
    "epsilon_alpha2_beta1": EpsilonAlpha2Beta1,
    "epsilon_plus": EpsilonPlus,
}


def named_composite(
    name: str,
    low: float | Tensor,
    high: float | Tensor,
    residual: Residual = "ratio",
    attention: Attention = "attn",
    gamma: float | None = None,
) -> Composite:
    """Builds a composite by its name, with zennit's default parameters.

    Args:
        name: one of `COMPOSITES`.
        low: the lowest value an input can have; only the box rule uses it.
        high: the highest.
        residual: `ratio` or `norm`.
        attention: the rule of attention that it is used with, which decides the gamma of linear layers on tokens.
        gamma: of convolutions in `epsilon_gamma_box`, `>= 0`; `None`: `GAMMA`.

    Raises:
        UserError: for an unknown name or residual rule, or a gamma that is below 0 or that the composite does not have.
    """
    if name not in COMPOSITES:
        raise UserError(f"composite={name!r} is unknown; choose from {', '.join(COMPOSITES)}.")
    others: dict[str, Any] = {"residual": residual, "tokens": TOKEN_GAMMAS.get(attention, 0.0)}
    if name == "epsilon_gamma_box":
        return EpsilonGammaBox(low, high, gamma=GAMMA if gamma is None else real_number("gamma", gamma, 0), **others)
    if gamma is not None:
        raise UserError(f"gamma={gamma} is of composite=epsilon_gamma_box, and {name} has none; leave it out.")
    return COMPOSITES[name](**others)
