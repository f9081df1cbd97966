import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs, make_circles
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import check_dataframe_column_names_consistency, parametrize_with_checks
from torch import Tensor

from whycluster.clustering import kernel_kmeans
from whycluster.clustering.kernel_kmeans import (
    KernelKMeans,
    assign_softly,
    auto_gamma,
    fit_kernel_kmeans,
    representatives,
    soft_distances,
    soft_minimum,
)

RINGS, RING = make_circles(200, factor=0.3, noise=0.03, random_state=0)
CLOUD = np.random.default_rng(0).normal(size=(90, 3))
BLOBS, BLOB = make_blobs([60, 30, 10], centers=[[0, 0, 0], [6, 0, 3], [0, 7, 0]], random_state=0)


def kernel(x: np.ndarray, u: np.ndarray, gamma: float) -> np.ndarray:
    return np.array([[math.exp(-gamma * sum((one - other) ** 2)) for other in u] for one in x])


def decision(x: np.ndarray, u: np.ndarray, labels: np.ndarray, gamma: float) -> np.ndarray:
    similar = kernel(x, u, gamma)
    return np.stack([similar[:, labels == k].mean(1) for k in range(labels.max() + 1)], 1).argmax(1)


def inertia(similar: np.ndarray, labels: np.ndarray) -> float:
    """`Σ_i |φ(x_i) - mean of its cluster|²`, by inner products."""
    total = 0.0
    for i, label in enumerate(labels):
        members = np.flatnonzero(labels == label)
        total += similar[i, i] - 2 * similar[i, members].mean() + similar[np.ix_(members, members)].mean()
    return total


# Soft minima.


@pytest.mark.parametrize("gamma", [1e-3, 0.3, 1.0, 20.0])
def test_soft_minimum_is_its_formula(gamma: float) -> None:
    values = torch.rand(50, 8, dtype=torch.float64) * 9
    expected = [-math.log(sum(math.exp(-gamma * float(v)) for v in row) / 8) / gamma for row in values]
    got = soft_minimum(values, gamma)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_soft_minimum_goes_from_the_mean_to_the_minimum(dtype: torch.dtype) -> None:
    values = torch.randn(50, 8, dtype=dtype) * 9
    tight = 1e-6 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(soft_minimum(values, 1e-12), values.mean(1), rtol=tight, atol=10 * tight)
    torch.testing.assert_close(soft_minimum(values, 1e12), values.amin(1), rtol=tight, atol=tight)
    steps = torch.stack([soft_minimum(values, gamma) for gamma in np.logspace(-12, 12, 49)])
    assert (steps.diff(dim=0) <= 1e-5).all()
    assert (steps <= values.mean(1) + 1e-5).all()
    assert (steps >= values.amin(1)).all()


