"""Heads as layers of a network through which LRP propagates, and the rules of their linear layer.

`LRP(nn.Sequential(backbone, head), composite)` passes a discriminant through the head and on to the pixels. In an
exported graph a head is one operation, whose relevance is that of `Head.attribute`.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from whycluster.heads.beta import Beta
from whycluster.heads.head import Head, RuleName
from whycluster.lrp.linear_maps import LinearMap
from whycluster.lrp.operations import REGISTERED
from whycluster.lrp.receipts import Absorbed
from whycluster.lrp.redistribution import REDISTRIBUTIONS, Passage, Redistributed
from whycluster.lrp.rules import Rule
from whycluster.lrp.steps import Call, LinearStep, Step, Values


class HeadRule(Rule):
    """A rule of a head's linear layer, behind the pooling over competitors.

    Args:
        beta: stiffness of that pooling; `None` or `auto`: the head's own.
    """

    name: ClassVar[RuleName]

    def __init__(self, beta: Beta = None) -> None:
        super().__init__([], 0.0)
        self.beta = beta


class Zero(HeadRule):
    """In proportion to `w x`; the bias absorbs its part (Kauffmann et al., arXiv 1906.07633, section III-C)."""

    name = "zero"


class Midpoint(HeadRule):
    """In proportion to `w (x - m)`, relative to the border of two clusters; conserves relevance (section III-C)."""

    name = "midpoint"
    proportional = False


class ClusterLayer(LinearMap):
    """A head within a network.

    Args:
        head: features `(N, D)` `->` discriminants `(N, K)`.
    """

    weighted = True
    default_rule = Zero()

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        return self.head.forward(xs[0])


def redistribute_head(passage: Passage, relevance: Tensor) -> Redistributed:
    """Passes relevance of discriminants `(N, K)` to features `(N, D)`; each entry by the explanation of its cluster."""
    layer, rule, (x,) = passage.layer, passage.rule, passage.xs
    assert isinstance(layer, ClusterLayer)
    assert isinstance(rule, HeadRule)
    rows, clusters = relevance.nonzero(as_tuple=True)
    passed = torch.zeros_like(x)
    absorbed = Absorbed.nothing(relevance, passage.n)
    head = layer.head.attribute(x[rows], clusters, rule=rule.name, beta=rule.beta)
    entered = relevance[rows, clusters]
    # Clusters that tie differ by rounding only, which no feature explains.
    rounding = 8 * torch.finfo(passage.z.dtype).eps * passage.z.abs().amax(1)[rows]
    tie = head.explained.abs() <= rounding
    factor = torch.where(tie, 0, entered / head.explained)
    passed.index_add_(0, rows, (head.relevance * factor[:, None]).to(x))
    absorbed.bias.index_add_(0, rows, (head.absorbed * factor).to(relevance))
    absorbed.zero.index_add_(0, rows, torch.where(tie, entered, 0).to(relevance))
    return [passed], absorbed


@torch.library.custom_op("whycluster::discriminants", mutates_args=())
def discriminants(x: Tensor, buffers: Sequence[Tensor], kind: str, names: str, n_clusters: int) -> Tensor:
    """Computes discriminants `(N, K)` of features `(N, D)` by the head that has these buffers."""
    return Head.of(kind, n_clusters, dict(zip(names.split(), buffers, strict=True))).forward(x)


@discriminants.register_fake
def _(x: Tensor, buffers: Sequence[Tensor], kind: str, names: str, n_clusters: int) -> Tensor:
    return x.new_empty(x.shape[0], n_clusters)  # `len` would fix the batch


def _step(call: Call) -> Step:
    x, buffers, kind, names, n_clusters = call.args

    def make(value: Values) -> LinearMap:
        tensors = dict(zip(names.split(), value(buffers), strict=True))
        return ClusterLayer(Head.of(kind, n_clusters, tensors))

    return LinearStep(ClusterLayer, make, [x], buffers)


REGISTERED[torch.ops.whycluster.discriminants] = _step
REDISTRIBUTIONS[Zero] = REDISTRIBUTIONS[Midpoint] = redistribute_head
