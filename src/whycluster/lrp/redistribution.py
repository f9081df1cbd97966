"""Relevance from the outputs of a linear map to its inputs, as the rules define it, contribution by contribution."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from whycluster.lrp.graph import Batch
from whycluster.lrp.linear_maps import LinearMap
from whycluster.lrp.receipts import Absorbed
from whycluster.lrp.rules import Contribution, Rule


@dataclass(frozen=True)
class Passage:
    """A linear map, its rule, and the values of a forward pass: what passing relevance back through it requires."""

    layer: LinearMap
    rule: Rule  # by which relevance passes
    xs: Sequence[Tensor]  # the operands
    z: Tensor  # the output, `w·x + b`; where a ReLU follows and `rectified` holds, possibly after it
    batch: Batch  # where the images are in the output
    n: int  # how many images there are
    nonnegative: bool = False  # whether the operands are known to have no negative entry
    rectified: bool = False  # whether relevance is known to be zero where the output is not positive
    memo: dict[str, Any] | None = None  # results that other targets of the same images can use, if there are others

    def of(self, some: slice) -> "Passage":
        """Returns the passage of some of the images, where these are in the first dimension."""
        memo = None if self.memo is None else self.memo.setdefault(f"images from {some.start}", {})
        n = len(range(self.n)[some])
        return replace(self, xs=[x[some] for x in self.xs], z=self.z[some], n=n, memo=memo)

    def per_image(self, values: Tensor) -> Tensor:
        """Sums values at the outputs for each image, `(n,)`."""
        return self.batch.per_image(values, self.n)

    def over_places(self, values: Tensor, bias: Tensor | None) -> Tensor:
        """Sums values at the outputs over the dimensions that a bias does not have, except that of the images."""
        missing = values.ndim if bias is None else values.ndim - bias.ndim
        wide = [at < missing or bias.shape[at - missing] == 1 for at in range(values.ndim)]  # type: ignore[union-attr]
        places = [at for at, one in enumerate(wide) if one and at != self.batch.axis]
        return values.sum(places, keepdim=True) if places else values

    def kept_by(self, quotient: Tensor, bias: Tensor | None) -> Tensor:
        """Computes `Σ_j quotient_j · bias_j` of each image, `(n,)`: what the bias absorbs."""
        if bias is None:
            return quotient.new_zeros(self.n)
        return self.per_image(self.over_places(quotient, bias) * bias)


Redistributed = tuple[list[Tensor], Absorbed]
# Rules that are functions, not lists of contributions (see `heads`).
REDISTRIBUTIONS: dict[type[Rule], Callable[[Passage, Tensor], Redistributed]] = {}


def redistribute(passage: Passage, relevance: Tensor) -> Redistributed:
    """Passes relevance, shaped as the output, to the operands, contribution by contribution, as the rule is written.

    Returns:
        The relevance of each operand, shaped as it is, and what the layer absorbed.
    """
    z, rule = passage.z, passage.rule
    if type(rule) in REDISTRIBUTIONS:
        return REDISTRIBUTIONS[type(rule)](passage, relevance)
    passed = [torch.zeros_like(x, dtype=relevance.dtype) for x in passage.xs]
    absorbed = Absorbed.nothing(relevance, passage.n)
    if any(contribution.outputs != "all" for contribution in rule.contributions):  # an output of zero has no sign
        absorbed = absorbed._replace(zero=absorbed.zero + passage.per_image(relevance * (z == 0)))
    for contribution in rule.contributions:
        taken = relevance * contribution.factor
        if contribution.outputs != "all":
            taken = taken * ((z > 0) if contribution.outputs == "positive" else (z < 0))
        absorbed = absorbed.plus(_pass_contribution(passage, contribution, taken, passed))
    return passed, absorbed


def _pass_contribution(passage: Passage, contribution: Contribution, taken: Tensor, passed: list[Tensor]) -> Absorbed:
    """Adds to `passed` what one contribution gives to the operands, and returns what it absorbs."""
    layer = passage.layer
    products = [
        ([product.input(x) for x in passage.xs], layer.modified(product.weight)) for product in contribution.products
    ]
    bias = None if contribution.bias is None or layer.bias is None else contribution.bias(layer.bias)
    total = sum((layer.apply(*product) for product in products[1:]), layer.apply(*products[0], bias))
    total = total.to(taken.dtype)
    added = torch.copysign(total.new_tensor(passage.rule.stabilizer), total)
    empty = total == 0  # no input gets relevance there, also where summands cancel
    quotient = taken / torch.where(empty, torch.inf, total + added)
    for inputs, weight in products:
        for at, (back, input) in enumerate(zip(layer.transpose(quotient, inputs, weight), inputs, strict=True)):
            passed[at] += back * input
    return Absorbed(
        passage.kept_by(quotient, bias),
        passage.per_image(added * quotient),
        passage.per_image(taken * empty),
    )