@pytest.mark.parametrize("gamma", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("size", [1e-20, 1.0, 1e30])
def test_soft_minimum_of_any_size_is_finite(size: float, gamma: float) -> None:
    values = torch.tensor([[1.0, 2.0, 6.0], [-6.0, 0.0, 6.0], [5.0, 5.0, 5.0]]) * size
    got = soft_minimum(values, gamma)
    assert got.isfinite().all()
    assert (got >= values.amin(1)).all()
    assert (got <= values.double().mean(1) * (1 + 1e-6) + 1e-6 * size).all()
    assert got[2] == values[2, 0]


@pytest.mark.parametrize("gamma", np.logspace(-12, 12, 9))
def test_soft_minimum_in_float32(gamma: float) -> None:
    values = torch.rand(50, 8, dtype=torch.float64).float() * 9
    torch.testing.assert_close(
        soft_minimum(values, gamma), soft_minimum(values.double(), gamma).float(), rtol=1e-5, atol=1e-6
    )


def test_soft_minimum_leaves_the_values_as_they_are() -> None:
    values = torch.rand(5, 8)
    before = values.clone()
    soft_minimum(values, 2.0)
    assert torch.equal(values, before)


def test_soft_distances_take_each_cluster_on_its_own() -> None:
    distances, sizes = torch.rand(20, 9, dtype=torch.float64) * 5, [1, 5, 3]
    got = soft_distances(distances, sizes, 0.7)
    for n, row in enumerate(distances):
        for k, part in enumerate((row[:1], row[1:6], row[6:])):
            assert float(got[n, k]) == pytest.approx(-math.log(float((-0.7 * part).exp().mean())) / 0.7, rel=1e-12)
    shift = torch.randn(20, 1, dtype=torch.float64)
    torch.testing.assert_close(soft_distances(distances + shift, sizes, 0.7), got + shift)


@pytest.mark.parametrize("block", [kernel_kmeans.BLOCK, 50])
@pytest.mark.parametrize("gamma", [0.01, 0.5, 3.0])
def test_a_row_belongs_where_it_is_most_similar_on_average(gamma: float, block: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(kernel_kmeans, "BLOCK", block)
    x, u, labels = CLOUD[:40], CLOUD[40:75], np.arange(35) * 7 % 4
    clusters, distances = assign_softly(*map(torch.from_numpy, (x, u, labels)), gamma)
    assert np.array_equal(clusters.numpy(), decision(x, u, labels, gamma))
    similar = kernel(x, u, gamma)
    best = np.max([similar[:, labels == k].mean(1) for k in range(4)], 0)
    np.testing.assert_allclose(distances.numpy(), -np.log(best) / gamma, rtol=1e-9, atol=1e-9)


def test_rows_far_from_all_supports_have_a_decision() -> None:
    x = torch.tensor([[1e6, 0.0], [-1e6, 0.0]], dtype=torch.float64)  # where each kernel is 0
    u = torch.tensor([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    clusters, distances = assign_softly(x, u, torch.tensor([1, 1, 0]), 1.0)
    assert clusters.tolist() == [1, 0]
    assert distances.isfinite().all()


# The fit.


@pytest.mark.parametrize(("gamma", "n_clusters"), [(0.05, 2), (0.5, 4), (3.0, 7), ("auto", 3)])
def test_a_fit(gamma: Any, n_clusters: int) -> None:
    model = KernelKMeans(n_clusters, gamma=gamma, n_init=3, random_state=0).fit(CLOUD)
    assert model.gamma_ == pytest.approx(1 / (3 * CLOUD.var()) if gamma == "auto" else gamma, rel=1e-12)
    assert np.array_equal(model.labels_, model.predict(CLOUD))
    assert np.array_equal(model.labels_, decision(CLOUD, model.supports_, model.support_labels_, model.gamma_))
    assert np.array_equal(model.labels_, model.support_labels_)  # as it converged
    assert np.array_equal(model.supports_, CLOUD)
    assert model.inertia_ == pytest.approx(inertia(kernel(CLOUD, CLOUD, model.gamma_), model.labels_), rel=1e-10)
    assert set(model.labels_) == set(range(n_clusters))
    assert 1 <= model.n_iter_ <= 300
    assert model.agreement_ == 1


def test_new_rows_are_assigned_by_the_supports() -> None:
    model = KernelKMeans(4, gamma=0.5, random_state=0).fit(CLOUD[:60])
    expected = decision(CLOUD[60:], model.supports_, model.support_labels_, 0.5)
    assert np.array_equal(model.predict(CLOUD[60:]), expected)


def test_rings() -> None:
    assert normalized_mutual_info_score(RING, KMeans(2, n_init=5, random_state=0).fit_predict(RINGS)) < 0.01
    assert normalized_mutual_info_score(RING, KernelKMeans(2, gamma=5, random_state=0).fit_predict(RINGS)) == 1


def test_the_same_seed_gives_the_same_fit() -> None:
    one, other = (KernelKMeans(5, n_init=2, random_state=3) for _ in range(2))
    assert np.array_equal(one.fit_predict(CLOUD), other.fit(CLOUD).labels_)
    assert np.array_equal(one.fit(CLOUD).labels_, other.labels_)
    seeds = {KernelKMeans(5, n_init=1, random_state=seed).fit(CLOUD).inertia_ for seed in range(6)}
    assert len(seeds) > 1


def test_the_best_restart_wins() -> None:
    random = np.random.RandomState(0)
    alone = [KernelKMeans(6, gamma=1.0, n_init=1, random_state=random).fit(CLOUD).inertia_ for _ in range(8)]
    for n_init in (1, 3):
        few = KernelKMeans(6, gamma=1.0, n_init=n_init, random_state=0).fit(CLOUD).inertia_
        many = KernelKMeans(6, gamma=1.0, n_init=20, random_state=0).fit(CLOUD).inertia_
        assert many <= few + 1e-12
    assert many <= np.mean(alone)


def by_plain_lloyd(similar: np.ndarray, n_clusters: int, n_init: int) -> np.ndarray:
    """Kernel k-means as in textbooks, from random labels; the best of some restarts."""
    random, best = np.random.default_rng(0), (math.inf, np.zeros(0))
    for _ in range(n_init):
        labels = random.permutation(np.arange(len(similar)) % n_clusters)
        for _ in range(50):
            far = np.full((len(similar), n_clusters), np.inf)
            for k in range(n_clusters):
                members = np.flatnonzero(labels == k)
                if len(members):
                    within = similar[np.ix_(members, members)].mean()
                    far[:, k] = similar.diagonal() - 2 * similar[:, members].mean(1) + within
            labels = far.argmin(1)
        best = min(best, (inertia(similar, labels), labels), key=lambda pair: pair[0])
    return best[1]


@pytest.mark.parametrize(("x", "gamma", "n_clusters"), [(BLOBS[::2], 0.1, 3), (RINGS[::3], 5.0, 2)])
def test_another_kernel_k_means_finds_the_same(x: np.ndarray, gamma: float, n_clusters: int) -> None:
    similar = kernel(x, x, gamma)
    theirs = by_plain_lloyd(similar, n_clusters, 10)
    ours = KernelKMeans(n_clusters, gamma=gamma, random_state=0).fit(x)
    assert adjusted_rand_score(theirs, ours.labels_) == 1
    assert ours.inertia_ == pytest.approx(inertia(similar, theirs), rel=1e-10)


def test_an_optimum_of_the_objective_where_clusters_lie_apart() -> None:
    similar, labels = kernel(BLOBS, BLOBS, 0.1), KernelKMeans(3, gamma=0.1, random_state=0).fit(BLOBS).labels_
    assert adjusted_rand_score(BLOB, labels) == 1
    for row in range(0, 100, 9):  # no row would be better off elsewhere
        for k in range(3):
            moved = labels.copy()
            moved[row] = k
            assert inertia(similar, labels) <= inertia(similar, moved) + 1e-10


def test_a_kernel_matrix_too_large_to_keep(monkeypatch: Any) -> None:
    kept = KernelKMeans(5, gamma=0.5, n_init=3, random_state=0).fit(CLOUD)
    squares, computed = kernel_kmeans._squares, []

    def counted(x: Tensor, others: Tensor) -> Tensor:
        computed.append(len(x) * len(others))
        return squares(x, others)

    monkeypatch.setattr(kernel_kmeans, "_squares", counted)
    for limit in (2**27, 0):
        monkeypatch.setattr(kernel_kmeans, "KEPT", limit)
        computed.clear()
        again = KernelKMeans(5, gamma=0.5, n_init=3, random_state=0).fit(CLOUD)
        whole = computed.count(90 * 90) - 1  # one is for the decisions
        assert (whole > again.n_iter_) if limit == 0 else (whole == 1)
        assert np.array_equal(again.labels_, kept.labels_)
        assert again.inertia_ == pytest.approx(kept.inertia_, rel=1e-12)


@pytest.mark.parametrize("block", [1, 100, 1000])
@pytest.mark.parametrize("max_supports", [None, 20])
def test_blocks_change_nothing(block: int, max_supports: int | None, monkeypatch: Any) -> None:
    def fit() -> KernelKMeans:
        return KernelKMeans(5, gamma=0.5, n_init=2, max_supports=max_supports, random_state=0).fit(CLOUD)

    whole = fit()
    monkeypatch.setattr(kernel_kmeans, "BLOCK", block)
    parts = fit()
    assert np.array_equal(parts.labels_, whole.labels_)
    assert np.array_equal(parts.supports_, whole.supports_)
    assert parts.inertia_ == pytest.approx(whole.inertia_, rel=1e-12)


def test_float32_stays_float32() -> None:
    model = KernelKMeans(3, gamma=0.1, random_state=0).fit(BLOBS.astype(np.float32))
    assert model.supports_.dtype == np.float32
    assert adjusted_rand_score(model.predict(BLOBS.astype(np.float32)), BLOB) == 1
    assert KernelKMeans(3, gamma=0.1, random_state=0).fit(BLOBS).supports_.dtype == np.float64
    assert KernelKMeans(3, gamma=0.1, random_state=0).fit((BLOBS * 9).astype(int)).supports_.dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rings_far_from_the_origin(dtype: type) -> None:
    far = (RINGS + 1000).astype(dtype)
    model = KernelKMeans(2, gamma=5, random_state=0).fit(far)
    assert normalized_mutual_info_score(RING, model.predict(far)) == 1


def test_as_many_clusters_as_rows() -> None:
    model = KernelKMeans(20, gamma=1.0, n_init=2, random_state=0).fit(CLOUD[:20])
    assert sorted(model.labels_) == list(range(20))
    assert model.inertia_ == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("n_clusters", [1, 3, 10])
def test_rows_that_are_all_equal(n_clusters: int) -> None:
    rows = np.full((10, 3), 0.1)
    model = KernelKMeans(n_clusters, random_state=0).fit(rows)
    assert model.gamma_ == 1
    assert model.inertia_ == pytest.approx(0, abs=1e-10)
    assert set(model.support_labels_) == set(range(n_clusters))
    assert np.array_equal(model.labels_, model.predict(rows))
    assert len(set(model.labels_)) == 1  # equal rows, equal answers


def test_one_cluster() -> None:
    model = KernelKMeans(1, gamma=0.5, random_state=0).fit(CLOUD)
    assert not model.labels_.any()
    similar = kernel(CLOUD, CLOUD, 0.5)
    assert model.inertia_ == pytest.approx(len(CLOUD) - similar.mean() * len(CLOUD), rel=1e-10)


@pytest.mark.parametrize("gamma", [1e-12, 1e12])
def test_any_gamma_fits(gamma: float) -> None:
    model = KernelKMeans(3, gamma=gamma, n_init=2, random_state=0).fit(CLOUD)
    assert set(model.support_labels_) == {0, 1, 2}
    assert math.isfinite(model.inertia_)
    assert np.array_equal(model.labels_, model.predict(CLOUD))


def test_auto_gamma_is_scikit_learns_scale() -> None:
    machine = SVC(gamma="scale").fit(CLOUD, np.arange(len(CLOUD)) % 2)
    assert auto_gamma(torch.from_numpy(CLOUD)) == pytest.approx(machine._gamma, rel=1e-12)
    assert auto_gamma(torch.ones(4, 2)) == 1


def test_a_fit_that_runs_out_of_iterations() -> None:
    with pytest.warns(ConvergenceWarning, match="max_iter=1 iterations"):
        model = KernelKMeans(5, max_iter=1, random_state=0).fit(CLOUD)
    assert model.n_iter_ == 1
    assert np.array_equal(model.labels_, model.predict(CLOUD))


# Supports.


def spread(labels: Tensor, rows: Tensor, x: Tensor, gamma: float) -> float:
    """Squared distance in kernel space between the means of whole clusters and of their supports, summed."""
    similar, total = torch.from_numpy(kernel(x.numpy(), x.numpy(), gamma)), 0.0
    for k in range(int(labels.max()) + 1):
        members, chosen = (labels == k).nonzero()[:, 0], rows[labels[rows] == k]
        weights = torch.zeros(len(x), dtype=torch.float64)
        weights[members] += 1 / len(members)
        weights[chosen] -= 1 / len(chosen)
        total += float(weights @ similar @ weights)
    return total


def test_representatives_are_chosen_one_after_another() -> None:
    x, labels = torch.from_numpy(BLOBS), torch.from_numpy(BLOB)
    got = representatives(x, labels, 0.3, 20)
    assert torch.equal(got, got.unique())
    similar, expected = kernel(BLOBS, BLOBS, 0.3), []
    for k, wanted in enumerate([12, 6, 2]):  # of 60, 30 and 10 rows
        members, chosen = np.flatnonzero(np.equal(BLOB, k)), []
        for number in range(wanted):
            free = [row for row in members if row not in chosen]
            gain = [similar[r, members].mean() - sum(similar[r, chosen]) / (number + 1) for r in free]
            chosen.append(free[int(np.argmax(gain))])
        expected += chosen
    assert got.tolist() == sorted(expected)


@pytest.mark.parametrize("total", [6, 12, 40])
def test_representatives_are_better_than_random_rows(total: int) -> None:
    x, labels = torch.from_numpy(BLOBS), torch.from_numpy(BLOB)
    ours = representatives(x, labels, 0.3, total)
    sizes, others = torch.bincount(labels[ours]), []
    for _ in range(20):
        drawn = [(labels == k).nonzero()[:, 0][torch.randperm(int((labels == k).sum()))[: sizes[k]]] for k in range(3)]
        others.append(spread(labels, torch.cat(drawn), x, 0.3))
    assert spread(labels, ours, x, 0.3) < min(others)


@pytest.mark.parametrize("total", [7, 8, 20, 61, 149, 150])
def test_each_cluster_gets_its_share_of_supports(total: int) -> None:
    counts = torch.tensor([100, 1, 1, 20, 2, 5, 21])
    labels = torch.arange(7).repeat_interleave(counts)[torch.randperm(150)]
    rows = representatives(torch.randn(150, 2, dtype=torch.float64), labels, 1.0, total)
    got = torch.bincount(labels[rows], minlength=7)
    assert int(got.sum()) == total
    assert (got >= 1).all()
    assert (got <= counts).all()
    fair = counts * total / 150
    assert ((got - fair).abs() < 1).logical_or(fair < 1).logical_or(got < fair).all()  # more only where one is least
    assert (got.argmax() == 0) or total == 7


def test_fewer_supports() -> None:
    full = KernelKMeans(4, gamma=0.5, random_state=0).fit(CLOUD)
    for wanted in (4, 10, 30, 89, 90, 1000):
        model = KernelKMeans(4, gamma=0.5, max_supports=wanted, random_state=0).fit(CLOUD)
        assert len(model.supports_) == len(model.support_labels_) == min(wanted, 90)
        assert set(model.support_labels_) == {0, 1, 2, 3}
        assert {tuple(row) for row in model.supports_} <= {tuple(row) for row in CLOUD}
        assert np.array_equal(model.labels_, model.predict(CLOUD))
        assert model.agreement_ == (model.labels_ == full.labels_).mean()
        assert model.inertia_ == full.inertia_
        assert model.agreement_ > {4: 0.6, 10: 0.7, 30: 0.85}.get(wanted, 0.95)
    assert model.agreement_ == 1


# As an estimator.


@parametrize_with_checks([KernelKMeans(3, n_init=2), KernelKMeans(2, n_init=1, max_supports=5)])
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_names_of_columns_count() -> None:
    check_dataframe_column_names_consistency("KernelKMeans", KernelKMeans(3, n_init=2))


def test_rows_that_are_alike_cannot_fill_all_clusters() -> None:
    x = np.repeat([[0.0], [1.0], [5.0], [6.0]], 4, axis=0)
    with pytest.warns(ConvergenceWarning, match="only 4 of n_clusters=5 clusters have rows of their own"):
        KernelKMeans(5, gamma=1.0, n_init=4, random_state=0).fit(x)


def test_settings_are_read_set_and_copied() -> None:
    settings = {
        "n_clusters": 3,
        "gamma": 0.5,
        "n_init": 2,
        "max_iter": 40,
        "max_supports": 10,
        "random_state": 1,
    }
    model = KernelKMeans(**settings)
    assert model.get_params() == settings
    assert clone(model).get_params() == settings
    assert model.set_params(gamma="auto").gamma == "auto"
    assert not hasattr(clone(model.fit(CLOUD)), "labels_")


def test_settings_as_numpy_gives_them() -> None:
    model = KernelKMeans(np.int64(3), gamma=np.float32(0.5), max_supports=np.int32(9), random_state=0).fit(CLOUD)
    assert len(model.supports_) == 9


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"n_clusters": 0}, "n_clusters=0 should be a whole number >= 1"),
        ({"n_clusters": True}, "n_clusters=True should be a whole number >= 1"),
        ({"n_clusters": 2.5}, "n_clusters=2.5 should be a whole number >= 1"),
        ({"n_clusters": "3"}, "n_clusters='3' should be a whole number >= 1"),
        ({"n_clusters": 91}, "n_samples=90 should be >= n_clusters=91"),
        ({"n_init": 0}, "n_init=0 should be a whole number >= 1"),
        ({"n_init": "auto"}, "n_init='auto' should be a whole number >= 1"),
        ({"max_iter": 0}, "max_iter=0 should be a whole number >= 1"),
        ({"max_iter": None}, "max_iter=None should be a whole number >= 1"),
        ({"max_supports": 7}, "max_supports=7 should be a whole number >= 8"),
        ({"max_supports": 0.5}, "max_supports=0.5 should be a whole number >= 8"),
        ({"gamma": 0}, "gamma=0 should be a number > 0, or 'auto'"),
        ({"gamma": -1.0}, "gamma=-1.0 should be a number > 0, or 'auto'"),
        ({"gamma": math.nan}, "gamma=nan should be a number > 0, or 'auto'"),
        ({"gamma": math.inf}, "gamma=inf should be a number > 0, or 'auto'"),
        ({"gamma": "scale"}, "gamma='scale' should be a number > 0, or 'auto'"),
        ({"gamma": None}, "gamma=None should be a number > 0, or 'auto'"),
        ({"gamma": True}, "gamma=True should be a number > 0, or 'auto'"),
        ({"gamma": [1.0]}, r"gamma=\[1.0\] should be a number > 0, or 'auto'"),
        ({"gamma": np.array([0.5, 1.0])}, "should be a number > 0, or 'auto'"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        KernelKMeans(**settings).fit(CLOUD)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite(value: float) -> None:
    rows = CLOUD.copy()
    rows[3, 1] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        KernelKMeans(3).fit(rows)
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        KernelKMeans(3, n_init=1).fit(CLOUD).predict(rows)


def test_rows_of_another_width() -> None:
    with pytest.raises(ValueError, match="X has 2 features, but KernelKMeans is expecting 3 features"):
        KernelKMeans(3, n_init=1).fit(CLOUD).predict(CLOUD[:, :2])


def test_a_model_that_is_not_fitted() -> None:
    with pytest.raises(NotFittedError, match="This KernelKMeans instance is not fitted yet"):
        KernelKMeans(3).predict(CLOUD)


def test_the_rows_are_left_as_they_are() -> None:
    rows = CLOUD.copy()
    model = KernelKMeans(3, n_init=1, random_state=0).fit(rows)
    assert np.array_equal(rows, CLOUD)
    rows[:] = 0
    assert np.array_equal(model.supports_, CLOUD)


def test_a_restart_that_converged_says_so() -> None:
    fit = fit_kernel_kmeans(torch.from_numpy(CLOUD), 4, 0.5, 3, 300, 0)
    assert fit.converged
    assert not fit_kernel_kmeans(torch.from_numpy(CLOUD), 4, 0.5, 3, 2, 0).converged
