"""Every family of torchvision's CNNs against a restatement in matrices, in float64.

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
from networks import Block, randomized
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F
from torchvision.models import (
    convnext,
    densenet,
    efficientnet,
    inception,
    mnasnet,
    mobilenetv2,
    mobilenetv3,
    regnet,
    resnet,
    shufflenetv2,
    squeezenet,
)
from torchvision.models.googlenet import Inception as GoogLeNetInception
from torchvision.ops import stochastic_depth

from whycluster.lrp import LRP, named_composite

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


def gamma(w: Tensor, b: Tensor, x: Tensor, r: Tensor) -> Tensor:
    c, z = w * x, w @ x + b
    risen = share(c + GAMMA * c.clamp(min=0), b + GAMMA * b.clamp(min=0), r * (z > 0))
    return risen + share(c + GAMMA * c.clamp(max=0), b + GAMMA * b.clamp(max=0), r * (z < 0))


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
WHOLE = (nn.Conv2d, nn.Linear)
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


# The families, narrow.


def headed(*body: nn.Module, channels: int, size: int = 1) -> nn.Module:
    """A body with what makes it a network: a convolution before it, classes after it."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), *body, nn.AdaptiveAvgPool2d(size), nn.Flatten(), nn.Linear(channels, 3)
    )


def narrow_mobilenet_v3() -> nn.Module:
    rows = [(8, 3, 12, 8, True, "RE", 1, 1), (8, 5, 12, 8, True, "HS", 2, 1), (8, 3, 16, 8, False, "HS", 1, 2)]
    settings = [mobilenetv3.InvertedResidualConfig(*row, 1.0) for row in rows]
    return mobilenetv3.MobileNetV3(settings, last_channel=8, num_classes=3)


def narrow_efficientnet() -> nn.Module:
    settings = [
        efficientnet.FusedMBConvConfig(2, 3, 1, 8, 8, 1),
        efficientnet.FusedMBConvConfig(1, 3, 2, 8, 8, 2),
        efficientnet.MBConvConfig(2, 3, 2, 8, 8, 2),
    ]
    return efficientnet.EfficientNet(settings, dropout=0.1, num_classes=3, last_channel=8)


def narrow_convnext() -> nn.Module:
    settings = [convnext.CNBlockConfig(4, 6, 1), convnext.CNBlockConfig(6, None, 1)]
    return convnext.ConvNeXt(settings, num_classes=3)


def narrow_regnet() -> nn.Module:
    return regnet.RegNet(
        regnet.BlockParams([1, 2], [8, 8], [4, 4], [1.0, 2.0], [2, 1], 0.25), num_classes=3, stem_width=4
    )


def thin(inputs: int, outputs: int, **settings: Any) -> nn.Module:
    """A convolution of Inception v3 with a 16th of its channels."""
    return inception.BasicConv2d(inputs if inputs == 4 else inputs // 16, outputs // 16, **settings)


def wide_block(**settings: Any) -> nn.Module:
    down = nn.Sequential(nn.Conv2d(4, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
    return headed(resnet.Bottleneck(4, 4, 2, down, **settings), channels=16)


FAMILIES: dict[str, tuple[Callable[[], nn.Module], int]] = {  # and the size of its images
    "resnet": (lambda: headed(resnet.BasicBlock(4, 4), resnet.BasicBlock(4, 4), channels=4), 8),
    "resnet, bottleneck": (wide_block, 8),
    "resnext": (lambda: wide_block(groups=2, base_width=64), 8),
    "wide_resnet": (lambda: wide_block(base_width=128), 8),
    "resnet of cifar": (lambda: headed(Block(4, 4, 1), Block(4, 8, 2), channels=8), 9),
    "densenet": (lambda: densenet.DenseNet(2, (2, 2), 4, 2, num_classes=3), 32),
    "googlenet": (
        lambda: headed(GoogLeNetInception(4, 2, 2, 3, 2, 2, 2), nn.MaxPool2d(3, 2, ceil_mode=True), channels=9),
        9,
    ),
    "inception a": (lambda: headed(inception.InceptionA(4, 16, thin), channels=15), 8),
    "inception b": (lambda: headed(inception.InceptionB(4, thin), channels=34), 8),
    "inception c": (lambda: headed(inception.InceptionC(4, 128, thin), channels=48), 8),
    "inception d": (lambda: headed(inception.InceptionD(4, thin), channels=36), 8),
    "inception e": (lambda: headed(inception.InceptionE(4, thin), channels=128), 6),
    "mnasnet": (lambda: headed(mnasnet._InvertedResidual(4, 4, 5, 1, 2), channels=4), 8),
    "mobilenet_v2": (lambda: mobilenetv2.MobileNetV2(3, 0.1, [[1, 4, 1, 1], [2, 4, 2, 2]], 4), 8),
    "mobilenet_v3": (narrow_mobilenet_v3, 8),
    "shufflenet": (
        lambda: headed(shufflenetv2.InvertedResidual(4, 8, 2), shufflenetv2.InvertedResidual(8, 8, 1), channels=8),
        8,
    ),
    "regnet": (narrow_regnet, 8),
    "efficientnet": (narrow_efficientnet, 20),
    "convnext": (narrow_convnext, 16),
    "squeezenet": (lambda: headed(squeezenet.Fire(4, 2, 3, 3), nn.MaxPool2d(3, 2, ceil_mode=True), channels=6), 9),
}


@pytest.mark.parametrize("residual", ["norm", "ratio"])
@pytest.mark.parametrize("composite", RULES)
@pytest.mark.parametrize("family", FAMILIES)
def test_relevance_is_that_of_the_matrices(family: str, composite: str, residual: str) -> None:
    build, size = FAMILIES[family]
    torch.manual_seed(0)
    network = randomized(build()).double().eval()
    images = LOW + (HIGH - LOW) * torch.rand(2, 3, size, size, dtype=torch.float64)
    lrp = LRP(network, named_composite(composite, LOW, HIGH, residual))
    weights = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    output, relevance = lrp(images, lambda output: output * weights)
    torch.testing.assert_close(output, network(images).detach(), rtol=1e-9, atol=1e-12)
    restated = Restated(network, composite, residual)
    for n in range(2):
        expected = restated.relevance(images[n : n + 1], output[n] * weights)
        assert (relevance[n] - expected[0]).abs().max() <= 1e-8 * expected.abs().max()
