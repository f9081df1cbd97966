"""Transformers against gradients of restated networks, in float64.

With LRP-0 everywhere, what enters as `z·q` arrives as `x·∂(q·f)/∂x`, where `f` is the network with the deviations of
its layer norms held constant, its activations written as `h·(b(h)/h)` with a constant factor, and its biases as they
are. For CP-LRP its softmaxes are constants, too (Ali et al., arXiv 2202.07304, sections 3.1 and 3.2). AttnLRP, the
default (Achtibat et al., arXiv 2402.05602), has a backward pass of its own for the softmax (eq. 12), and halves the
relevance between factors of a product (eq. 14).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from families import TRANSFORMERS
from networks import randomized
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from whycluster.lrp import LRP, Composite, Epsilon, EpsilonGammaBox, LinearMap

ZERO = Composite([(LinearMap, Epsilon(0.0))])
SOFTMAX, MATMUL = F.softmax, torch.matmul


class AttentiveSoftmax(Function):
    """Takes `g = R / s` and gives back `R_i / x_i`, with `R_i` of the scores `x_i (s_i g_i - s_i Σ_j s_j g_j)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.softmax(-1))
        return x.softmax(-1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        [s] = ctx.saved_tensors
        r = s * g  # of the softmax
        return r - s * r.sum(-1, keepdim=True)


def constant_softmax(x: Tensor) -> Tensor:
    return SOFTMAX(x, -1).detach()


def halves(a: Tensor, b: Tensor) -> Tensor:
    return (MATMUL(a, b.detach()) + MATMUL(a.detach(), b)) / 2


def bent(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, *args, **kwargs: x * (function(x, *args, **kwargs) / x).detach()


def normed(x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    last = tuple(range(-len(shape), 0))
    deviation = (x.var(last, correction=0, keepdim=True) + eps).sqrt().detach()
    x = (x - x.mean(last, keepdim=True)) / deviation
    return x if weight is None else x * weight + bias


def attended(softmax: Callable[[Tensor], Tensor], product: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Multi-head attention as in torch, of tokens `(N, T, C)` or `(T, N, C)`."""

    def forward(self: nn.MultiheadAttention, query: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        x = query if self.batch_first else query.transpose(0, 1)
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        q, k, v = (one.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for one in (q, k, v))
        weights = softmax(product(q, k.mT) / math.sqrt(q.shape[-1]))
        y = self.out_proj(product(weights, v).transpose(1, 2).flatten(2))
        return y if self.batch_first else y.transpose(0, 1), None

    return forward


@contextmanager
def restated(attention: str) -> Iterator[None]:
    """Torch's own functions in the forms that gradients take for LRP."""
    attn = attention == "attn"
    softmax = AttentiveSoftmax.apply if attn else constant_softmax
    product = halves if attn else MATMUL
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.MultiheadAttention, "forward", attended(softmax, product))
        patch.setattr(F, "softmax", lambda x, dim: softmax(x))
        patch.setattr(Tensor, "matmul", lambda a, b: product(a, b))
        patch.setattr(F, "layer_norm", normed)
        patch.setattr(F, "normalize", lambda x, dim: x / x.norm(dim=dim, keepdim=True).detach())
        patch.setattr(F, "gelu", bent(F.gelu))
        patch.setattr(F, "silu", bent(F.silu))
        patch.setattr(nn.Tanh, "forward", lambda self, x: bent(torch.tanh)(x))
        patch.setattr(nn.Sigmoid, "forward", lambda self, x: torch.sigmoid(x).detach())
        yield


def agree(network: nn.Module, images: Tensor, attention: str) -> None:
    output = network(images).detach()
    q = torch.randn_like(output)
    ours = LRP(network, ZERO, attention).attribute(images, lambda output: output * q)
    torch.testing.assert_close(ours.output, output, rtol=1e-10, atol=1e-12)
    leaf = images.clone().requires_grad_()
    with restated(attention):
        again = network(leaf)
        [gradient] = torch.autograd.grad(again, leaf, q)
    torch.testing.assert_close(again.detach(), output, rtol=1e-10, atol=1e-12)  # only its derivative differs
    expected = images * gradient
    assert (ours.relevance - expected).abs().max() <= 1e-8 * expected.abs().max()
    assert ours.receipt.imbalance.max() <= 1e-6


@pytest.fixture(scope="module", params=TRANSFORMERS)
def transformer(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    build, size = TRANSFORMERS[request.param]
    torch.manual_seed(0)
    network = randomized(build()).double().eval()
    return network, torch.randn(2, 3, size, size, dtype=torch.float64)


def test_relevance_is_that_of_gradients(transformer: tuple[nn.Module, Tensor]) -> None:
    agree(*transformer, "cp")


def test_other_rules_balance(transformer: tuple[nn.Module, Tensor]) -> None:
    network, images = transformer
    lrps = LRP(network, EpsilonGammaBox(-5.0, 5.0)), LRP(network, EpsilonGammaBox(-5.0, 5.0, tokens=0.05), "cp")
    for lrp in lrps:
        whole = lrp.attribute(images, torch.abs)
        assert whole.receipt.imbalance.max() <= 1e-9
        alone = lrp.attribute(images[1:], torch.abs)
        torch.testing.assert_close(alone.relevance, whole.relevance[1:], rtol=1e-8, atol=1e-10)
        for name, absorbed in alone.receipt.layers.items():
            torch.testing.assert_close(absorbed.total, whole.receipt.layers[name].total[1:], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_relevance_through_the_softmax(family: str) -> None:
    build, size = TRANSFORMERS[family]
    torch.manual_seed(0)
    network = randomized(build()).double().eval()
    agree(network, torch.randn(2, 3, size, size, dtype=torch.float64), "attn")


def test_both_ways_through_attention_by_hand() -> None:
    """One head of two tokens with one feature: every number written out."""

    class Head(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x @ x.mT).softmax(-1) @ x

    x = torch.tensor([[[1.0], [2.0]]], dtype=torch.float64)
    r = torch.tensor([[[1.0], [0.0]]], dtype=torch.float64)
    e = math.exp(2 - 1)  # of the scores 1·2 and 1·1
    s = (1 / (1 + e), e / (1 + e))
    z = s[0] * 1 + s[1] * 2
    values = [s[0] * 1 / z, s[1] * 2 / z]
    [relevance] = LRP(Head(), ZERO, "cp")(x, r)[1]
    torch.testing.assert_close(relevance.flatten().tolist(), values)
    to_weights = [one / 2 for one in values]  # a half each
    to_scores = [score * (to_weights[at] - s[at] * sum(to_weights)) for at, score in enumerate((1.0, 2.0))]
    # Score 0 is x_0·x_0, score 1 x_0·x_1, and a half goes to each factor.
    expected = [values[0] / 2 + to_scores[0] + to_scores[1] / 2, values[1] / 2 + to_scores[1] / 2]
    [relevance] = LRP(Head(), ZERO, "attn")(x, r)[1]
    torch.testing.assert_close(relevance.flatten().tolist(), expected)


def test_a_mask_in_one_image_changes_nothing_in_others() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 1.0).masked_fill(x > 2500, -torch.inf).softmax(1)

    x = torch.tensor([[1.0, 2.0, -2000.0], [1.0, 2.0, 3000.0]], dtype=torch.float64)  # the first softmax underflows
    lrp = LRP(Masked(), ZERO)
    whole = lrp.attribute(x, torch.ones_like)
    assert whole.relevance[0, 2] == -2000
    torch.testing.assert_close(whole.relevance[:1], lrp.attribute(x[:1], torch.ones_like).relevance)
    assert whole.relevance[1, 2] == 0
    assert whole.receipt.imbalance.max() <= 1e-12


def test_masked_tokens_get_nothing() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mask = torch.tensor([True, False, True])
            return F.scaled_dot_product_attention(x, x, x, attn_mask=mask.expand(3, 3)).flatten(1)[:, :2]

    x = torch.randn(2, 3, 2, dtype=torch.float64)
    for attention in ("cp", "attn"):
        _, relevance, receipt = LRP(Masked(), ZERO, attention).attribute(x, torch.abs)
        assert relevance[:, 1].eq(0).all()
        assert relevance[:, ::2].ne(0).all()
        assert receipt.imbalance.max() <= 1e-12


@pytest.mark.parametrize("grouped", [False, True])
def test_attention_of_one_call_is_attention_by_hand(grouped: bool) -> None:
    def by_hand(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        if grouped:
            k, v = (one.repeat_interleave(2, 1) for one in (k, v))
        return ((q @ k.mT) * 0.3 + bias).softmax(-1) @ v

    def at_once(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, bias, scale=0.3, enable_gqa=grouped)

    class Heads(nn.Module):
        def __init__(self, attend: Callable[..., Tensor]) -> None:
            super().__init__()
            self.attend = attend
            torch.manual_seed(1)
            self.register_buffer("bias", torch.randn(3, 3, dtype=torch.float64))

        def extra_repr(self) -> str:
            return repr(self.attend)

        def forward(self, x: Tensor) -> Tensor:
            kv = x[:, :2] if grouped else x
            return self.attend(x, kv.tanh(), kv.flip(2), self.bias)

    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    for attention in ("cp", "attn"):
        one, other = (LRP(Heads(attend), ZERO, attention)(x, torch.abs) for attend in (by_hand, at_once))
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)
