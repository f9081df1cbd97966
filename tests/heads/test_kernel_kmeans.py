import copy
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from heads.test_kmeans import LargestTensor
from torch import Tensor

from whycluster.clustering.kernel_kmeans import KernelKMeans
from whycluster.clustering.soft_distances import assign_softly
from whycluster.heads import HeadAttribution, NeuralizedKernelKMeans, NeuralizedKMeans, kernel_kmeans, neuralize
from whycluster.heads.pooling import SMALLEST_DENOMINATOR

INF = math.inf
N, M, K, D = 8, 14, 4, 5
GAMMA = 0.15


@pytest.fixture
def u() -> Tensor:
    return torch.randn(M, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1.5 + 4


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([2, 0, 1, 3, 0, 1, 1, 0, 3, 1, 0, 0, 1, 3])  # of 5, 5, 1 and 3 supports, in no order


@pytest.fixture
def x(u: Tensor) -> Tensor:
    random = torch.Generator().manual_seed(1)
    rows = torch.randn(N - 3, D, dtype=torch.float64, generator=random) * 1.5 + 4
    near_borders = (u[[0, 1, 2]] + u[[3, 2, 8]]) / 2 + torch.randn(3, D, dtype=torch.float64, generator=random) * 1e-3
    return torch.cat([rows, near_borders])


# The paper's network, unit by unit.


def lme(values: list[float], gamma: float) -> float:
    """`(1 / gamma) log(mean(exp(gamma v)))`: a soft maximum, or a soft minimum for a negative gamma."""
    top = max(gamma * v for v in values)
    return (top + math.log(sum(math.exp(gamma * v - top) for v in values) / len(values))) / gamma


def soft(values: list[float], gamma: float) -> list[float]:
    top = max(gamma * v for v in values)
    exponentials = [math.exp(gamma * v - top) for v in values]
    return [e / sum(exponentials) for e in exponentials]


def first_layer(row: Tensor, u: Tensor, i: int, j: int) -> float:
    return float(2 * (u[i] - u[j]) @ row + u[j] @ u[j] - u[i] @ u[i])


def of(labels: Tensor, cluster: int) -> list[int]:
    return [i for i, label in enumerate(labels.tolist()) if label == cluster]


def layers(row: Tensor, u: Tensor, labels: Tensor, gamma: float, c: int) -> dict[int, float]:
    """`h_k` of each competitor: a soft minimum over its supports of soft maxima over those of the target."""
    h = {}
    for k in range(int(labels.max()) + 1):
        if k != c:
            over_i = [lme([first_layer(row, u, i, j) for i in of(labels, c)], gamma) for j in of(labels, k)]
            h[k] = lme(over_i, -gamma)
    return h


def discount(value: float, explained: float, guarded: bool) -> float:
    return min(1.0, (value / (SMALLEST_DENOMINATOR * explained)) ** 2) if guarded else 1.0


def reference(
    x: Tensor,
    u: Tensor,
    labels: Tensor,
    gamma: float,
    chosen: list[int],
    rule: str,
    beta: float,
    against: list[int] | None = None,
    guarded: bool = True,
) -> HeadAttribution:
    """Take-most over `k`, softly over `j` and over `i`, and the linear rule at each pair; loop by loop.

    Guarded, competitors and pairs whose border is near count by the square of their distance to it.
    """
    relevance, explained, absorbed = torch.zeros_like(x), x.new_zeros(len(x)), x.new_zeros(len(x))
    for n, c in enumerate(chosen):
        h = layers(x[n], u, labels, gamma, c)
        h = h if against is None else {against[n]: h[against[n]]}
        explained[n] = f = min(h.values())
        p = {k: math.exp(-beta * (h[k] - f)) if beta < INF else float(h[k] == f) for k in h}
        p = {k: p[k] * discount(h[k], f, guarded) for k in h}
        for k in h:
            pairs, own = {}, of(labels, c)
            over_i = {j: [first_layer(x[n], u, i, j) for i in own] for j in of(labels, k)}
            by_j = soft([lme(values, gamma) for values in over_i.values()], -gamma)
            for share_j, (j, values) in zip(by_j, over_i.items(), strict=True):
                for i, share_i, value in zip(own, soft(values, gamma), values, strict=True):
                    pairs[i, j] = share_i * share_j * discount(value, f, guarded)
            for (i, j), share in pairs.items():
                q = f * p[k] / sum(p.values()) * share / sum(pairs.values()) / first_layer(x[n], u, i, j)
                w, middle = 2 * (u[i] - u[j]), (u[i] + u[j]) / 2
                relevance[n] += q * w * (x[n] - middle if rule == "midpoint" else x[n])
                absorbed[n] += q * float(u[j] @ u[j] - u[i] @ u[i]) if rule == "zero" else 0
    return HeadAttribution(relevance, explained, absorbed)


def agrees(got: HeadAttribution, expected: HeadAttribution, tight: float = 1e-10) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        assert (ours - theirs).abs().max() <= tight * max(1, float(theirs.abs().max()))
    torch.testing.assert_close(got.explained, got.relevance.sum(1) + got.absorbed, rtol=1e-10, atol=1e-10)


# Forward.


@pytest.mark.parametrize("gamma", [0.01, GAMMA, 1.0])
def test_discriminants_are_logarithms_of_mean_kernels(gamma: float, x: Tensor, u: Tensor, labels: Tensor) -> None:
    similar = torch.stack([(-gamma * torch.cdist(x, u[of(labels, k)]) ** 2).exp().mean(1) for k in range(K)], 1)
    for c in range(K):
        others = [k for k in range(K) if k != c]
        expected = (similar[:, c].log() - similar[:, others].log().amax(1)) / gamma
        got = NeuralizedKernelKMeans(u, labels, gamma)(x)[:, c]
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("gamma", [1e-4, GAMMA, 2.0])
def test_discriminants_are_four_layers(gamma: float, x: Tensor, u: Tensor, labels: Tensor) -> None:
    f = NeuralizedKernelKMeans(u, labels, gamma)(x)
    for n in range(N):
        for c in range(K):
            assert float(f[n, c]) == pytest.approx(min(layers(x[n], u, labels, gamma, c).values()), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("gamma", [1e-3, 0.2, 5.0])
@pytest.mark.parametrize("max_supports", [None, 25])
def test_the_decision_is_that_of_the_estimator(gamma: float, max_supports: int | None) -> None:
    data = np.random.default_rng(0).normal(size=(200, 4))
    model = KernelKMeans(5, gamma=gamma, n_init=2, max_supports=max_supports, random_state=0).fit(data[:100])
    head = neuralize(model)
    assert head.supports.shape == (max_supports or 100, 4)
    f = head(torch.from_numpy(data))
    assert np.array_equal(f.argmax(1).numpy(), model.predict(data))
    assert np.array_equal(f[:100].argmax(1).numpy(), model.labels_)


def test_no_width_tells_the_means_apart_and_spreads(x: Tensor, u: Tensor, labels: Tensor) -> None:
    """For gamma to 0, soft distances are mean ones, `|x - mean|² + variance`."""
    got = NeuralizedKernelKMeans(u, labels, 1e-12)(x)
    mean = torch.stack([u[of(labels, k)].mean(0) for k in range(K)])
    variance = torch.stack([(u[of(labels, k)] - mean[k]).square().sum(1).mean() for k in range(K)])
    d = torch.cdist(x, mean).square() + variance
    for c in range(K):
        nearest = d[:, [k for k in range(K) if k != c]].amin(1)
        torch.testing.assert_close(got[:, c], nearest - d[:, c], rtol=1e-8, atol=1e-8)


def test_clusters_of_equal_spread_at_gamma_zero_are_k_means(x: Tensor) -> None:
    shape, centres = torch.randn(6, D, dtype=torch.float64), torch.randn(3, D, dtype=torch.float64) * 5
    supports = (centres[:, None] + shape - shape.mean(0)).flatten(0, 1)
    head = NeuralizedKernelKMeans(supports, torch.arange(3).repeat_interleave(6), 1e-12)
    torch.testing.assert_close(head(x), NeuralizedKMeans(centres)(x), rtol=1e-8, atol=1e-8)


def test_a_narrow_kernel_takes_the_nearest_support(x: Tensor, u: Tensor, labels: Tensor) -> None:
    got = NeuralizedKernelKMeans(u, labels, 1e12)(x)
    d = torch.stack([torch.cdist(x, u[of(labels, k)]).square().amin(1) for k in range(K)], 1)
    for c in range(K):
        nearest = d[:, [k for k in range(K) if k != c]].amin(1)
        torch.testing.assert_close(got[:, c], nearest - d[:, c], rtol=1e-9, atol=1e-9)


def test_the_order_of_the_supports_does_not_matter(x: Tensor, u: Tensor, labels: Tensor) -> None:
    order = torch.randperm(M)
    one, other = NeuralizedKernelKMeans(u, labels, GAMMA), NeuralizedKernelKMeans(u[order], labels[order], GAMMA)
    torch.testing.assert_close(one(x), other(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(one.relevance(x), other.relevance(x), rtol=1e-8, atol=1e-8)


# Relevance.


@pytest.mark.parametrize("target", [None, 1, "each row its own"])
@pytest.mark.parametrize("beta", [0.0, 0.3, INF])
@pytest.mark.parametrize("rule", ["midpoint", "zero"])
def test_relevance_is_its_formula(rule: Any, beta: float, target: Any, x: Tensor, u: Tensor, labels: Tensor) -> None:
    target = torch.arange(N) % K if isinstance(target, str) else target
    head = NeuralizedKernelKMeans(u, labels, GAMMA, beta=0.7)
    chosen = head(x).argmax(1) if target is None else torch.as_tensor(target).expand(N)
    got = head.attribute(x, target, rule=rule, beta=beta)
    agrees(got, reference(x, u, labels, GAMMA, chosen.tolist(), rule, beta))
    assert torch.equal(head.relevance(x, target, rule=rule, beta=beta), got.relevance)
    torch.testing.assert_close(got.explained, head(x).gather(1, chosen[:, None])[:, 0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("against", [3, "each row its own"])
@pytest.mark.parametrize("rule", ["midpoint", "zero"])
def test_one_cluster_against_another(rule: Any, against: Any, x: Tensor, u: Tensor, labels: Tensor) -> None:
    target = torch.arange(N) % 2
    against = torch.arange(N) % 2 + 2 if isinstance(against, str) else against
    others = torch.as_tensor(against).expand(N)
    got = NeuralizedKernelKMeans(u, labels, GAMMA).attribute(x, target, against, rule)
    agrees(got, reference(x, u, labels, GAMMA, target.tolist(), rule, 1.0, others.tolist()))


@pytest.mark.parametrize("beta", [0.0, 0.02, INF])
@pytest.mark.parametrize("rule", ["midpoint", "zero"])
def test_relevance_is_the_plain_formula_where_no_border_is_near(rule: Any, beta: float) -> None:
    centres = torch.tensor([[0.0, 0, 0], [9, 0, 0], [0, 12, 3]], dtype=torch.float64)
    u, labels = (centres[:, None] + torch.randn(3, 5, 3, dtype=torch.float64)).flatten(0, 1), torch.arange(15) // 5
    x = (centres[:, None] + torch.randn(3, 4, 3, dtype=torch.float64) * 0.5).flatten(0, 1)
    head = NeuralizedKernelKMeans(u, labels, 0.3)
    chosen = (torch.arange(12) // 4).tolist()
    assert head(x).argmax(1).tolist() == chosen
    for row, c, f in zip(x, chosen, head(x).amax(1), strict=True):
        pairs = [abs(first_layer(row, u, i, j)) for i in of(labels, c) for j in range(15) if labels[j] != c]
        assert min(pairs) > SMALLEST_DENOMINATOR * f
    agrees(head.attribute(x, rule=rule, beta=beta), reference(x, u, labels, 0.3, chosen, rule, beta, guarded=False))


def test_the_data_of_these_tests_have_borders_that_are_near(x: Tensor, u: Tensor, labels: Tensor) -> None:
    chosen = NeuralizedKernelKMeans(u, labels, GAMMA)(x).argmax(1).tolist()
    plain = reference(x, u, labels, GAMMA, chosen, "midpoint", 0.3, guarded=False).relevance
    guarded = reference(x, u, labels, GAMMA, chosen, "midpoint", 0.3).relevance
    assert (plain - guarded).abs().max() > 1e-2


@pytest.mark.parametrize("rule", ["midpoint", "zero"])
@pytest.mark.parametrize(
    "projection", [torch.rand(D).double() + 0.5, torch.randn(3, D).double()], ids=["scales", "mixes"]
)
def test_relevance_through_a_projection(projection: Tensor, rule: Any) -> None:
    a = torch.diag(projection) if projection.ndim == 1 else projection
    u, labels = torch.randn(8, D, dtype=torch.float64), torch.arange(8) // 4
    u[4:] += 6
    x = torch.randn(3, D, dtype=torch.float64)
    got = NeuralizedKernelKMeans(u, labels, 0.1, projection=projection).attribute(x, 0, rule=rule)
    for n, row in enumerate(x):
        d = ((row - u) @ a.T).square().sum(1)
        f = lme(d[4:].tolist(), -0.1) - lme(d[:4].tolist(), -0.1)
        assert (d[4:, None] - d[:4]).abs().min() > SMALLEST_DENOMINATOR * abs(f)
        expected = torch.zeros(D, dtype=torch.float64)
        for i, share_i in enumerate(soft(d[:4].tolist(), -0.1)):
            for j, share_j in enumerate(soft(d[4:].tolist(), -0.1), start=4):
                w, middle = 2 * a.T @ a @ (u[i] - u[j]), (u[i] + u[j]) / 2 * (rule == "midpoint")
                expected += f * share_i * share_j / float(d[j] - d[i]) * w * (row - middle)
        torch.testing.assert_close(got.relevance[n], expected, rtol=1e-9, atol=1e-9)
        assert float(got.explained[n]) == pytest.approx(f, rel=1e-10)


@pytest.mark.parametrize("gamma", np.logspace(-12, 12, 9))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_any_gamma_conserves(dtype: torch.dtype, gamma: float, x: Tensor, u: Tensor, labels: Tensor) -> None:
    tight = 1e-10 if dtype == torch.float64 else 1e-3  # there rounding moves what is near a border
    head = NeuralizedKernelKMeans(u.to(dtype), labels, gamma)
    for target in (None, *range(K)):
        for beta in (0.0, 1.0, INF):
            got = head.attribute(x, target, beta=beta)
            assert got.relevance.isfinite().all()
            error = (got.relevance.sum(1) + got.absorbed - got.explained).abs()
            assert (error <= tight * got.explained.abs().clamp(min=got.relevance.abs().amax(1)).clamp(min=1)).all()
            assert (got.absorbed.abs() <= tight).all()
            zero = head.attribute(x, target, rule="zero", beta=beta)
            assert zero.relevance.isfinite().all()


@pytest.mark.parametrize("beta", [0.0, 0.3, INF])
@pytest.mark.parametrize("rule", ["midpoint", "zero"])
def test_clusters_of_one_support_are_k_means(rule: Any, beta: float, x: Tensor, u: Tensor) -> None:
    order = torch.tensor([2, 0, 3, 1])
    kernel, plain = NeuralizedKernelKMeans(u[:4][order], order, GAMMA), NeuralizedKMeans(u[:4])
    torch.testing.assert_close(kernel(x), plain(x), rtol=1e-10, atol=1e-10)
    for target in (None, 2):
        got = kernel.attribute(x, target, rule=rule, beta=beta)
        agrees(got, plain.attribute(x, target, rule=rule, beta=beta), tight=1e-8)
    torch.testing.assert_close(kernel.logit(x, 0.3), plain.logit(x, 0.3), rtol=1e-9, atol=1e-9)


def test_midpoint_conserves_and_zero_gives_absent_features_nothing(x: Tensor, u: Tensor, labels: Tensor) -> None:
    x[:, 2] = 0
    head = NeuralizedKernelKMeans(u, labels, GAMMA, 0.2)
    midpoint, zero = head.attribute(x), head.attribute(x, rule="zero")
    torch.testing.assert_close(midpoint.relevance.sum(1), head(x).amax(1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(midpoint.absorbed, torch.zeros(N, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (zero.relevance[:, 2] == 0).all()
    assert (midpoint.relevance[:, 2] != 0).any()


@pytest.mark.parametrize("rule", ["midpoint", "zero"])
@pytest.mark.parametrize("gamma", [1e-6, GAMMA, 1e6])
def test_supports_that_several_clusters_share(gamma: float, rule: Any, x: Tensor, u: Tensor, labels: Tensor) -> None:
    more, of_others = torch.cat([u, u[:6], u[:1]]), torch.cat([labels, (labels[:6] + 1) % K, labels[:1]])
    head = NeuralizedKernelKMeans(more, of_others, gamma)
    for target in (None, *range(K)):
        got = head.attribute(torch.cat([x, u]), target, rule=rule)
        assert all(part.isfinite().all() for part in got)
        error = (got.explained - got.relevance.sum(1) - got.absorbed).abs()
        assert (error <= 1e-9 * got.relevance.abs().amax(1).clamp(min=1)).all()


@pytest.mark.parametrize("rule", ["midpoint", "zero"])
def test_clusters_of_the_same_supports(rule: Any, x: Tensor, u: Tensor) -> None:
    twice = NeuralizedKernelKMeans(torch.cat([u[:4], u[:4], u[4:8]]), torch.arange(12) // 4, GAMMA)
    assert twice(x)[:, 0].abs().max() > 0.1
    got = twice.attribute(x, target=0, against=1, rule=rule)
    for part in got:
        assert part.abs().max() <= 1e-9
    same = NeuralizedKernelKMeans(u[:1].expand(4, D), torch.tensor([0, 0, 1, 2]), GAMMA)
    for part in same.attribute(x, rule=rule):
        assert part.abs().max() <= 1e-9


def test_features_at_supports(u: Tensor, labels: Tensor) -> None:
    head = NeuralizedKernelKMeans(u, labels, GAMMA)
    agrees(head.attribute(u), reference(u, u, labels, GAMMA, head(u).argmax(1).tolist(), "midpoint", 1.0))


@pytest.mark.parametrize("rule", ["midpoint", "zero"])
def test_a_pair_at_its_border_passes_without_a_jump(rule: Any) -> None:
    u = torch.tensor([[0.0, 0.0], [4.0, 1.0], [2.0, 3.0], [9.0, 0.0]], dtype=torch.float64)
    head = NeuralizedKernelKMeans(u, torch.tensor([0, 0, 1, 1]), 0.3)
    border = torch.tensor([2.0, 0.5], dtype=torch.float64)  # of no pair of competitors
    start = border + torch.tensor([-2.0, 3.0], dtype=torch.float64)

    def jump(steps: int) -> float:
        way = start + torch.linspace(0, 1, steps, dtype=torch.float64)[:, None] * (border - start)
        return float(head.relevance(way, target=0, rule=rule).diff(dim=0).abs().max())

    assert jump(40001) < jump(4001) / 5


def test_no_features(x: Tensor, u: Tensor, labels: Tensor) -> None:
    head = NeuralizedKernelKMeans(u, labels, GAMMA)
    assert head(x[:0]).shape == (0, K)
    assert head.relevance(x[:0]).shape == (0, D)
    assert head.relevance_by_competitor(x[:0]).shape == (0, K, D)


# Soft assignment.


@pytest.mark.parametrize("stiffness", [0.0, 0.03, 1.0, 20.0])
def test_the_logit_is_a_soft_minimum_and_that_of_the_probability(
    stiffness: float, x: Tensor, u: Tensor, labels: Tensor
) -> None:
    head = NeuralizedKernelKMeans(u, labels, GAMMA, beta=stiffness)
    got, probability = head.logit(x), head.probability(x)
    for n in range(N):
        for c in range(K):
            h = layers(x[n], u, labels, GAMMA, c).values()
            least = min(h)
            expected = stiffness * least - math.log(sum(math.exp(-stiffness * (value - least)) for value in h))
            assert float(got[n, c]) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    torch.testing.assert_close(probability, got.sigmoid(), rtol=1e-12, atol=0)
    torch.testing.assert_close(probability.sum(1), torch.ones(N, dtype=torch.float64), rtol=1e-12, atol=0)
    assert torch.equal(head.logit(x, 0.7), NeuralizedKernelKMeans(u, labels, GAMMA, beta=0.7).logit(x))


def test_stiff_logits_approach_the_discriminants(x: Tensor, u: Tensor, labels: Tensor) -> None:
    head = NeuralizedKernelKMeans(u, labels, GAMMA)
    errors = [float((head.logit(x, s) / s - head(x)).abs().max()) for s in (1.0, 10.0, 1e3, 1e6)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 2e-6
    hard = torch.nn.functional.one_hot(head(x).argmax(1), K).double()
    assert torch.equal(head.probability(x, INF), hard)
    with pytest.raises(ValueError, match="each logit is infinite"):
        head.logit(x, INF)


# Size and precision.


@pytest.mark.parametrize("block", [1, 100, 1000])
@pytest.mark.parametrize("projection", [None, torch.rand(D), torch.randn(3, D)], ids=["none", "scales", "mixes"])
@pytest.mark.parametrize("target", [None, 1])
def test_blocks_change_nothing(
    target: Any, projection: Any, block: int, x: Tensor, u: Tensor, labels: Tensor, monkeypatch: Any
) -> None:
    head = NeuralizedKernelKMeans(u, labels, GAMMA, projection=projection)
    whole = head.attribute(x, target)
    monkeypatch.setattr(kernel_kmeans, "PAIR_ENTRIES", block)
    for part, expected in zip(head.attribute(x, target), whole, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("m", "d", "block"), [(50, 40, 500), (50, 40, 5000), (20, 200, 4000)])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("rule", ["midpoint", "zero"])
def test_no_tensor_of_all_pairs_is_made(rule: Any, mixed: bool, m: int, d: int, block: int, monkeypatch: Any) -> None:
    n = 60
    monkeypatch.setattr(kernel_kmeans, "PAIR_ENTRIES", block)
    projection = torch.randn(d, d) if mixed else None
    head = NeuralizedKernelKMeans(torch.randn(m, d), torch.arange(m) % 5, 0.1, projection=projection)
    x = torch.randn(n, d)
    with LargestTensor() as watch:
        head(x)
        head.probability(x)
        for target, against in ((None, None), (1, 3), (torch.arange(n) % 3, 4)):
            head.attribute(x, target, against, rule)
    assert 0 < watch.entries <= max(n * m, n * d, m * d, block)


def test_relevance_far_from_the_origin_in_float32(x: Tensor, u: Tensor, labels: Tensor) -> None:
    near = NeuralizedKernelKMeans(u, labels, GAMMA)
    far = NeuralizedKernelKMeans((u + 1e3).float(), labels, GAMMA)
    rows = (x + 1e3).float()
    got, expected = far.attribute(rows, beta=0.1), near.attribute(x, beta=0.1)
    assert got.relevance.dtype == torch.float32
    torch.testing.assert_close(far(rows).double(), near(x), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(got.relevance.double(), expected.relevance, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(got.relevance.sum(1), got.explained, rtol=1e-4, atol=1e-3)


def test_midpoint_does_not_depend_on_the_origin(x: Tensor, u: Tensor, labels: Tensor) -> None:
    one = NeuralizedKernelKMeans(u, labels, GAMMA).relevance(x)
    other = NeuralizedKernelKMeans(u + 30, labels, GAMMA).relevance(x + 30)
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


# State.


def test_the_state_comes_back_with_beta_and_gamma(x: Tensor, u: Tensor, labels: Tensor) -> None:
    head, file = NeuralizedKernelKMeans(u, labels, 0.321, beta=0.123), io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    other = NeuralizedKernelKMeans(torch.zeros_like(u), torch.arange(M) % K, 1.0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert (float(other.beta), float(other.gamma)) == (0.123, 0.321)
    assert torch.equal(other.supports, head.supports)
    assert torch.equal(other(x), head(x))
    assert torch.equal(other.relevance(x), head.relevance(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_moves_leave_beta_and_gamma_as_they_are(dtype: torch.dtype, u: Tensor, labels: Tensor) -> None:
    head = copy.deepcopy(NeuralizedKernelKMeans(u, labels, 1e-9, beta=1e-10)).to(dtype)
    assert head.near.dtype == (dtype if dtype.itemsize > 2 else torch.float64)
    assert head.labels.dtype == torch.int64
    assert (float(head.gamma), float(head.beta)) == (1e-9, 1e-10)


def test_the_head_keeps_supports_of_its_own(u: Tensor, labels: Tensor) -> None:
    head, before = NeuralizedKernelKMeans(u, labels, GAMMA), u[labels.argsort(stable=True)].clone()
    assert head.sizes == [5, 5, 1, 3]
    assert head.labels.tolist() == sorted(labels.tolist())
    u.zero_(), labels.zero_()
    torch.testing.assert_close(head.supports, before, rtol=1e-14, atol=1e-14)
    assert (head.n_clusters, head.n_features, head.width) == (K, D, M)
    assert not list(head.parameters())


def test_features_take_the_precision_of_the_supports(x: Tensor, u: Tensor, labels: Tensor) -> None:
    assert NeuralizedKernelKMeans(u, labels, GAMMA).relevance(x.float()).dtype == torch.float64
    assert NeuralizedKernelKMeans(u.float(), labels, GAMMA).relevance(x).dtype == torch.float32
    assert NeuralizedKernelKMeans(u.long(), labels, GAMMA).relevance(x).dtype == torch.float64


def test_the_assignment_is_that_of_the_clustering(x: Tensor, u: Tensor, labels: Tensor) -> None:
    assert torch.equal(NeuralizedKernelKMeans(u, labels, GAMMA)(x).argmax(1), assign_softly(x, u, labels, GAMMA)[0])


# Errors.

U = torch.arange(8.0).view(4, 2)


@pytest.mark.parametrize(
    ("supports", "labels", "gamma", "beta", "sentence"),
    [
        (U, [0, 0, 0, 0], 1.0, 1.0, "n_clusters=1 should be >= 2, as one cluster alone has no competitor"),
        (U, [0, 1, 1], 1.0, 1.0, r"labels of shape \(3,\) should be one for each of 4 supports"),
        (U, [[0, 1, 1, 0]], 1.0, 1.0, r"labels of shape \(1, 4\)"),
        (U, [0, 0, 2, 2], 1.0, 1.0, "labels should run from 0 to K - 1, and each cluster should have supports"),
        (U, [1, 1, 2, 2], 1.0, 1.0, "labels should run from 0 to K - 1"),
        (U, [-1, 0, 1, 1], 1.0, 1.0, "labels should run from 0 to K - 1"),
        (U[:0], [], 1.0, 1.0, "labels should run from 0 to K - 1"),
        (U[0], [0, 1], 1.0, 1.0, r"supports of shape \(2,\) should have the shape \(K, D\)"),
        (U[:, :0], [0, 0, 1, 1], 1.0, 1.0, r"supports of shape \(4, 0\)"),
        (U.where(U != 3, torch.nan), [0, 0, 1, 1], 1.0, 1.0, "the supports contain NaN or infinity"),
        (U.where(U != 3, torch.inf), [0, 0, 1, 1], 1.0, 1.0, "the supports contain NaN or infinity"),
        (U, [0, 0, 1, 1], 0.0, 1.0, r"gamma=0.0 should be a number > 0"),
        (U, [0, 0, 1, 1], -1.0, 1.0, r"gamma=-1.0 should be a number > 0"),
        (U, [0, 0, 1, 1], INF, 1.0, r"gamma=inf should be a number > 0"),
        (U, [0, 0, 1, 1], math.nan, 1.0, r"gamma=nan should be a number > 0"),
        (U, [0, 0, 1, 1], 1.0, -0.5, r"beta=-0.5 should be a number >= 0"),
    ],
)
def test_what_no_head_can_be_made_of(supports: Tensor, labels: Any, gamma: float, beta: float, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        NeuralizedKernelKMeans(supports, torch.tensor(labels, dtype=torch.int64), gamma, beta)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"rule": "gamma"}, "rule='gamma' is unknown; choose 'midpoint' or 'zero'"),
        ({"beta": -1.0}, "beta=-1.0 should be a number >= 0"),
        ({"target": 4}, "target=4 is no cluster of this model; it has clusters 0 to 3"),
        ({"against": 7}, "against=7 is no cluster"),
        ({"target": 2, "against": 2}, "explained against itself"),
    ],
)
def test_what_cannot_be_explained(
    arguments: dict[str, Any], sentence: str, x: Tensor, u: Tensor, labels: Tensor
) -> None:
    with pytest.raises(ValueError, match=sentence):
        NeuralizedKernelKMeans(u, labels, GAMMA).attribute(x, **arguments)


def test_features_that_do_not_fit(x: Tensor, u: Tensor, labels: Tensor) -> None:
    head = NeuralizedKernelKMeans(u, labels, GAMMA)
    for use in (head, head.probability, head.relevance, head.relevance_by_competitor, head.competition):
        with pytest.raises(ValueError, match=r"features of shape \(8, 4\) do not fit this model, which takes \(N, 5\)"):
            use(x[:, 1:])
    x[3, 1] = torch.nan
    with pytest.raises(ValueError, match="features of row 3 contain NaN or infinity"):
        head(x)
