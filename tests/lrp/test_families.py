"""Every family of torchvision's CNNs against a restatement in matrices, in float64; `test_attention` has the others.

The networks are torchvision's own classes with few channels, so that the Jacobian of each single node fits in memory.
The restatement walks the graph that torch's own conv-norm fusion leaves, one image at a time, and knows no
convolutions: of each node it only sees the matrix `w` and the rest `b` of `z = w·x + b`.
"""

import copy
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from families import FAMILIES
from networks import randomized
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F
from torchvision.ops import stochastic_depth

from whycluster.lrp import LRP, Composite, Gamma, TokenLinear, named_composite

LOW, HIGH = -2.0, 2.5
EPS = 1e-6
GAMMA = 0.25


# The restatement. `w` is (outputs, inputs), `b` (outputs,), `x` (inputs,), `r` (outputs,).


def share(parts: Tensor, rest: Tensor, r: Tensor) -> Tensor:
    """`parts` is (outputs, inputs): what each input contributes to each output."""
    total = parts.sum(1) + rest
    total = total + torch.where(total < 0, -EPS, EPS)
    return (r / total) @ parts


def epsilon(w: Tensor, b: Tensor, x: Tensor, r: Tensor) -> Tensor:
    return share(w * x, b, r)


def z_plus(w: Tensor, b: Tensor, x: Tensor, r: Tensor) -> Tensor:
    return share((w * x).clamp(min=0), b.clamp(min=0), r)


def alpha2_beta1(w: Tensor, b: Tensor, x: Tensor, r: Tensor) -> Tensor:
    return share((w * x).clamp(min=0), b.clamp(min=0), 2 * r) + share((w * x).clamp(max=0), b.clamp(max=0), -r)


def gamma(w: Tensor, b: Tensor, x: Tensor, r: Tensor, more: float = GAMMA) -> Tensor:
    c, z = w * x, w @ x + b
    risen = share(c + more * c.clamp(min=0), b + more * b.clamp(min=0), r * (z > 0))
    return risen + share(c + more * c.clamp(max=0), b + more * b.clamp(max=0), r * (z < 0))


def box(w: Tensor, b: Tensor, x: Tensor, r: Tensor) -> Tensor:
    return share(w * x - LOW * w.clamp(min=0) - HIGH * w.clamp(max=0), torch.zeros_like(b), r)


def flat(w: Tensor, b: Tensor, x: Tensor, r: Tensor) -> Tensor:
    return share((w != 0).double(), torch.zeros_like(b), r)


RULES = {  # of the first convolution, and of the others
    "epsilon_gamma_box": (box, gamma),
    "epsilon_plus_flat": (flat, z_plus),
    "epsilon_alpha2_beta1": (alpha2_beta1, alpha2_beta1),
    "epsilon_plus": (z_plus, z_plus),
}
TOKENS = 0.05
BENT = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid, F.relu, F.hardtanh, F.relu6)
NOTHING = (nn.Dropout, F.dropout, stochastic_depth, "contiguous")
MEANS = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, F.avg_pool2d, F.adaptive_avg_pool2d, "mean")


