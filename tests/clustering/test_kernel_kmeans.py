import math
from typing import Any

import numpy as np
import pytest
import torch
from kernels import BLOB, BLOBS, CLOUD, RING, RINGS, decision, kernel
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import check_dataframe_column_names_consistency, parametrize_with_checks

from whycluster.clustering.kernel_kmeans import KernelKMeans, auto_gamma
from whycluster.errors import UserError


def inertia(similar: np.ndarray, labels: np.ndarray) -> float:
    """`Σ_i |φ(x_i) - mean of its cluster|²`, by inner products."""
    total = 0.0
    for i, label in enumerate(labels):
        members = np.flatnonzero(labels == label)
        total += similar[i, i] - 2 * similar[i, members].mean() + similar[np.ix_(members, members)].mean()
    return total


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


def test_float32_stays_float32() -> None:
    model = KernelKMeans(3, gamma=0.1, random_state=0).fit(BLOBS.astype(np.float32))
    assert model.supports_.dtype == np.float32
    assert adjusted_rand_score(model.predict(BLOBS.astype(np.float32)), BLOB) == 1
    assert KernelKMeans(3, gamma=0.1, random_state=0).fit(BLOBS).supports_.dtype == np.float64
    assert KernelKMeans(3, gamma=0.1, random_state=0).fit((BLOBS * 9).astype(int)).supports_.dtype == np.float64


@pytest.mark.parametrize("dtype", ["f2", "f4", "g", ">f2", ">f4", ">f8", "i1", ">i4", "u1", "u2", ">u4", "u8"])
def test_arrays_of_any_type(dtype: str) -> None:
    whole = (BLOBS - BLOBS.min() + 1).round()
    model, expected = (KernelKMeans(3, gamma=0.1, random_state=0).fit(x) for x in (whole.astype(dtype), whole))
    assert adjusted_rand_score(model.labels_, expected.labels_) == 1
    assert np.array_equal(model.predict(whole.astype(dtype)), model.labels_)
    assert model.supports_.dtype in (np.float32, np.float64)


@pytest.mark.parametrize(
    "name", ["float64", "float32", "float16", "bfloat16", "float8_e5m2", "int8", "uint16", "uint64"]
)
def test_tensors_of_any_type(name: str) -> None:
    x = torch.from_numpy((BLOBS - BLOBS.min() + 1).round()).to(getattr(torch, name))
    model, expected = (KernelKMeans(3, gamma=0.1, random_state=0).fit(rows) for rows in (x, x.double().numpy()))
    assert adjusted_rand_score(model.labels_, expected.labels_) == 1
    assert np.array_equal(model.predict(x), model.labels_)


@pytest.mark.parametrize("name", ["complex64", "bits8", "float4_e2m1fn_x2", "NumPy's complex64"])
def test_rows_that_are_no_real_numbers(name: str) -> None:
    rows = torch.empty(9, 2, dtype=getattr(torch, name)) if hasattr(torch, name) else np.ones((9, 2), np.complex64)
    with pytest.raises(UserError, match=r"X of type .* should be real numbers\.$"):
        KernelKMeans(3).fit(rows)


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
