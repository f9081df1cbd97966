"""Receipts: what each layer absorbed of the relevance, and what arrived at the images."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Absorbed(NamedTuple):
    """Relevance that a layer absorbed, for each image `(N,)`."""

    bias: Tensor  # by the bias, or another constant
    stabilizer: Tensor  # by what was added to small denominators
    zero: Tensor  # where the sum was exactly zero, so that no input could take it

    @property
    def total(self) -> Tensor:
        """`(N,)`."""
        return self.bias + self.stabilizer + self.zero

    @classmethod
    def nothing(cls, relevance: Tensor, n: int) -> "Absorbed":
        """Returns zeros for `n` images."""
        return cls(*relevance.new_zeros(3, n))

    def plus(self, other: "Absorbed") -> "Absorbed":
        """Adds two amounts."""
        return Absorbed(*map(torch.add, self, other))


@dataclass
class Ledger:
    """What layers absorb while relevance passes them, by their names, in the order that relevance reaches them."""

    n: int  # how many images there are
    retain: bool = False  # whether other targets of the same images follow
    sums: list[Tensor] = field(default_factory=list)  # of outputs: R / inf is 0, so a receipt may balance over infinity
    unsigned: list[Tensor] = field(default_factory=list)  # relevance on the way, without signs, `(N,)`, where looked at
    layers: dict[str, Absorbed] = field(default_factory=dict)

    def add(self, name: str, absorbed: Absorbed) -> None:
        """Adds what a layer absorbed; a layer that the network calls twice has one entry."""
        self.layers[name] = self.layers[name].plus(absorbed) if name in self.layers else absorbed


# Tolerated imbalance, as a fraction of the largest amount: a hundred times the largest rounding error measured.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
SHORT_TOLERANCE = 0.1  # where products are computed with the ten bits of half precision, or fewer


@dataclass(frozen=True)
class Receipt:
    """Where the relevance of each image went; `entered = arrived + absorbed`, but for rounding.

    Attributes:
        entered: relevance at the output, `(N,)`.
        arrived: relevance at the pixels, `(N,)`.
        layers: name of a layer `->` what it absorbed, in the order that relevance reaches them.
        unsigned: relevance at the output, at the pixels, and on the way at layers without places, `(N,)` each, summed
            without signs: entries may cancel (one cluster minus another), and rounding is as large as they are.
    """

    entered: Tensor
    arrived: Tensor
    layers: dict[str, Absorbed]
    unsigned: tuple[Tensor, ...]

    @property
    def absorbed(self) -> Tensor:
        """What all layers absorbed, `(N,)`."""
        return sum((layer.total for layer in self.layers.values()), torch.zeros_like(self.entered))

    @property
    def imbalance(self) -> Tensor:
        """Missing relevance as a fraction of the largest amount in the receipt, `(N,)`; due to rounding only."""
        missing = (self.entered - self.arrived - self.absorbed).abs()
        kept = [amount for layer in self.layers.values() for amount in layer]
        amounts = torch.stack([self.entered, self.arrived, *self.unsigned, *kept])
        return missing / amounts.abs().amax(0).clamp(min=torch.finfo(missing.dtype).tiny)

    def is_plausible(self, short: bool = False) -> bool:
        """Tells whether the receipt balances without NaN or infinity, which would show from any single pixel or layer.

        Args:
            short: whether products were computed with fewer digits than relevance has.
        """
        tolerance = SHORT_TOLERANCE if short else TOLERANCES.get(self.entered.dtype, SHORT_TOLERANCE)
        return bool((self.imbalance <= tolerance).all())


class Attribution(NamedTuple):
    """Output of the network (a tensor, or a tuple of them), relevance of its images (shaped so), and the receipt."""

    output: Any
    relevance: Tensor
    receipt: Receipt


def per_image(relevance: Tensor) -> Tensor:
    """Sums `(N, ...)` to `(N,)`."""
    return relevance.sum(tuple(range(1, relevance.ndim))) if relevance.ndim > 1 else relevance
