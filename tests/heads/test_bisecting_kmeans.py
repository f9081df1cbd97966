import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.cluster import BisectingKMeans, KMeans
from sklearn.datasets import load_wine
from torch import Tensor

from whycluster.heads import HeadAttribution, NeuralizedBisectingKMeans, NeuralizedKMeans, Split, neuralize

INF = math.inf
K = 6
DATA = np.random.default_rng(0).normal(size=(150, 4)) * [1, 2, 3, 4] + 7
MODEL = BisectingKMeans(K, n_init=2, random_state=0).fit(DATA)
X = torch.from_numpy(DATA[::10] + 0.3)

# The tree, walked by hand: of each cluster, the centres of its own side and of the other, from the root on.

Path = list[tuple[np.ndarray, np.ndarray, set[int]]]


def leaves(node: Any) -> set[int]:
    return {node.label} if node.left is None else leaves(node.left) | leaves(node.right)


def path(model: Any, cluster: int) -> Path:
    node, steps, mean = model._bisecting_tree, [], model._X_mean
    while node.left is not None:
        own, other = (node.left, node.right) if cluster in leaves(node.left) else (node.right, node.left)
        steps.append((own.center + mean, other.center + mean, leaves(other)))
        node = own
    return steps


def margins(row: np.ndarray, model: Any, c: int) -> dict[int, float]:
    """`h_k` of each competitor: how much nearer the row is to the side of `c` where `k` leaves its path."""
    return {
        k: float(((row - other) ** 2).sum() - ((row - own) ** 2).sum())
        for own, other, parted in path(model, c)
        for k in parted
    }


def reference(x: Tensor, model: Any, chosen: list[int], rule: str, beta: float) -> HeadAttribution:
    relevance, explained, absorbed = torch.zeros_like(x), x.new_zeros(len(x)), x.new_zeros(len(x))
    for n, c in enumerate(chosen):
        row, h = x[n].numpy(), margins(x[n].numpy(), model, c)
        explained[n] = f = min(h.values())
        p = {k: math.exp(-beta * (h[k] - f)) * min(1.0, (h[k] / (0.01 * f)) ** 2) for k in h}
        for own, other, parted in path(model, c):
            w = 2 * (own - other)
            for k in parted:
                q = f * p[k] / sum(p.values()) / h[k]
                middle = (own + other) / 2 if rule == "midpoint" else np.zeros(4)
                relevance[n] += torch.from_numpy(q * w * (row - middle))
                absorbed[n] += q * float(other @ other - own @ own) if rule == "zero" else 0
    return HeadAttribution(relevance, explained, absorbed)


@pytest.mark.parametrize("strategy", ["biggest_inertia", "largest_cluster"])
@pytest.mark.parametrize("n_clusters", [2, 3, 7, 20])
def test_the_decision_is_that_of_scikit_learn(n_clusters: int, strategy: str) -> None:
    for data in (DATA, load_wine().data):
        model = BisectingKMeans(n_clusters, bisecting_strategy=strategy, n_init=1, random_state=0).fit(data)
        new = data[::-1] * 1.1 + 0.1
        for rows in (data, new):
            assert np.array_equal(neuralize(model)(rows).argmax(1).numpy(), model.predict(rows))


def test_the_decision_is_not_that_of_the_nearest_mean() -> None:
    nearest = neuralize(MODEL.cluster_centers_)(DATA).argmax(1).numpy()
    assert not np.array_equal(nearest, MODEL.predict(DATA))


def test_a_fit_of_sparse_rows() -> None:
    rows = sparse.csr_matrix(np.where(DATA > 7, DATA, 0))
    model = BisectingKMeans(4, n_init=1, random_state=0).fit(rows)
    assert np.array_equal(neuralize(model, rows)(rows).argmax(1).numpy(), model.predict(rows))


def test_a_fit_in_float32() -> None:
    model = BisectingKMeans(4, n_init=1, random_state=0).fit(DATA.astype(np.float32))
    head = neuralize(model)
    assert head.centre.dtype == torch.float32
    f = head(torch.from_numpy(DATA).float())
    clear = (f.amax(1) > 1e-3).numpy()
    assert clear.mean() > 0.98
    assert np.array_equal(f.argmax(1).numpy()[clear], model.predict(DATA.astype(np.float32))[clear])


def test_discriminants_are_the_least_margins_on_the_path() -> None:
    f = neuralize(MODEL)(X)
    for n, row in enumerate(X.numpy()):
        for c in range(K):
            assert float(f[n, c]) == pytest.approx(min(margins(row, MODEL, c).values()), rel=1e-10, abs=1e-10)
    assert ((f > 0).sum(1) == 1).all()