def matrix(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """`w` (outputs, inputs) and `b` (outputs,) of a function that is linear around `x`."""
    w = torch.autograd.functional.jacobian(function, x, vectorize=True).reshape(-1, x.numel())
    return w, function(x).flatten() - w @ x.flatten()


def centred(x: Tensor, shape: tuple[int, ...], weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """A layer norm whose deviation is a constant."""
    deviation = (x.detach().var(-1, correction=0, keepdim=True) + eps).sqrt()
    return (x - x.mean(-1, keepdim=True)) / deviation * weight + bias


class Restated(fx.Interpreter):
    """Relevance of one image, from `r` at the output."""

    def __init__(self, network: nn.Module, composite: str, residual: str) -> None:
        super().__init__(fuse(copy.deepcopy(network).eval()))
        self.first, self.others = RULES[composite]
        self.residual = residual
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, node: fx.Node) -> Any:
        self.values[node] = super().run_node(node)
        return self.values[node]

    @torch.no_grad()
    def relevance(self, image: Tensor, r: Tensor) -> Tensor:
        output = self.run(image)
        *nodes, end = self.module.graph.nodes
        arrived: dict[fx.Node, Any] = {end.args[0]: r.reshape(output.shape)}
        first = next(node for node in nodes if self.kind(node) is nn.Conv2d)
        for node in reversed(nodes[1:]):
            if node not in arrived:
                continue
            for source, part in self.passed(node, arrived.pop(node), node is first):
                arrived[source] = arrived[source] + part if source in arrived else part
        return arrived[nodes[0]]

    def kind(self, node: fx.Node) -> Any:
        return type(self.fetch_attr(str(node.target))) if node.op == "call_module" else node.target

    def passed(self, node: fx.Node, r: Tensor, first: bool) -> list[tuple[fx.Node, Tensor]]:
        kind, sources = self.kind(node), [n for n in node.all_input_nodes if isinstance(self.values[n], Tensor | tuple)]
        x = self.values[sources[0]]
        by = partial(self.by, node, sources[0], r)
        if kind is nn.Conv2d:
            return by(self.first if first else self.others)
        if kind is nn.Linear and x.ndim > 2:
            return by(partial(gamma, more=TOKENS))
        if kind in (nn.Linear, nn.BatchNorm2d, nn.LayerNorm, F.layer_norm, *MEANS):
            return by(epsilon)
        if kind in BENT or kind in NOTHING:
            return [(sources[0], r)]
        if kind is operator.add:
            one, other = (self.values[n].abs() if self.residual == "ratio" else self.values[n] for n in sources)
            total = one + other
            q = r / (total + torch.where(total < 0, -EPS, EPS))
            return [(sources[0], one * q), (sources[1], other * q)]
        if kind is operator.mul:  # the gate is the constant, or the one that is spread over all places
            gates = [n for n in sources if n.op == "get_attr" or self.values[n].numel() < r.numel()]
            assert len(gates) == 1
            return [(n, r) for n in sources if n not in gates]
        if kind is operator.getitem and isinstance(x, tuple):  # of the parts that `chunk` hands out
            [[whole]] = [sources[0].all_input_nodes]
            parts = [r if at == node.args[1] else torch.zeros_like(part) for at, part in enumerate(x)]
            return [(whole, torch.cat(parts, sources[0].kwargs["dim"]))]
        return [moved for source in sources for moved in self.by(node, source, r, lambda w, b, x, r: r @ w)]

    def by(
        self, node: fx.Node, source: fx.Node, r: Tensor, rule: Callable[..., Tensor]
    ) -> list[tuple[fx.Node, Tensor]]:
        """A rule that sees the node as matrix and rest."""
        x = self.values[source]
        w, b = matrix(lambda x: self.compute(node, source, x), x)
        return [(source, rule(w, b, x.flatten(), r.flatten()).reshape(x.shape))]

    @torch.enable_grad()
    def compute(self, node: fx.Node, source: fx.Node, x: Tensor) -> Tensor:
        """What a node makes of another value of one of its sources."""
        values = {**self.values, source: x}
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        if node.target is F.layer_norm:
            return centred(*args, **kwargs)
        if self.kind(node) is nn.LayerNorm:
            norm = self.fetch_attr(str(node.target))
            return centred(*args, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return (self.fetch_attr(str(node.target)) if node.op == "call_module" else node.target)(*args, **kwargs)


@pytest.mark.parametrize(("composite", "residual"), list(zip(RULES, ["norm", "ratio", "ratio", "norm"], strict=True)))
@pytest.mark.parametrize("family", FAMILIES)
def test_relevance_is_that_of_the_matrices(family: str, composite: str, residual: str) -> None:
    build, size = FAMILIES[family]
    torch.manual_seed(0)
    network = randomized(build()).double().eval()
    images = LOW + (HIGH - LOW) * torch.rand(2, 3, size, size, dtype=torch.float64)
    rows = [(TokenLinear, Gamma(TOKENS)), *named_composite(composite, LOW, HIGH, residual).rows]
    lrp = LRP(network, Composite(rows))
    weights = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    output, relevance = lrp(images, lambda output: output * weights)
    torch.testing.assert_close(output, network(images).detach(), rtol=1e-9, atol=1e-12)
    expected = Restated(network, composite, residual).relevance(images[1:], output[1] * weights)
    assert (relevance[1] - expected[0]).abs().max() <= 1e-8 * expected.abs().max()
