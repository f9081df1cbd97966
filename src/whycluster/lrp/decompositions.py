"""Operations that are rewritten by simpler ones before relevance passes: attention, norms, and sums of products."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.export import default_decompositions
from torch.nn import functional as F

aten = torch.ops.aten
# Rewritten by torch itself: sums of products as products of matrices, and all convolutions as the general one.
CONVOLUTIONS = {aten.conv1d, aten.conv2d, aten.conv3d, aten._convolution_mode}
TRANSPOSED = {aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d}
BY_TORCH = {aten.einsum, aten.tensordot, *CONVOLUTIONS, *TRANSPOSED}


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Computes scaled dot-product attention, `softmax(Q·Kᵀ / √d)·V` (Vaswani et al., arXiv 1706.03762, eq. 1)."""
    if enable_gqa:
        key, value = (one.repeat_interleave(query.shape[-3] // one.shape[-3], -3) for one in (key, value))
    scores = (query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)) @ key.mT
    if is_causal:
        attn_mask = scores.new_ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1) @ value


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_: Any
) -> Tensor:
    """Applies a layer norm to each group of channels (Wu and He, arXiv 1803.08494), then scales and shifts each
    channel.
    """
    n, channels = x.shape[:2]
    groups = x.reshape(n, num_groups, -1)
    normed = F.layer_norm(groups, (groups.shape[-1],), eps=eps).reshape(x.shape)
    along = (channels, *[1] * (x.ndim - 2))
    scaled = normed if weight is None else normed * weight.reshape(along)
    return scaled if bias is None else scaled + bias.reshape(along)


def instance_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Tensor:
    """Applies a group norm to single channels, or, with running statistics, a batch norm."""
    if use_input_stats or running_mean is None or running_var is None:
        return group_norm(x, x.shape[1], weight, bias, eps)
    return F.batch_norm(x, running_mean, running_var, weight, bias, eps=eps)


def rms_norm(x: Tensor, normalized_shape: list[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """Computes `x / √(mean(x²) + ε) · w` (Zhang and Sennrich, arXiv 1910.07467, eq. 4)."""
    last = list(range(-len(normalized_shape), 0))
    normed = x * (x.square().mean(last, keepdim=True) + (torch.finfo(x.dtype).eps if eps is None else eps)).rsqrt()
    return normed if weight is None else normed * weight


def addcmul(x: Tensor, first: Tensor, second: Tensor, *, value: float = 1) -> Tensor:
    """Adds a product to a value."""
    return x + first * second * value


def baddbmm(x: Tensor, first: Tensor, second: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Adds a product of matrices to a value."""
    product = first @ second
    return (x if beta == 1 else x * beta) + (product if alpha == 1 else product * alpha)


def copied(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """Returns the content of a tensor after another one was copied into it."""
    return source.to(target.dtype).expand(target.shape)


def glu(x: Tensor, dim: int = -1) -> Tensor:
    """Computes a gated linear unit, `a · sigmoid(b)` of the halves `a` and `b` (Dauphin et al., arXiv 1612.08083)."""
    values, gate = x.chunk(2, dim)
    return values * gate.sigmoid()


@cache
def decompositions() -> dict[Any, Callable[..., Any]]:
    """Returns, for each operation that is rewritten, the function that computes it from simpler ones."""
    known: dict[Any, Callable[..., Any]] = dict(default_decompositions())
    return {
        aten.scaled_dot_product_attention.default: attention,
        aten.group_norm.default: group_norm,
        aten.instance_norm.default: instance_norm,
        aten.rms_norm.default: rms_norm,
        aten.glu.default: glu,
        aten.addcmul.default: addcmul,
        aten.baddbmm.default: baddbmm,
        aten.copy.default: copied,
        **{op: rewrite for op, rewrite in known.items() if op.overloadpacket in BY_TORCH},
    }
