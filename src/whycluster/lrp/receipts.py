"""Where relevance went: what each layer kept, and what arrived."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Absorbed(NamedTuple):
    """Relevance that a layer kept, for each image `(N,)`.

    Attributes:
        bias: by the bias, or another constant.
        stabilizer: by what was added to small denominators.
        zero: where the sum was exactly zero, so that nobody could take it.
    """

    bias: Tensor
    stabilizer: Tensor
    zero: Tensor

    @property
    def total(self) -> Tensor:
        """`(N,)`."""
        return self.bias + self.stabilizer + self.zero

    @classmethod
    def nothing(cls, relevance: Tensor) -> "Absorbed":
        """Of this relevance `(N, ...)`, nothing."""
        return cls(*relevance.new_zeros(3, len(relevance)))

    def plus(self, other: "Absorbed") -> "Absorbed":
        """Both together."""
        return Absorbed(*map(torch.add, self, other))


# How much may be missing, as a share of the largest amount: a hundred times what rounding was seen to lose.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
SHORT = 0.1  # where products are computed with the ten bits of half precision, or fewer


@dataclass(frozen=True)
class Receipt:
    """Where the relevance of each image went; `entered = arrived + absorbed`, but for rounding.

    Attributes:
        entered: relevance at the output, `(N,)`.
        arrived: relevance at the pixels, `(N,)`.
        layers: name of a layer `->` what it absorbed, in the order of the walk.
        unsigned: relevance at the output and at the pixels, `(N,)` each, summed without signs: the entries of what
            entered may cancel (one cluster minus another), and rounding is as large as they are.
    """

    entered: Tensor
    arrived: Tensor
    layers: dict[str, Absorbed]
    unsigned: tuple[Tensor, Tensor]

    @property
    def absorbed(self) -> Tensor:
        """What all layers kept, `(N,)`; by difference, where layers have other rows than one for each image."""
        if not self._by_image:
            return self.entered - self.arrived
        return sum((layer.total for layer in self.layers.values()), torch.zeros_like(self.entered))

    @property
    def imbalance(self) -> Tensor:
        """What is missing of the relevance, as a share of the largest amount in the receipt, `(N,)`; rounding only."""
        missing = (self.entered - self.arrived - self.absorbed).abs()
        amounts = [amount for amount in self._amounts if len(amount) == len(missing)]
        return missing / torch.stack(amounts).abs().amax(0).clamp(min=torch.finfo(missing.dtype).tiny)

    def is_plausible(self, short: bool = False) -> bool:
        """Whether it balances without a NaN or an infinity; a single one in any pixel or layer would show.

        Args:
            short: whether products were computed with fewer digits than relevance has.
        """
        tolerance = SHORT if short else TOLERANCES.get(self.entered.dtype, SHORT)
        if self._by_image:
            return bool((self.imbalance <= tolerance).all())
        kept = [amount.sum() for layer in self.layers.values() for amount in layer]
        missing = self.entered.sum() - self.arrived.sum() - sum(kept)
        return bool(missing.abs() <= tolerance * torch.cat(self._amounts).abs().sum())

    @property
    def _by_image(self) -> bool:
        """Whether no batch grows or shrinks on the way."""
        return all(len(amount) == len(self.entered) for amount in self._amounts)

    @property
    def _amounts(self) -> list[Tensor]:
        kept = [amount for layer in self.layers.values() for amount in layer]
        return [self.entered, self.arrived, *self.unsigned, *kept]


class Attribution(NamedTuple):
    """Output of the network, relevance of its images (shaped as they are), and the receipt."""

    output: Tensor
    relevance: Tensor
    receipt: Receipt


def per_image(relevance: Tensor) -> Tensor:
    """`(N, ...)` summed to `(N,)`."""
    return relevance.sum(tuple(range(1, relevance.ndim))) if relevance.ndim > 1 else relevance
