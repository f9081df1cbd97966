"""How relevance is shared among competitors, in all kinds of heads."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import BisectingKMeans, KMeans
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from whycluster.clustering.kernel_kmeans import KernelKMeans
from whycluster.heads import Head, NeuralizedBisectingKMeans, NeuralizedKernelKMeans, NeuralizedKMeans, Split, neuralize

INF = math.inf
K, D = 5, 6
DATA = np.random.default_rng(0).normal(size=(80, D)) * [1, 1, 2, 3, 1, 1] + np.arange(D)

CLUSTERINGS = {
    "k-means": KMeans(K, n_init=1, random_state=0),
    "kernel k-means": KernelKMeans(K, gamma=0.1, n_init=1, random_state=0),
    "fewer supports": KernelKMeans(K, gamma=0.1, n_init=1, max_supports=12, random_state=0),
    "bisecting k-means": BisectingKMeans(K, n_init=1, random_state=0),
}
STEPS: dict[str, list[Any]] = {
    "as it is": [],
    "scaled": [StandardScaler()],
    "mixed": [StandardScaler(), PCA(3, random_state=0)],
}


@pytest.fixture(params=STEPS)
def steps(request: Any) -> list[Any]:
    return STEPS[request.param]


@pytest.fixture(params=CLUSTERINGS)
def head(request: Any, steps: list[Any]) -> Head:
    return neuralize(make_pipeline(*steps, CLUSTERINGS[request.param]).fit(DATA), DATA)


@pytest.fixture
def x() -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(size=(12, D)) * 1.5 + np.arange(D))


TARGETS: list[Any] = [None, 2, torch.arange(12) % K]


@pytest.mark.parametrize("beta", [None, 0.0, INF])
@pytest.mark.parametrize("rule", ["midpoint", "zero"])
def test_what_competitors_add_is_the_relevance(rule: Any, beta: Any, head: Head, x: Tensor) -> None:
    for target in TARGETS:
        parts, relevance = (
            ask(x, target, rule=rule, beta=beta) for ask in (head.relevance_by_competitor, head.relevance)
        )
        assert parts.shape == (12, K, D)
        torch.testing.assert_close(parts.sum(1), relevance, rtol=1e-9, atol=1e-9)


def test_what_a_competitor_adds_sums_to_its_share(head: Head, x: Tensor) -> None:
    for target in TARGETS:
        explained = head.attribute(x, target).explained
        got = head.relevance_by_competitor(x, target).sum(2)
        torch.testing.assert_close(got, head.competition(x, target) * explained[:, None], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("beta", [None, 0.0, 0.3, INF])
def test_shares_add_up_and_the_target_has_none(beta: Any, head: Head, x: Tensor) -> None:
    for target in TARGETS:
        shares = head.competition(x, target, beta)
        chosen = head(x).argmax(1) if target is None else torch.as_tensor(target).expand(12)
        torch.testing.assert_close(shares.sum(1), torch.ones(12, dtype=torch.float64), rtol=1e-12, atol=0)
        assert (shares >= 0).all()
        assert (shares.gather(1, chosen[:, None]) == 0).all()


def margins(head: Head, x: Tensor, chosen: Tensor) -> Tensor:
    """`h_k` as what is explained against each competitor, `(N, K)`; infinite for the target."""
    h = torch.full((len(x), K), INF, dtype=torch.float64)
    for n, c in enumerate(chosen.tolist()):
        for k in set(range(K)) - {c}:
            h[n, k] = head.attribute(x[n : n + 1], c, k).explained[0]
    return h


def test_shares_of_the_assigned_cluster_are_a_softmin(head: Head, x: Tensor) -> None:
    chosen = head(x).argmax(1)
    h = margins(head, x, chosen)
    torch.testing.assert_close(h.amin(1), head(x).amax(1), rtol=1e-9, atol=1e-9)
    for beta in (0.0, 0.01, 1.0):
        expected = (-beta * h).masked_fill(h == INF, -INF).softmax(1)
        torch.testing.assert_close(head.competition(x, beta=beta), expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(head.competition(x), (-float(head.beta) * h).softmax(1), rtol=1e-8, atol=1e-10)
    hard = head.competition(x, beta=INF)
    assert sorted(set(hard.flatten().tolist())) == [0, 1]
    torch.testing.assert_close(h.gather(1, hard.argmax(1, keepdim=True)), h.amin(1, keepdim=True), rtol=1e-9, atol=1e-9)


def test_at_beta_zero_all_competitors_of_the_assigned_cluster_are_alike(head: Head, x: Tensor) -> None:
    shares = head.competition(x, beta=0.0)
    assert sorted(set(shares.flatten().tolist())) == [0, pytest.approx(1 / (K - 1))]


@pytest.mark.parametrize("rule", ["midpoint", "zero"])
def test_the_limits_of_beta(rule: Any, x: Tensor) -> None:
    for clustering in ("k-means", "kernel k-means"):  # in a tree several competitors are runners-up together
        head = neuralize(CLUSTERINGS[clustering].fit(DATA), DATA)
        for target in TARGETS:
            for near, limit in ((1e6, INF), (1e-12, 0.0)):
                got, expected = (head.relevance(x, target, rule=rule, beta=beta) for beta in (near, limit))
                torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("rule", ["midpoint", "zero"])
def test_the_limits_of_beta_in_a_tree(rule: Any, x: Tensor) -> None:
    head = neuralize(CLUSTERINGS["bisecting k-means"].fit(DATA), DATA)
    for near, limit in ((1e6, INF), (1e-12, 0.0)):  # runners-up at one split say the same
        got, expected = (head.relevance(x, rule=rule, beta=beta) for beta in (near, limit))
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("rule", ["midpoint", "zero"])
@pytest.mark.parametrize("beta", [0.0, 0.4, INF])
def test_a_part_is_the_relevance_against_that_competitor_in_its_share(rule: Any, beta: float, x: Tensor) -> None:
    """Where no pair of supports has its border near the row."""
    mu = torch.randn(K, D, dtype=torch.float64) * 4
    u, labels = (mu[:, None] + torch.randn(K, 4, D, dtype=torch.float64) * 0.1).flatten(0, 1), torch.arange(4 * K) // 4
    near = mu + torch.randn(K, D, dtype=torch.float64) * 0.1
    for head, rows in ((NeuralizedKMeans(mu), x), (NeuralizedKernelKMeans(u, labels, 0.5), near)):
        parts, shares = head.relevance_by_competitor(rows, rule=rule, beta=beta), head.competition(rows, beta=beta)
        for n, c in enumerate(head(rows).argmax(1).tolist()):
            f = head(rows)[n, c]
            for k in set(range(K)) - {c}:
                alone = head.attribute(rows[n : n + 1], c, k, rule)
                expected = shares[n, k] * f / alone.explained[0] * alone.relevance[0]
                torch.testing.assert_close(parts[n, k], expected, rtol=1e-8, atol=1e-8)
            assert (parts[n, c] == 0).all()


# Without jumps: what changes most in a step changes little in a thousandth of it.


def largest_change(head: Head, ends: tuple[Tensor, Tensor], target: int, beta: float, rule: Any) -> list[float]:
    """Of relevance in one of 1000 steps on the way; then in one of 1000 steps within that; and so on."""
    (start, end), changes = ends, []
    for _ in range(5):
        way = start + torch.linspace(0, 1, 1001, dtype=torch.float64)[:, None] * (end - start)
        change = head.relevance(way, target, rule=rule, beta=beta).diff(dim=0).abs().amax(1)
        most = int(change.argmax())
        changes.append(float(change[most]))
        start, end = way[most], way[most + 1]
    return changes


MU = torch.tensor([[0.0, 0.0], [6.0, 0.5], [1.0, 7.0], [9.0, 8.0]], dtype=torch.float64)
SUPPORTS = (MU[:, None] + torch.tensor([[0.5, 0.1], [-0.5, 0.4], [0.2, -0.7]], dtype=torch.float64)).flatten(0, 1)
HEADS: dict[str, Head] = {
    "k-means": NeuralizedKMeans(MU),
    "kernel k-means": NeuralizedKernelKMeans(SUPPORTS, torch.arange(12) // 3, 0.3),
    "scaled": NeuralizedKMeans(MU, projection=torch.tensor([1.0, 0.7], dtype=torch.float64)),
    "mixed": NeuralizedKernelKMeans(
        SUPPORTS, torch.arange(12) // 3, 0.3, projection=torch.tensor([[1.0, 0.4], [0.1, 0.8]], dtype=torch.float64)
    ),
    "bisecting k-means": NeuralizedBisectingKMeans(
        [Split([0, 1], [2, 3]), Split([0], [1]), Split([2], [3])],
        torch.stack([MU[:2].mean(0), MU[0], MU[2]]),
        torch.stack([MU[2:].mean(0), MU[1], MU[3]]),
    ),
}


def point(*coordinates: float) -> Tensor:
    return torch.tensor(coordinates, dtype=torch.float64)


WAYS = {
    "from one centroid to another": (MU[0], MU[1]),
    "where the runner-up changes": (point(-1.0, 3.5), point(2.5, -0.4)),
    "where the discriminant changes its sign": (point(1.0, 0.3), point(5.0, 0.9)),
    "to where the target is the third": (MU[0], point(8.0, 9.0)),
}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("beta", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("rule", ["midpoint", "zero"])
def test_relevance_changes_without_a_jump(rule: Any, beta: float, way: str, kind: str) -> None:
    changes = largest_change(HEADS[kind], WAYS[way], 0, beta, rule)
    assert changes[-1] < 1e-4
    assert changes[-1] < changes[1] / 100


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("rule", ["midpoint", "zero"])
def test_the_runner_up_alone_makes_relevance_jump(rule: Any, kind: str) -> None:
    head, (start, end) = HEADS[kind], WAYS["where the runner-up changes"]

    def runner_up(where: Tensor) -> int:
        return int(head.competition(where[None], 0, INF).argmax())

    first = runner_up(start)
    assert runner_up(end) != first
    for _ in range(45):  # until the two are next to where it changes
        middle = (start + end) / 2
        start, end = (middle, end) if runner_up(middle) == first else (start, middle)

    def change(beta: float) -> float:
        return float(head.relevance(torch.stack([start, end]), 0, rule=rule, beta=beta).diff(dim=0).abs().max())

    assert change(INF) > 0.5
    assert max(change(beta) for beta in (0.0, 0.1, 1.0, 30.0)) < 1e-6


def test_the_ways_lead_where_their_names_say() -> None:
    for head in HEADS.values():
        start, end = (head(torch.stack([end])) for end in WAYS["where the discriminant changes its sign"])
        assert start[0, 0] > 0 > end[0, 0]
        assert head(WAYS["to where the target is the third"][1][None])[0].argmax() != 0
