"""The walk in other layouts, precisions and places."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import FAMILIES, TRANSFORMERS
from networks import randomized
from torch import Tensor, nn
from torch.nn import functional as F

from whycluster.lrp import (
    LRP,
    Attribution,
    Composite,
    Contribution,
    Epsilon,
    EpsilonGammaBox,
    EpsilonPlus,
    First,
    LinearMap,
    Product,
    Rule,
    TokenLinear,
    ZBox,
    fast_rules,
)
from whycluster.lrp.linear_maps import unmodified
from whycluster.lrp.receipts import Ledger

LOW, HIGH = -2.0, 2.0
# With residual sums, gates, parts, layer norms, lone batch norms and attention between them.
SOME = ("densenet", "shufflenet", "efficientnet", "convnext", "vit")
SIZE = {**FAMILIES, **TRANSFORMERS}


def network_of(family: str) -> nn.Module:
    torch.manual_seed(0)
    return randomized(SIZE[family][0]()).eval()


def images_of(family: str, n: int = 3) -> Tensor:
    size = SIZE[family][1]
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1)).clamp(LOW, HIGH)


def close(one: Attribution, other: Attribution, share: float) -> None:
    """Within a share of the largest relevance."""
    scale = other.relevance.abs().max()
    assert (one.relevance.to(scale) - other.relevance).abs().max() <= share * scale


def output(values: Tensor) -> Tensor:
    return values


def of_timm() -> dict[str, nn.Module]:
    """Attention over windows, over channels, and with tokens of a class that come late."""
    models = pytest.importorskip("timm.models", reason="timm is not installed (whycluster[timm])")
    tiny: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 8, "num_classes": 3}
    return {
        "swin": models.swin_transformer.SwinTransformer(**tiny, depths=(2, 1), num_heads=(2, 2), window_size=2),
        "xcit": models.xcit.Xcit(**{**tiny, "patch_size": 8}, depth=1, num_heads=2, cls_attn_layers=1),
        "cait": models.cait.Cait(**tiny, depth=1, num_heads=2, depth_token_only=1),
    }


@pytest.mark.parametrize("family", [*SIZE, "swin of timm", "xcit of timm", "cait of timm"])
def test_values_of_an_image_are_where_the_graph_says(family: str) -> None:
    if "timm" in family:
        torch.manual_seed(0)
        network, images = randomized(of_timm()[family.split()[0]]).eval(), torch.rand(3, 3, 16, 16)
    else:
        network, images = network_of(family), images_of(family)
    program = LRP(network.double(), EpsilonPlus())._program(images.double())
    other = images.double()
    other[1] = other[1].flip(2) * 0.9
    seen: list[list[Any]] = [[], []]
    with torch.no_grad():
        for some, values in zip((images.double(), other), seen, strict=True):
            program.run(some, Ledger(3), lambda one, value, values=values: values.append(value))
    nodes = [one.node for one in program.planned if one.node not in program.constants]
    changed = 0
    for node, one, two in zip(nodes, *seen, strict=True):
        if isinstance(one, Tensor) and node in program.batches:
            first, second, third = program.batches[node].per_image((one != two).double(), 3).tolist()
            assert first == third == 0, node
            changed += second > 0
    assert changed > 3


@pytest.mark.parametrize("family", SOME)
def test_channels_last_is_the_same(family: str) -> None:
    network, images = network_of(family), images_of(family)
    expected = LRP(network, EpsilonGammaBox(LOW, HIGH)).attribute(images, output)
    lrp = LRP(network.to(memory_format=torch.channels_last), EpsilonGammaBox(LOW, HIGH))
    for given in (images.to(memory_format=torch.channels_last), images.mT.contiguous().mT):
        last = lrp.attribute(given, output)
        close(last, expected, 1e-4)
        assert last.relevance.shape == images.shape
        assert last.relevance.is_contiguous()


@pytest.mark.parametrize("family", SOME)
def test_bfloat16_agrees_as_far_as_it_reaches(family: str) -> None:
    lrp = LRP(network_of(family), EpsilonPlus())
    images = images_of(family)
    exact = lrp.attribute(images, output)
    with torch.autocast("cpu", torch.bfloat16):
        rough = lrp.attribute(images, output)
        cache = lrp.forward(images)
    assert rough.relevance.dtype == torch.float32
    assert not torch.equal(rough.output, exact.output)
    correlation = torch.corrcoef(torch.stack([rough.relevance.flatten(), exact.relevance.flatten()]))[0, 1]
    assert correlation > 0.98
    assert rough.receipt.imbalance.max() <= 0.03
    later = cache.propagate(rough.output)  # outside of autocast, the walk back is as the forward pass was
    torch.testing.assert_close(later.relevance, rough.relevance, rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", SOME)
def test_a_gpu_agrees(family: str) -> None:
    network, images = network_of(family).double(), images_of(family).double()
    expected = LRP(network, EpsilonGammaBox(LOW, HIGH)).attribute(images, output)
    there = LRP(network.cuda(), EpsilonGammaBox(LOW, HIGH)).attribute(images.cuda(), output)
    close(Attribution(there.output.cpu(), there.relevance.cpu(), there.receipt), expected, 1e-8)


def test_constants_are_computed_once_and_values_seen_in_order(written: type[nn.Module]) -> None:
    network = written(lambda net, x: net.conv(x + net.mean.exp().neg()).relu().mean((2, 3)), conv=nn.Conv2d(3, 4, 3))
    images = torch.rand(2, 3, 5, 5, dtype=torch.float64)
    program = LRP(network, EpsilonPlus())._program(images)
    seen: dict[str, Tensor] = {}
    [end] = program.run(images.requires_grad_(), Ledger(2), lambda one, value: seen.__setitem__(one.name, value))
    assert list(seen) == ["add", "conv", "relu", "mean"]
    assert "neg" in {node.name for node in program.constants}
    torch.testing.assert_close(seen["add"].detach(), (images + network.mean.exp().neg()).detach())
    torch.testing.assert_close(end, network(images))


def test_weights_computed_from_images_are_made_in_each_run(written: type[nn.Module]) -> None:
    """Attention, for one: the constant factor of its second product belongs to the images."""
    network = written(lambda net, x: (x @ x.mT).softmax(-1) @ x)
    lrp = LRP(network, EpsilonPlus())
    for seed in range(2):
        images = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(lrp(images, output)[0], network(images))


CAUSAL = torch.full((4, 4), -torch.inf, dtype=torch.float64).triu(1)


def attended(net: Any, x: Tensor, mask: Tensor) -> Tensor:
    q, k, v = net.qkv(x).chunk(3, -1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


# Tokens `(N, 4, 6)`.
UNUSUAL: dict[str, Callable[[Any, Tensor], Any]] = {
    "an infinite mask that is added": lambda net, x: attended(net, x, CAUSAL),
    "a mask, then a bias": lambda net, x: (
        ((x @ x.mT).masked_fill(CAUSAL != 0, -torch.inf) + CAUSAL.exp()).softmax(-1) @ net.l(x)
    ),
    "a mask and attention that returns its weights": lambda net, x: net.mha(x, x, x, attn_mask=CAUSAL)[0],
    "reversed subtraction": lambda net, x: torch.rsub(net.l(x), x, alpha=2),
    "cast like the images": lambda net, x: net.l(x + CAUSAL[0, 0].type_as(x)),
    "indices as numbers": lambda net, x: (lambda top: net.l(top.values * (top.indices.to(x.dtype) + 1)))(x.topk(6, -1)),
    "a sum with fewer dimensions": lambda net, x: (lambda h: (h.sum(1) + h.T).T)(net.l(x)[:, :, 0]),
    "an output of whole numbers": lambda net, x: (net.l(x).sum(1), net.l(x).sum(1).argmax(1)),
    "an output that is constant": lambda net, x: (torch.ones_like(x), net.l(x)),
}


@pytest.mark.parametrize("attention", ["cp", "attn"])
@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_networks_balance_image_by_image(name: str, attention: Any, written: type[nn.Module]) -> None:
    torch.manual_seed(0)
    layers = {"l": nn.Linear(6, 6), "qkv": nn.Linear(6, 18), "mha": nn.MultiheadAttention(6, 2, batch_first=True)}
    network = written(UNUSUAL[name], **layers)
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    lrp = LRP(network, Composite([(LinearMap, Epsilon(0.0))]), attention)
    for some in (slice(None), slice(1, 2)):
        whole = lrp.attribute(x[some], lambda output: output if isinstance(output, Tensor) else list(output))
        torch.testing.assert_close(whole.output, network(x[some]))
        assert whole.receipt.imbalance.max() <= 1e-9
        assert whole.relevance.isfinite().all()
        if some == slice(None):
            together = whole
    torch.testing.assert_close(whole.relevance, together.relevance[1:2])
    for layer, absorbed in whole.receipt.layers.items():
        torch.testing.assert_close(absorbed.total, together.receipt.layers[layer].total[1:2])


@pytest.mark.parametrize("attention", ["cp", "attn"])
def test_images_in_several_parts_are_as_together(
    attention: Any, written: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = written(lambda net, x: attended(net, x, CAUSAL).mean(1), qkv=nn.Linear(6, 18))
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    lrp = LRP(network, EpsilonPlus(), attention)
    whole = lrp.attribute(x, torch.abs)
    monkeypatch.setattr(fast_rules, "REUSED_BYTES", 200)
    parts = lrp.attribute(x, torch.abs)
    torch.testing.assert_close(parts.relevance, whole.relevance)


def test_bounds_of_tokens_stay_with_them(written: type[nn.Module]) -> None:
    network = written(lambda net, x: net.l(x)[:, 0], l=nn.Linear(6, 2))
    low, high = torch.full((4, 6), -3.0).double(), torch.full((4, 6), 3.0).double()
    x = torch.randn(2, 4, 6, dtype=torch.float64).clamp(-3, 3)
    attribution = LRP(network, Composite([(First(TokenLinear), ZBox(low, high))])).attribute(x, torch.abs)
    assert attribution.receipt.imbalance.max() <= 1e-9
    assert attribution.relevance[:, 1:].eq(0).all()


def test_a_fault_is_named_where_parts_get_no_relevance(written: type[nn.Module]) -> None:
    def compute(net: Any, x: Tensor) -> Tensor:
        q, k, v = net.qkv(x).chunk(3, -1)
        return ((q @ k.mT).softmax(-1) @ v).mean(1)

    lossy = Rule([Contribution([Product(unmodified, unmodified)], bias=unmodified, factor=0.5)], 0.0)
    lrp = LRP(written(compute, qkv=nn.Linear(6, 18)), Composite([(TokenLinear, lossy), (LinearMap, Epsilon())]), "cp")
    with pytest.raises(ValueError, match="what entered is not what arrived"):
        lrp(torch.randn(2, 4, 6, dtype=torch.float64), torch.abs)