@pytest.mark.parametrize("beta", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("rule", ["midpoint", "zero"])
@pytest.mark.parametrize("target", [None, 3])
def test_relevance_is_its_formula(target: Any, rule: Any, beta: float) -> None:
    head = neuralize(MODEL)
    chosen = head(X).argmax(1).tolist() if target is None else [target] * len(X)
    got, expected = head.attribute(X, target, rule=rule, beta=beta), reference(X, MODEL, chosen, rule, beta)
    for ours, theirs in zip(got, expected, strict=True):
        assert (ours - theirs).abs().max() <= 1e-10 * max(1, float(theirs.abs().max()))


@pytest.mark.parametrize("target", [None, 0, K - 1])
@pytest.mark.parametrize("beta", [None, 0.0, INF])
def test_nothing_is_lost(beta: Any, target: Any) -> None:
    head = neuralize(MODEL, DATA)
    midpoint, zero = (head.attribute(X, target, rule=rule, beta=beta) for rule in ("midpoint", "zero"))
    torch.testing.assert_close(midpoint.relevance.sum(1), midpoint.explained, rtol=1e-10, atol=1e-10)
    assert not midpoint.absorbed.any()
    torch.testing.assert_close(zero.relevance.sum(1) + zero.absorbed, zero.explained, rtol=1e-10, atol=1e-10)
    assert zero.absorbed.abs().max() > 1


def test_one_cluster_against_another() -> None:
    head = neuralize(MODEL)
    for k in range(1, K):
        got = head.attribute(X, 0, k)
        expected = [margins(row, MODEL, 0)[k] for row in X.numpy()]
        torch.testing.assert_close(got.explained, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(got.relevance.sum(1), got.explained, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stiffness", [0.0, 0.05, 3.0, 1e4])
def test_logits_are_soft_minima_of_the_margins(stiffness: float) -> None:
    head = neuralize(MODEL)
    got = head.logit(X, stiffness)
    for n, row in enumerate(X.numpy()):
        for c in range(K):
            h = margins(row, MODEL, c).values()
            least = min(h)
            expected = stiffness * least - math.log(sum(math.exp(-stiffness * (value - least)) for value in h))
            assert float(got[n, c]) == pytest.approx(expected, rel=1e-10, abs=1e-10)
    assert torch.equal(head.probability(X, stiffness), got.sigmoid())
    if stiffness == 1e4:
        torch.testing.assert_close(got / stiffness, head(X), rtol=1e-3, atol=1e-3)


def test_probabilities_in_a_tree_do_not_add_up_to_one() -> None:
    total = neuralize(MODEL).probability(X, 0.01).sum(1)
    assert (total - 1).abs().max() > 0.03


@pytest.mark.parametrize("rule", ["midpoint", "zero"])
def test_two_clusters_are_k_means(rule: Any) -> None:
    model = BisectingKMeans(2, n_init=1, random_state=0).fit(DATA)
    head, plain = neuralize(model, beta=0.3), neuralize(model.cluster_centers_, beta=0.3)
    assert isinstance(head, NeuralizedBisectingKMeans)
    assert isinstance(plain, NeuralizedKMeans)
    torch.testing.assert_close(head(X), plain(X), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(head.logit(X), plain.logit(X), rtol=1e-9, atol=1e-9)
    for target in (None, 1):
        for ours, theirs in zip(
            head.attribute(X, target, None, rule), plain.attribute(X, target, None, rule), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert np.array_equal(head(DATA).argmax(1).numpy(), KMeans.predict(model, DATA))


def test_a_tree_with_equal_rows_is_finite() -> None:
    model = BisectingKMeans(4, n_init=1, random_state=0).fit(np.repeat(DATA[:5], 4, axis=0))
    head = neuralize(model)
    for target in (None, *range(4)):
        assert all(part.isfinite().all() for part in head.attribute(X, target, beta=0.0))


def test_the_state_comes_back() -> None:
    head, file = neuralize(MODEL, beta=0.123), io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    zeros = torch.zeros(K - 1, 4, dtype=torch.float64)
    other = NeuralizedBisectingKMeans(head.splits, zeros, zeros)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert float(other.beta) == 0.123
    assert torch.equal(other.relevance(X), head.relevance(X))


ONE = torch.zeros(1, 3)


@pytest.mark.parametrize(
    ("splits", "left", "right", "beta", "sentence"),
    [
        ([], ONE[:0], ONE[:0], 1.0, "n_clusters=1 should be >= 2, as one cluster alone has no competitor"),
        ([Split([0], [1])], ONE[0], ONE, 1.0, r"centres of shape \(3,\)"),
        (
            [Split([0], [1])],
            ONE,
            ONE[:, :2],
            1.0,
            r"centres of shapes \(1, 3\) and \(1, 2\) should be one for each side",
        ),
        ([Split([0], [1])], ONE.expand(2, 3), ONE.expand(2, 3), 1.0, "should be one for each side of 1 splits"),
        ([Split([0], [1])], ONE * torch.nan, ONE, 1.0, "the centres contain NaN or infinity"),
        ([Split([0], [1])], ONE, ONE, -1.0, r"beta=-1.0 should be a number >= 0"),
    ],
)
def test_what_no_head_can_be_made_of(splits: Any, left: Tensor, right: Tensor, beta: float, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        NeuralizedBisectingKMeans(splits, left, right, beta)


def test_a_tree_of_one_cluster() -> None:
    with pytest.raises(ValueError, match="n_clusters=1 should be >= 2, as one cluster alone has no competitor"):
        neuralize(BisectingKMeans(1, random_state=0).fit(DATA))
    with pytest.raises(ValueError, match="This BisectingKMeans instance is not fitted yet"):
        neuralize(BisectingKMeans(3))
