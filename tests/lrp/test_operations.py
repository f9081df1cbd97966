"""Each kind of operation in a tiny network, against gradients of a network whose gates and deviations are constants.

With LRP-0 everywhere, what enters as `z·q` arrives as `x·∂(q·f)/∂x`, where `f` computes what the network does, its bent
functions are written as `h·(b(h)/h)` with a constant factor, and gates, deviations and softmaxed attention are
constants (Ali et al., arXiv 2202.07304). For linear maps `f` is the network, and the gradient its transposed matrix.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torchvision.ops import FrozenBatchNorm2d, SqueezeExcitation, StochasticDepth

from whycluster.lrp import LRP, Composite, Epsilon, ForwardCache, LinearMap, Receipt

Compute = Callable[[Any, Tensor], Tensor]
ZERO = Composite([(LinearMap, Epsilon(0.0))])


class Case(NamedTuple):
    """A network, the same with constants in it where it is not linear, its layers, and the shape of an image."""

    compute: Compute
    restated: Compute | None = None
    layers: Callable[[], dict[str, nn.Module]] = dict
    shape: tuple[int, ...] = (3, 4, 4)


def of_layer(build: Callable[[], nn.Module], *shape: int) -> Case:
    return Case(lambda net, x: net.layer(x), None, lambda: {"layer": build()}, shape or (3, 4, 4))


def of_map(change: Callable[[Tensor], Tensor], *shape: int) -> Case:
    """A linear map, or a move, of what a convolution made."""
    return Case(lambda net, x: change(net.conv(x)), None, dict, shape or (3, 4, 4))


def of_bend(bend: Callable[[Tensor], Tensor]) -> Case:
    """A function of single units."""
    return Case(lambda net, x: bend(net.conv(x)), lambda net, x: bent(bend, net.conv(x)))


def bent(bend: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    return h * (bend(h) / h).detach()


def normed(x: Tensor, dims: Any, eps: float) -> Tensor:
    """Centred, and divided by a constant deviation."""
    return (x - x.mean(dims, keepdim=True)) / (x.detach().var(dims, correction=0, keepdim=True) + eps).sqrt()


def along(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1)


MATRIX = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
ORDER = torch.tensor([2, 0, 1, 1])
MASK = torch.tensor([[True, False, True, True]] * 4)

LINEAR: dict[str, Case] = {
    "convolution in one dimension": of_layer(lambda: nn.Conv1d(3, 4, 3, 2, 1, dilation=2), 3, 9),
    "convolution in three": of_layer(lambda: nn.Conv3d(2, 4, (1, 2, 3), groups=2), 2, 2, 3, 4),
    "convolution, dilated groups": of_layer(lambda: nn.Conv2d(4, 6, 3, (2, 1), 2, (1, 2), groups=2), 4, 6, 5),
    "convolution, same": of_layer(lambda: nn.Conv2d(3, 4, 3, padding="same", dilation=2)),
    "convolution, unevenly same": of_layer(lambda: nn.Conv2d(3, 4, (2, 4), padding="same")),
    "convolution, unevenly same, dilated": of_layer(lambda: nn.Conv2d(3, 4, (3, 2), padding="same", dilation=(1, 3))),
    "convolution in one dimension, unevenly same": of_layer(lambda: nn.Conv1d(3, 4, 4, padding="same"), 3, 7),
    "convolution, valid": of_layer(lambda: nn.Conv2d(3, 4, 3, padding="valid", bias=False)),
    "convolution padded by reflection": of_layer(lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")),
    "convolution padded in circles": of_layer(lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")),
    "convolution padded by copies": of_layer(lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="replicate")),
    "transposed in one dimension": of_layer(lambda: nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, groups=2), 4, 5),
    "transposed": of_layer(lambda: nn.ConvTranspose2d(4, 6, 3, (2, 3), 1, (1, 0), groups=2), 4, 3, 4),
    "transposed, dilated": of_layer(lambda: nn.ConvTranspose2d(3, 4, 2, dilation=2, bias=False)),
    "transposed in three": of_layer(lambda: nn.ConvTranspose3d(2, 3, 2, 2), 2, 2, 3, 2),
    "weight norm": of_layer(lambda: weight_norm(nn.Conv2d(3, 4, 3))),
    "spectral norm": of_layer(lambda: spectral_norm(nn.Linear(4, 2))),
    "linear": of_layer(lambda: nn.Linear(5, 4), 5),
    "linear without bias on tokens": of_layer(lambda: nn.Linear(4, 5, bias=False)),
    "linear as a function": Case(lambda net, x: F.linear(net.conv(x), MATRIX, MATRIX[0])),
    "addmm": of_map(lambda h: torch.addmm(MATRIX[1], h.flatten(1)[:, :4], MATRIX)),
    "product with a matrix on the right": of_map(lambda h: h @ MATRIX),
    "product with a matrix on the left": of_map(lambda h: MATRIX @ h),
    "product of two dimensions": of_map(lambda h: h.flatten(1)[:, :4].mm(MATRIX)),
    "product with a vector": of_map(lambda h: h @ MATRIX[0]),
    "product with matrices of each channel": of_map(lambda h: h @ (MATRIX[:, :, None] * MATRIX)),
    "einsum": of_map(lambda h: torch.einsum("nchw,cd->ndhw", h, MATRIX)),
    "einsum on the left": of_map(lambda h: torch.einsum("vh,nchw->ncvw", MATRIX, h)),
    "tensordot": of_map(lambda h: torch.tensordot(h, MATRIX, dims=([1], [0]))),
    "bmm": Case(lambda net, x: net.conv(x).flatten(2).bmm(MATRIX.repeat(1, 4).T.expand(x.shape[0], 16, 4))),
    "batch norm": Case(lambda net, x: net.norm(net.conv(x).relu()), None, lambda: {"norm": nn.BatchNorm2d(4)}),
    "batch norm without scale": Case(
        lambda net, x: net.norm(net.conv(x).relu()), None, lambda: {"norm": nn.BatchNorm2d(4, affine=False)}
    ),
    "batch norm folded": Case(lambda net, x: net.norm(net.conv(x)), None, lambda: {"norm": nn.BatchNorm2d(4)}),
    "batch norm twice": Case(lambda net, x: net.norm(net.norm(net.conv(x))), None, lambda: {"norm": nn.BatchNorm2d(4)}),
    "batch norm of the image": of_layer(lambda: nn.BatchNorm2d(3)),
    "batch norm that is frozen": of_layer(lambda: FrozenBatchNorm2d(3)),
    "batch norm of a layer on tokens": Case(
        lambda net, x: net.norm(net.linear(x)),
        None,
        lambda: {"linear": nn.Linear(4, 3), "norm": nn.BatchNorm1d(3)},
        (3, 4),
    ),
    "instance norm with statistics": of_layer(lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True)),
    "average pooling": of_map(lambda h: F.avg_pool2d(h, 3, 2, 1)),
    "average pooling without the rim": of_map(lambda h: F.avg_pool2d(h, 3, 2, 1, count_include_pad=False)),
    "average pooling in one dimension": of_map(lambda h: F.avg_pool1d(h.flatten(2), 3, 2)),
    "average pooling in three": of_map(lambda h: F.avg_pool3d(h[:, None], 2)),
    "adaptive average pooling": of_map(lambda h: F.adaptive_avg_pool2d(h, (3, 5))),
    "adaptive average pooling in one dimension": of_map(lambda h: F.adaptive_avg_pool1d(h.flatten(2), 5)),
    "adaptive average pooling in three": of_map(lambda h: F.adaptive_avg_pool3d(h[:, None], 3)),
    "mean": of_map(lambda h: h.mean((2, 3))),
    "mean of all": of_map(lambda h: h.mean((1, 2, 3))),
    "sum": of_map(lambda h: h.sum(1, keepdim=True)),
    "cumulated sum": of_map(lambda h: h.cumsum(2)),
    "nearest": of_map(lambda h: F.interpolate(h, scale_factor=2)),
    "nearest in one dimension": of_map(lambda h: F.interpolate(h.flatten(2), 23)),
    "nearest in three": of_map(lambda h: F.interpolate(h[:, None], (5, 4, 6))),
    "linear in one dimension": of_map(lambda h: F.interpolate(h.flatten(2), 7, mode="linear")),
    "bilinear": of_map(lambda h: F.interpolate(h, (7, 3), mode="bilinear", align_corners=True)),
    "bilinear, smoothed": of_map(lambda h: F.interpolate(h, (3, 2), mode="bilinear", antialias=True)),
    "bicubic": of_map(lambda h: F.interpolate(h, (6, 5), mode="bicubic")),
    "bicubic, smoothed": of_map(lambda h: F.interpolate(h, (3, 2), mode="bicubic", antialias=True)),
    "trilinear": of_map(lambda h: F.interpolate(h[:, None], (3, 5, 4), mode="trilinear")),
    "residual": Case(lambda net, x: net.conv(x)[:, :3] + x),
    "residual of one place": Case(lambda net, x: net.conv(x)[:, :3] + x.mean((2, 3), keepdim=True)),
    "difference": Case(lambda net, x: x - net.conv(x)[:, :3]),
    "sum with a factor": Case(lambda net, x: torch.add(x, net.conv(x)[:, :3], alpha=2)),
    "difference with a factor": Case(lambda net, x: torch.sub(x, net.conv(x)[:, :3], alpha=-0.5)),
    "sum in place": Case(lambda net, x: net.conv(x)[:, :3].add_(x)),
    "three summands": Case(lambda net, x: sum((net.conv(x)[:, :3], x, x.flip(1)))),
    "sum with itself": of_map(lambda h: h + h),
    "a constant added": Case(lambda net, x: net.conv(x + net.mean) + 0.5),
    "a constant subtracted": Case(lambda net, x: net.conv(x - net.mean).sub(2)),
    "from a constant": of_map(lambda h: 1 - h),
    "from constants": Case(lambda net, x: net.mean - x),
    "rsub": of_map(lambda h: torch.rsub(h, MATRIX, alpha=2)),
    "a size added": Case(lambda net, x: net.conv(x) + x.shape[1]),
    "normalised inside": Case(lambda net, x: net.conv((x - net.mean) / along(MATRIX[0, :3])) * 3),
    "a layer twice": Case(lambda net, x: net.conv(net.conv(x)[:, :3])),
    "scaled channels": Case(lambda net, x: net.mean * net.conv(x)[:, :3]),
    "negated": of_map(lambda h: -h),
    "halved": of_map(lambda h: h / 2 * -3.0),
    "shrunk by a constant": of_map(lambda h: F.softshrink(h, 0.2)),
    "changed in place": of_map(lambda h: h.mul_(2.0).sub_(0.1).div_(-3.0)),
}
MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "view": lambda h: h.view(h.shape[0], 2, -1),
    "reshape after permute": lambda h: h.permute(0, 3, 1, 2).reshape(h.shape[0], -1),
    "flatten": lambda h: h.flatten(2),
    "unflatten": lambda h: h.unflatten(1, (2, 2)),
    "transpose": lambda h: h.transpose(1, 2).mT,
    "swapaxes": lambda h: h.swapaxes(1, 3).movedim(1, 2),
    "squeeze": lambda h: h[:, :1].squeeze(1).unsqueeze(3),
    "expand": lambda h: h[:, :, :1].expand(-1, -1, 3, -1),
    "expand by a dimension": lambda h: h.unsqueeze(1).expand(h.shape[0], 2, 4, 4, 4),
    "broadcast": lambda h: h[:, :1].broadcast_to(h.shape),
    "repeat": lambda h: h.repeat(1, 2, 1, 3),
    "tile": lambda h: h.tile(1, 1, 2, 1),
    "repeat_interleave": lambda h: h.repeat_interleave(2, 1),
    "slice": lambda h: h[:, 1:, ::2],
    "select": lambda h: h[:, 2, :, -1],
    "narrow": lambda h: h.narrow(2, 1, 2),
    "split": lambda h: h.split([1, 3], 1)[1],
    "chunk": lambda h: torch.cat(h.chunk(2, 3)[::-1], 1),
    "unbind": lambda h: torch.stack(h.unbind(2)[1:], 1),
    "tensor_split": lambda h: h.tensor_split(3, 1)[0],
    "cat": lambda h: torch.cat([h, h.flip(1), h], 2),
    "cat of all": lambda h: torch.cat([h, h + 0], -1),
    "stack": lambda h: torch.stack([h, h.roll(1, 2)], 1),
    "flip": lambda h: h.flip(1, 3),
    "roll": lambda h: h.roll((1, -1), (2, 3)),
    "rot90": lambda h: h.rot90(1, (2, 3)),
    "pixel_shuffle": lambda h: F.pixel_shuffle(h, 2),
    "pixel_unshuffle": lambda h: F.pixel_unshuffle(h, 2),
    "channel_shuffle": lambda h: F.channel_shuffle(h, 2),
    "unfold": lambda h: F.unfold(h, 2, stride=2),
    "unfold of a dimension": lambda h: h.unfold(2, 3, 1),
    "fold": lambda h: F.fold(F.unfold(h, 2), (4, 4), 2),
    "index": lambda h: h[:, ORDER],
    "index_select": lambda h: h.index_select(2, ORDER),
    "index of two dimensions": lambda h: h[:, :, ORDER, ORDER.flip(0)],
    "gather": lambda h: h.gather(3, ORDER.expand_as(h)),
    "masked_fill": lambda h: h.masked_fill(MASK, 2.0),
    "where": lambda h: torch.where(MASK, h, h.flip(1)),
    "where of a constant": lambda h: torch.where(h > 0, h, -0.5),
    "leaky by where": lambda h: torch.where(h > 0, h, 0.1 * h),
    "maximum": lambda h: torch.maximum(h, h.flip(1)),
    "minimum with a constant": lambda h: torch.minimum(h, along(MATRIX[0])),
    "max": lambda h: h.max(1)[0],
    "min": lambda h: h.min(2, keepdim=True).values,
    "max of two": lambda h: torch.max(h, h.flip(2)),
    "amax": lambda h: h.amax((2, 3)) - h.amin((2, 3)),
    "topk": lambda h: h.flatten(1).topk(3)[0],
    "sort": lambda h: h.sort(2)[0],
    "diagonal": lambda h: h.diagonal(dim1=2, dim2=3),
    "max pooling": lambda h: F.max_pool2d(h, 3, 2, 1),
    "max pooling, ceiled": lambda h: F.max_pool2d(h, 3, 2, ceil_mode=True),
    "max pooling with indices": lambda h: F.max_pool2d(h, 2, return_indices=True)[0],
    "max pooling in one dimension": lambda h: F.max_pool1d(h.flatten(2), 3),
    "max pooling in three": lambda h: F.max_pool3d(h[:, None], 2),
    "adaptive max pooling": lambda h: F.adaptive_max_pool2d(h, 3),
    "adaptive max pooling in one dimension": lambda h: F.adaptive_max_pool1d(h.flatten(2), 3),
    "adaptive max pooling in three": lambda h: F.adaptive_max_pool3d(h[:, None], 3),
    "padding": lambda h: F.pad(h, (1, 0, -1, 2)),
    "padding by a constant": lambda h: F.pad(h, (1, 0, 1, 2), value=3.0),
    "padding by reflection": lambda h: F.pad(h, (1, 2, 0, 1), "reflect"),
    "padding by copies": lambda h: F.pad(h, (1, 2, 0, 1), "replicate"),
    "padding by circles": lambda h: F.pad(h, (1, 2, 0, 1), "circular"),
    "padding in one dimension": lambda h: F.pad(F.pad(h.flatten(2), (2, 1), "reflect"), (1, 0), "replicate"),
    "padding in three": lambda h: F.pad(F.pad(h[:, None], (1,) * 6, "reflect"), (1,) * 6, "replicate"),
    "mirrored in place": lambda h: h.copy_(h.flip(1)),
    "a constant written into a part": lambda h: written_into(h, 0.5),
    "a part written over": lambda h: written_into(h, h[:, 1:2] * 2),
    "the same": lambda h: F.dropout(h.to(torch.float64).clone().contiguous().type_as(h), training=False),
    "dropout of channels": lambda h: F.dropout2d(F.alpha_dropout(h, training=False), training=False),
    "as_strided": lambda h: h.contiguous().as_strided((h.shape[0], 4, 4), (64, 16, 5)),
}
BENT: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu in place": lambda h: F.relu(h, True),
    "relu6": F.relu6,
    "hardtanh": lambda h: F.hardtanh(h, -0.5, 0.8),
    "clamp": lambda h: h.clamp(-0.3, 0.7),
    "clamp_min": lambda h: h.clamp_min(-0.2),
    "clamp_max": lambda h: h.clamp(max=0.3).clamp_max(0.2),
    "clip at zero": lambda h: torch.clip(h, 0),
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "sine": torch.sin,
    "cosine": torch.cos,
    "softplus": F.softplus,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "square": torch.square,
    "power": lambda h: h**3,
    "power of a number": lambda h: 2**h,
    "root": lambda h: (h.abs() + 0).sqrt(),
    "logarithm": lambda h: h.abs().log1p(),
    "gelu": F.gelu,
    "gelu by tanh": lambda h: F.gelu(h, approximate="tanh"),
    "silu": F.silu,
    "hardswish": F.hardswish,
    "mish": F.mish,
    "elu": lambda h: F.elu(h, 2.0),
    "selu": F.selu,
    "celu": F.celu,
    "leaky_relu": lambda h: F.leaky_relu_(h.clone(), 0.1),
    "prelu": lambda h: F.prelu(h, MATRIX[0].abs()),
    "rrelu": F.rrelu,
    "softsign": F.softsign,
    "logsigmoid": F.logsigmoid,
    "threshold": lambda h: F.threshold(h, 0.2, 0.1),
    "hardshrink": lambda h: F.hardshrink(h, 0.2),
    "tanhshrink": F.tanhshrink,
    "log_softmax": lambda h: F.log_softmax(h, 1),
    "squared by itself": lambda h: h * h,
    "gelu by hand": lambda h: 0.5 * h * (1 + torch.erf(h / math.sqrt(2))),
    "gelu by tanh by hand": lambda h: 0.5 * h * (1.0 + torch.tanh(0.7978845608 * (h + 0.044715 * torch.pow(h, 3.0)))),
    "quick gelu": lambda h: h * torch.sigmoid(1.702 * h),
    "silu by hand": lambda h: h * torch.sigmoid(h),
    "silu by hand, turned": lambda h: torch.sigmoid(h).mul(h),
    "mish by hand": lambda h: h * torch.tanh(F.softplus(h)),
    "h-swish by hand": lambda h: h * (F.relu6(h + 3) / 6),
    "h-swish by hand, divided last": lambda h: h * F.relu6(h + 3) / 6,
    "h-swish of a module": lambda h: h * F.hardtanh(h + 3, 0.0, 6.0).div(6.0),
    "softsign by hand": lambda h: h / (1 + h.abs()),
    "a bend by a number": lambda h: 1.7159 * torch.tanh(h),
}


def written_into(h: Tensor, value: Any) -> Tensor:
    h = h.clone()
    h[:, :1, 1:] = value if isinstance(value, float) else value[:, :, 1:]
    return h


def part_bent_in_place(net: Any, x: Tensor) -> Tensor:
    h = net.conv(x)
    h[:, :2].relu_()
    return h


def part_bent(net: Any, x: Tensor) -> Tensor:
    h = net.conv(x)
    return torch.cat([h[:, :2].relu(), h[:, 2:]], 1)


def in_place_for_a_bystander(net: Any, x: Tensor) -> Tensor:
    h = net.conv(x)
    F.relu_(h)  # what it returns is not used, and h has changed
    return h * 2


def aliased(net: Any, x: Tensor) -> Tensor:
    h = net.conv(x)
    skip = F.dropout(h, training=False)  # the same memory
    return F.relu(skip, inplace=True) + h


def rms(x: Tensor, eps: float) -> Tensor:
    return x / (x.detach().square().mean(-1, keepdim=True) + eps).sqrt()


def half_each(a: Tensor, b: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    return (product(a, b.detach()) + product(a.detach(), b)) / 2


def excited(net: Any, x: Tensor) -> Tensor:
    h = net.conv(x)
    return h * net.layer._scale(h).detach()


OTHERS: dict[str, Case] = {
    "activation of a part in place": Case(part_bent_in_place, part_bent),
    "activation of what nobody takes": Case(in_place_for_a_bystander, lambda net, x: net.conv(x).relu() * 2),
    "activation in place under another name": Case(aliased, lambda net, x: net.conv(x).relu() * 2),
    "layer norm": Case(
        lambda net, x: net.layer(net.conv(x)),
        lambda net, x: normed(net.conv(x), (2, 3), 1e-5) * net.layer.weight + net.layer.bias,
        lambda: {"layer": nn.LayerNorm((4, 4))},
    ),
    "layer norm without scale": Case(
        lambda net, x: F.layer_norm(net.conv(x), (4,), eps=1e-2), lambda net, x: normed(net.conv(x), -1, 1e-2)
    ),
    "layer norm of channels": Case(
        lambda net, x: net.layer(net.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        lambda net, x: normed(net.conv(x), 1, 1e-5) * along(net.layer.weight) + along(net.layer.bias),
        lambda: {"layer": nn.LayerNorm(4)},
    ),
    "group norm": Case(
        lambda net, x: net.layer(net.conv(x)),
        lambda net, x: (
            normed(net.conv(x).unflatten(1, (2, 2)), (2, 3, 4), 1e-5).flatten(1, 2) * along(net.layer.weight)
            + along(net.layer.bias)
        ),
        lambda: {"layer": nn.GroupNorm(2, 4)},
    ),
    "instance norm": Case(
        lambda net, x: net.layer(net.conv(x)),
        lambda net, x: normed(net.conv(x), (2, 3), 1e-5) * along(net.layer.weight) + along(net.layer.bias),
        lambda: {"layer": nn.InstanceNorm2d(4, affine=True)},
    ),
    "instance norm without scale": Case(
        lambda net, x: F.instance_norm(net.conv(x), eps=1e-3), lambda net, x: normed(net.conv(x), (2, 3), 1e-3)
    ),
    "rms norm": Case(
        lambda net, x: net.layer(net.conv(x)),
        lambda net, x: rms(net.conv(x), 1e-3) * net.layer.weight,
        lambda: {"layer": nn.RMSNorm(4, 1e-3)},
    ),
    "rms norm by hand": Case(
        lambda net, x: (lambda h: h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-3))(net.conv(x)),
        lambda net, x: rms(net.conv(x), 1e-3),
    ),
    "layer norm by hand": Case(
        lambda net, x: (lambda h: (h - h.mean(1, True)) / torch.sqrt(h.var(1, correction=0, keepdim=True) + 1e-3))(
            net.conv(x)
        ),
        lambda net, x: normed(net.conv(x), 1, 1e-3),
    ),
    "normalised length": Case(
        lambda net, x: F.normalize(net.conv(x), dim=1),
        lambda net, x: (lambda h: h / h.detach().norm(dim=1, keepdim=True))(net.conv(x)),
    ),
    "normalised length by hand": Case(
        lambda net, x: (lambda h: h / h.norm(dim=-1, keepdim=True))(net.conv(x)),
        lambda net, x: (lambda h: h / h.detach().norm(dim=-1, keepdim=True))(net.conv(x)),
    ),
    "standardised": Case(
        lambda net, x: (lambda h: (h - h.mean((2, 3), True)) / h.std((2, 3), keepdim=True))(net.conv(x)),
        lambda net, x: (lambda h: (h - h.mean((2, 3), True)) / h.detach().std((2, 3), keepdim=True))(net.conv(x)),
    ),
    "gated linear unit": Case(
        lambda net, x: F.glu(net.conv(x), 1),
        lambda net, x: (lambda h: h[:, :2] * h[:, 2:].detach().sigmoid())(net.conv(x)),
    ),
    "swiglu": Case(
        lambda net, x: (lambda h: F.silu(h[:, :2]) * h[:, 2:])(net.conv(x)),
        lambda net, x: (lambda h: F.silu(h[:, :2]).detach() * h[:, 2:])(net.conv(x)),
    ),
    "simple gate": Case(
        lambda net, x: (lambda a, b: a * b)(*net.conv(x).chunk(2, 1)),
        lambda net, x: half_each(*net.conv(x).chunk(2, 1), torch.mul),
    ),
    "two bends": Case(
        lambda net, x: (lambda h: h.tanh() * h.flip(1).sigmoid())(net.conv(x)),
        lambda net, x: (lambda h: half_each(bent(torch.tanh, h), bent(torch.sigmoid, h.flip(1)), torch.mul))(
            net.conv(x)
        ),
    ),
    "squeeze and excitation": Case(
        lambda net, x: net.layer(net.conv(x)), excited, lambda: {"layer": SqueezeExcitation(4, 2)}
    ),
    "squeeze and excitation, hard": Case(
        lambda net, x: net.layer(net.conv(x)),
        excited,
        lambda: {"layer": SqueezeExcitation(4, 2, scale_activation=nn.Hardsigmoid)},
    ),
    "a gate plus one": Case(
        lambda net, x: (lambda h: h.relu() * (1 + h.flip(1).tanh() / 2))(net.conv(x)),
        lambda net, x: (lambda h: h.relu() * (1 + h.flip(1).tanh() / 2).detach())(net.conv(x)),
    ),
    "a gate of unknown operations": Case(
        lambda net, x: (lambda h: h * torch.sigmoid(torch.fft.rfft(h).abs().amax((2, 3), True)))(net.conv(x)),
        lambda net, x: (lambda h: h * torch.sigmoid(torch.fft.rfft(h).abs().amax((2, 3), True)).detach())(net.conv(x)),
    ),
    "softmaxed weights": Case(
        lambda net, x: (lambda h: (h.softmax(1) * h.flip(2)).sum(1))(net.conv(x)),
        lambda net, x: (lambda h: (h.softmax(1).detach() * h.flip(2)).sum(1))(net.conv(x)),
    ),
    "layer scale": Case(lambda net, x: x + net.conv(x)[:, :3] * net.mean * 1e-2),
    "stochastic depth": Case(
        lambda net, x: x + net.layer(net.conv(x)[:, :3]), None, lambda: {"layer": StochasticDepth(0.5, "row")}
    ),
    "divided by a value": Case(
        lambda net, x: (lambda h: h / (h.square().sum(1, keepdim=True) + 1))(net.conv(x)),
        lambda net, x: (lambda h: h / (h.square().sum(1, keepdim=True) + 1).detach())(net.conv(x)),
    ),
    "a product of computed matrices": Case(
        lambda net, x: (lambda h: h @ h.mT)(net.conv(x)),
        lambda net, x: (lambda h: half_each(h, h.mT, torch.matmul))(net.conv(x)),
    ),
    "a product of computed matrices, broadcast": Case(
        lambda net, x: (lambda h: h[:, :1] @ h.tanh())(net.conv(x)),
        lambda net, x: (lambda h: half_each(h[:, :1], bent(torch.tanh, h), torch.matmul))(net.conv(x)),
    ),
    "an einsum of computed matrices": Case(
        lambda net, x: (lambda h: torch.einsum("nchw,ndhw->ncd", h, h.flip(2)))(net.conv(x)),
        lambda net, x: (lambda h: half_each(h, h.flip(2), lambda a, b: a.flatten(2) @ b.flatten(2).mT))(net.conv(x)),
    ),
    "the image multiplied with itself": Case(
        lambda net, x: net.conv(x)[:, :3] * x, lambda net, x: half_each(net.conv(x)[:, :3], x, torch.mul)
    ),
    "what nobody reads": Case(lambda net, x: (net.conv(x), torch.fft.fft(net.conv(x)))[0]),
}


def token_layers() -> dict[str, nn.Module]:
    return {"embed": nn.Linear(4, 6), "hidden": nn.Linear(6, 6), "out": nn.Linear(6, 2)}


def tokens_first(net: Any, x: Tensor) -> Tensor:
    t = net.embed(x.permute(1, 0, 2))  # (T, N, C)
    return net.out((t + net.hidden(t).relu()).mean(0))


def one_token(net: Any, x: Tensor) -> Tensor:
    return net.out(net.hidden(net.embed(x.transpose(0, 1))).relu()[1])


def merged(net: Any, x: Tensor) -> Tensor:
    t = net.hidden(net.embed(x.reshape(-1, 4)).relu())  # rows of an image follow each other
    return net.out(t.reshape(-1, 3, 6)).mean(1)


def merged_tokens_first(net: Any, x: Tensor) -> Tensor:
    t = net.hidden(net.embed(x.permute(1, 0, 2).reshape(-1, 4)).relu())  # rows of a token do
    return net.out(t.reshape(3, -1, 6)).mean(0)


def merged_and_moved(net: Any, x: Tensor) -> Tensor:
    t = net.embed(x.permute(1, 0, 2)).flatten(0, 1).T.contiguous()  # (C, T·N)
    return net.out(net.hidden(t.mT).relu().unflatten(0, (3, x.shape[0])).permute(1, 0, 2)).sum(1)


def merged_channels(net: Any, x: Tensor) -> Tensor:
    t = net.embed(x).permute(2, 0, 1).reshape(6, -1)  # (C, N·T)
    return net.out(net.hidden(t.mT).reshape(-1, 3, 6).relu())[:, 0]


def pixels_first(net: Any, x: Tensor) -> Tensor:
    return net.conv(x.permute(1, 0, 2, 3).transpose(0, 1)).permute(2, 3, 0, 1).relu().mean((0, 1))


def windows(net: Any, x: Tensor) -> Tensor:
    n, _, h, w = x.shape
    parts = net.conv(x).view(n, 4, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, 4)  # (N · windows, places, C)
    parts = net.embed(parts).relu()
    return net.out(parts.view(n, 2, 2, 2, 2, 6).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, 6)).mean((1, 2))


def class_token(net: Any, x: Tensor) -> Tensor:
    token = net.mean.reshape(1, 1, 3).expand(x.shape[0], -1, -1)
    t = torch.cat([token, x.flatten(2).mT], 1) + net.mean.flatten()
    return net.layer(t).relu()[:, :2]


def attending(net: Any, x: Tensor) -> Tensor:
    t = net.embed(x.permute(1, 0, 2))
    return net.out(net.attention(t, t, t, need_weights=False)[0][0])


def attended(net: Any, x: Tensor) -> Tensor:
    """Attention of two heads with constant weights."""
    t, a = net.embed(x), net.attention  # (N, T, C)
    q, k, v = F.linear(t, a.in_proj_weight, a.in_proj_bias).unflatten(2, (3, 2, 3)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.mT / math.sqrt(3)).softmax(-1).detach()
    return net.out(a.out_proj((weights @ v).transpose(1, 2).flatten(2))[:, 0])


def causal(net: Any, x: Tensor) -> Tensor:
    t = net.embed(x)[:, None]
    return net.out(F.scaled_dot_product_attention(t, t.flip(2), net.hidden(t), is_causal=True)[:, 0, 1])


def causally_attended(net: Any, x: Tensor) -> Tensor:
    t = net.embed(x)
    scores = (t @ t.flip(1).mT / math.sqrt(6)).masked_fill(torch.ones(3, 3).triu(1).bool(), -math.inf)
    return net.out((scores.softmax(-1).detach() @ net.hidden(t))[:, 1])


def attention_layers(first: bool) -> Callable[[], dict[str, nn.Module]]:
    return lambda: {**token_layers(), "attention": nn.MultiheadAttention(6, 2, batch_first=first)}


BATCHES: dict[str, Case] = {
    "tokens before images": Case(tokens_first, None, token_layers, (5, 4)),
    "as many tokens as images, first": Case(tokens_first, None, token_layers, (3, 4)),
    "one token of those before images": Case(one_token, None, token_layers, (3, 4)),
    "images and tokens merged": Case(merged, None, token_layers, (3, 4)),
    "tokens and images merged": Case(merged_tokens_first, None, token_layers, (3, 4)),
    "tokens and images merged and moved": Case(merged_and_moved, None, token_layers, (3, 4)),
    "images and tokens merged behind channels": Case(merged_channels, None, token_layers, (3, 4)),
    "places before images": Case(pixels_first),
    "windows": Case(windows, None, token_layers),
    "class token": Case(class_token, None, lambda: {"layer": nn.Linear(3, 5)}),
    "attention, tokens first": Case(attending, attended, attention_layers(False), (3, 4)),
    "attention, tokens first, two of them": Case(attending, attended, attention_layers(False), (2, 4)),
    "attention, images first": Case(
        lambda net, x: (lambda t: net.out(net.attention(t, t, t)[0][:, 0]))(net.embed(x)),
        attended,
        attention_layers(True),
        (3, 4),
    ),
    "causal attention": Case(causal, causally_attended, token_layers, (3, 4)),
}
CASES: dict[str, Case] = {
    **LINEAR,
    **{name: of_map(move) for name, move in MOVES.items()},
    **{name: of_bend(bend) for name, bend in BENT.items()},
    **OTHERS,
    **BATCHES,
}
APART = ("product with a vector", "fold", "mirrored in place", "a part written over")
# The others are parts of networks with several outputs, each of which is exported once.
SHAPES = {case.shape: [n for n in CASES if CASES[n].shape == case.shape and n not in APART] for case in CASES.values()}
TOGETHER = [tuple(names[at : at + 16]) for names in SHAPES.values() for at in range(0, len(names), 16)]
GROUPS = {name: group for group in TOGETHER for name in group}


class Explained(NamedTuple):
    """A network of several parts, each with an output, what it makes of three images, and of the second alone."""

    parts: Sequence[nn.Module]
    images: Tensor
    expected: Sequence[Tensor]
    together: ForwardCache
    alone: ForwardCache

    def relevance(self, at: int, q: Tensor, alone: bool) -> tuple[Tensor, Tensor, Receipt]:
        """Output number `at`, the relevance `z·q` of it at the pixels, and the receipt."""
        cache = self.alone if alone else self.together
        outputs = [cache.output] if isinstance(cache.output, Tensor) else list(cache.output)
        given = [torch.zeros_like(output) for output in outputs]
        given[at] = outputs[at] * q
        _, relevance, receipt = cache.propagate(given)
        return outputs[at], relevance, receipt


@pytest.fixture(scope="module")
def explain(written: type[nn.Module]) -> Callable[[str], Explained]:
    @cache
    def explained(names: tuple[str, ...]) -> Explained:
        torch.manual_seed(0)
        cases = [CASES[name] for name in names]
        parts = [written(case.compute, conv=nn.Conv2d(3, 4, 3, padding=1), **case.layers()) for case in cases]
        network = written(lambda net, x: tuple(part(x) for part in net.parts), parts=nn.ModuleList(parts))
        images = torch.randn(3, *cases[0].shape, dtype=torch.float64)
        lrp = LRP(network, ZERO, "cp")
        with torch.no_grad():
            expected = network(images.clone())
        return Explained(parts, images, expected, lrp.forward(images), lrp.forward(images[1:2]))

    return lambda name: explained(GROUPS.get(name, (name,)))


@pytest.mark.parametrize("name", CASES)
def test_relevance_is_that_of_gradients(name: str, explain: Callable[[str], Explained]) -> None:
    case, explained = CASES[name], explain(name)
    at = GROUPS.get(name, (name,)).index(name)
    q = torch.randn_like(explained.expected[at])
    output, relevance, receipt = explained.relevance(at, q, alone=False)
    torch.testing.assert_close(output, explained.expected[at], rtol=1e-10, atol=1e-12)

    leaf = explained.images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((case.restated or case.compute)(explained.parts[at], leaf.clone()), leaf, q)
    expected = explained.images * gradient
    assert (relevance - expected).abs().max() <= 1e-8 * expected.abs().max()

    assert receipt.imbalance.max() <= 1e-9
    _, lone, of_lone = explained.relevance(at, q[1:2], alone=True)
    torch.testing.assert_close(lone, relevance[1:2], rtol=1e-8, atol=1e-10)
    for layer, absorbed in receipt.layers.items():
        torch.testing.assert_close(of_lone.layers[layer].total, absorbed.total[1:2], rtol=1e-6, atol=1e-8)
