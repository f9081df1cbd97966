"""Layers as modules of torch, as linear maps of the engine, and as matrices."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from whycluster.lrp.linear_maps import Convolution, Linear, LinearMap, TokenLinear

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

LAYERS: dict[str, tuple[Callable[[bool], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda bias: nn.Linear(7, 5, bias), (7,)),
    "linear, many rows": (lambda bias: nn.Linear(4, 5, bias), (3, 4)),
    "convolution": (lambda bias: nn.Conv2d(2, 3, 3, padding=1, bias=bias), (2, 4, 5)),
    "stride that leaves a rim": (lambda bias: nn.Conv2d(2, 3, 3, stride=2, bias=bias), (2, 6, 5)),
    "stride and padding": (lambda bias: nn.Conv2d(2, 3, (3, 2), (2, 1), (2, 0), bias=bias), (2, 5, 4)),
    "groups": (lambda bias: nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=bias), (4, 3, 4)),
    "depthwise": (lambda bias: nn.Conv2d(3, 6, 2, groups=3, bias=bias), (3, 3, 4)),
    "dilation": (lambda bias: nn.Conv2d(2, 3, 2, padding=1, dilation=(1, 2), bias=bias), (2, 4, 5)),
    "one dimension": (lambda bias: nn.Conv1d(2, 3, 4, padding=2, bias=bias), (2, 7)),
    "three dimensions": (lambda bias: nn.Conv3d(1, 2, (2, 1, 3), padding=(1, 0, 1), bias=bias), (1, 3, 2, 3)),
    "transposed": (lambda bias: nn.ConvTranspose2d(2, 3, 3, (2, 1), 1, (1, 0), bias=bias), (2, 3, 4)),
    "transposed groups": (lambda bias: nn.ConvTranspose1d(4, 6, 3, 2, groups=2, bias=bias), (4, 3)),
}


def linear_map(module: nn.Module) -> LinearMap:
    """The same layer of the engine; `many rows` are its tokens."""
    bias = None if module.bias is None else module.bias.detach()
    if isinstance(module, nn.Linear):
        return (Linear if module.in_features == 7 else TokenLinear)(module.weight.detach(), bias)
    more: dict[str, Any] = {"transposed": True, "output_padding": module.output_padding}
    return Convolution(
        module.weight.detach(),
        bias,
        module.stride,
        module.padding,
        module.dilation,
        module.groups,
        **(more if isinstance(module, TRANSPOSED) else {}),
    )


@torch.no_grad()
def dense(module: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """`(outputs, inputs)`: what the module without its bias makes of each unit input."""
    module = copy.deepcopy(module)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    units = torch.eye(torch.Size(shape).numel(), dtype=torch.float64)
    return module(units.view(-1, *shape)).flatten(1).T


def inputs_of(shape: tuple[int, ...], nonnegative: bool, n: int = 3) -> Tensor:
    """Some of them exactly zero; the last image is nothing but zeros."""
    x = torch.randn(n, *shape, dtype=torch.float64)
    x[x.abs() < 0.2] = 0
    x[-1] = 0
    return x.abs() if nonnegative else x
