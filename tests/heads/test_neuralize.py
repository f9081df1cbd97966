import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.cluster import DBSCAN, BisectingKMeans, KMeans, MiniBatchKMeans
from sklearn.datasets import load_digits, load_wine, make_blobs
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from whycluster.clustering.kernel_kmeans import KernelKMeans
from whycluster.heads import (
    Head,
    NeuralizedBisectingKMeans,
    NeuralizedKernelKMeans,
    NeuralizedKMeans,
    NeuralizedLinear,
    heuristic_beta,
    neuralize,
)

X = np.random.default_rng(0).normal(size=(60, 4)) * 3


@pytest.mark.parametrize(
    "estimator", [KMeans(4, n_init=1, random_state=0), MiniBatchKMeans(4, n_init=1, random_state=0)]
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_fitted_estimator(estimator: Any, dtype: type) -> None:
    model = estimator.fit(X.astype(dtype))
    head = neuralize(model, beta=0.2)
    assert isinstance(head, NeuralizedKMeans)
    assert head.centroids.numpy().dtype == dtype
    assert np.array_equal(head.centroids.numpy(), model.cluster_centers_)
    assert float(head.beta) == 0.2
    assert np.array_equal(head(torch.from_numpy(X.astype(dtype))).argmax(1).numpy(), model.predict(X.astype(dtype)))


@pytest.mark.parametrize("centroids", [X[:3], torch.from_numpy(X[:3])], ids=["array", "tensor"])
def test_centroids(centroids: Any) -> None:
    head = neuralize(centroids)
    assert np.array_equal(head.centroids.numpy(), X[:3])


def test_centroids_of_whole_numbers() -> None:
    assert neuralize(np.array([[0, 0], [4, 0]]))(torch.tensor([[1.0, 0.0]])).tolist() == [[8.0, -8.0]]


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (KMeans(3), "This KMeans instance is not fitted yet"),
        (KernelKMeans(3), "This KernelKMeans instance is not fitted yet"),
        (DBSCAN().fit(X), "cannot neuralize a DBSCAN; give a fitted KMeans, BisectingKMeans, KernelKMeans, Temi"),
        ("kmeans", "cannot neuralize a str; give a fitted KMeans"),
        (None, "cannot neuralize a NoneType"),
        (np.zeros(3), r"shape \(3,\)"),
        (KMeans(1, n_init=1).fit(X), "one cluster alone has no competitor"),
    ],
)
def test_what_cannot_be_neuralized(model: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        neuralize(model)


def test_arrays_are_taken_as_they_are() -> None:
    x = np.random.RandomState(0).randn(40, 3)
    fitted = KMeans(4, n_init=1, random_state=0).fit(x)
    head = neuralize(fitted)
    assert head(x).argmax(1).tolist() == fitted.predict(x).tolist()
    assert head.relevance(x).shape == (40, 3)


FITTED: dict[str, Any] = {
    "k-means": KMeans(4, n_init=1, random_state=0).fit(X),
    "mini batches": MiniBatchKMeans(4, n_init=1, random_state=0).fit(X),
    "bisecting": BisectingKMeans(4, n_init=1, random_state=0).fit(X),
    "kernel": KernelKMeans(4, gamma=0.1, n_init=1, random_state=0).fit(X),
    "fewer supports": KernelKMeans(4, gamma=0.1, n_init=1, max_supports=9, random_state=0).fit(X),
    "pipeline": make_pipeline(StandardScaler(), KMeans(4, n_init=1, random_state=0)).fit(X),
    "centroids": X[:4],
}


def test_each_clustering_has_its_head() -> None:
    kinds = {name: type(neuralize(model)) for name, model in FITTED.items()}
    assert kinds.pop("bisecting") is NeuralizedBisectingKMeans
    assert kinds.pop("kernel") is kinds.pop("fewer supports") is NeuralizedKernelKMeans
    assert set(kinds.values()) == {NeuralizedKMeans}


# Beta.


@pytest.mark.parametrize("kind", FITTED)
def test_beta_is_one_over_the_mean_discriminant_of_the_training_data(kind: str) -> None:
    head = neuralize(FITTED[kind], X)
    assert float(head.beta) == pytest.approx(1 / float(head(X).amax(1).mean()), rel=1e-12)
    assert float(head.beta) == heuristic_beta(head, [torch.from_numpy(X)])
    assert float(neuralize(FITTED[kind], X, beta="auto").beta) == float(head.beta)


def test_beta_over_more_rows_than_one_batch() -> None:
    rows = np.tile(X, (40, 1))
    assert len(rows) > 2048
    beta = float(neuralize(FITTED["k-means"], X).beta)
    assert float(neuralize(FITTED["k-means"], rows).beta) == pytest.approx(beta, rel=1e-12)


@pytest.mark.parametrize("kind", ["k-means", "bisecting", "pipeline"])
def test_beta_without_training_data_is_that_of_the_means(kind: str) -> None:
    model, head = FITTED[kind], neuralize(FITTED[kind])
    labels = model.predict(X)
    means = np.stack([X[labels == k].mean(0) for k in range(4)])
    f = head(means).amax(1).numpy() @ np.bincount(labels) / len(X)
    assert float(head.beta) == pytest.approx(1 / f, rel=1e-3)  # a mean of k-means is one up to its tolerance
    assert float(head.beta) < float(neuralize(model, X).beta)


def test_beta_of_centroids_alone_counts_each_once() -> None:
    head = neuralize(X[:4])
    assert float(head.beta) == pytest.approx(1 / float(head(X[:4]).amax(1).mean()), rel=1e-12)


@pytest.mark.parametrize("kind", ["kernel", "fewer supports"])
def test_beta_of_a_kernel_without_training_data_is_that_of_its_supports(kind: str) -> None:
    head = neuralize(FITTED[kind])
    assert float(head.beta) == pytest.approx(1 / float(head(FITTED[kind].supports_).amax(1).mean()), rel=1e-12)
    if kind == "kernel":  # all rows are supports
        assert float(head.beta) == pytest.approx(float(neuralize(FITTED[kind], X).beta), rel=1e-12)


def test_beta_where_no_clusters_differ() -> None:
    same = np.ones((3, 2))
    assert float(neuralize(same).beta) == 1
    assert float(neuralize(same, same).beta) == 1


@pytest.mark.parametrize("beta", [0, 0.0, 0.25, 3, math.inf, np.float32(0.5)])
@pytest.mark.parametrize("kind", FITTED)
def test_beta_as_a_number(kind: str, beta: Any) -> None:
    assert float(neuralize(FITTED[kind], X, beta=beta).beta) == float(beta)
    assert float(neuralize(FITTED[kind], beta=beta).beta) == float(beta)


@pytest.mark.parametrize("kind", FITTED)
@pytest.mark.parametrize(
    ("beta", "sentence"),
    [
        ("heuristic", "beta='heuristic' should be a number >= 0"),
        ("0.5", "beta='0.5' should be a number >= 0"),
        (-1, "beta=-1 should be a number >= 0"),
        (math.nan, "beta=nan should be a number >= 0"),
    ],
)
def test_beta_that_makes_no_sense(beta: Any, sentence: str, kind: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        neuralize(FITTED[kind], X, beta=beta)


@pytest.mark.parametrize("kind", FITTED)
def test_training_data_that_do_not_fit(kind: str) -> None:
    with pytest.raises(ValueError, match=r"features of shape \(60, 3\) do not fit this model, which takes \(N, 4\)"):
        neuralize(FITTED[kind], X[:, :3])
    with pytest.raises(ValueError, match="features of row 0 contain NaN or infinity"):
        neuralize(FITTED[kind], X * np.nan)


# Rows as people hold them.


@pytest.mark.parametrize("kind", FITTED)
def test_rows_in_any_container(kind: str) -> None:
    head = neuralize(FITTED[kind], X)
    f, relevance = head(torch.from_numpy(X)), head.relevance(torch.from_numpy(X))
    locked = X.copy()
    locked.flags.writeable = False
    with warnings.catch_warnings(action="error"):
        for rows in (X, sparse.csr_matrix(X), sparse.coo_array(X), X.tolist(), np.asfortranarray(X), locked):
            assert torch.equal(head(rows), f)
            assert torch.equal(head.relevance(rows), relevance)
            assert float(neuralize(FITTED[kind], rows).beta) == float(head.beta)
        torch.testing.assert_close(head(X[::-1]), f.flip(0))


def test_data_frames() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcd"))
    model = KMeans(4, n_init=1, random_state=0).fit(frame)
    head = neuralize(model, frame)
    assert np.array_equal(head(frame).argmax(1).numpy(), model.predict(frame))
    assert torch.equal(head.relevance(frame, model.labels_), head.relevance(X, model.labels_))
    with pytest.raises(ValueError, match="features of type object should be numbers"):
        head(frame.assign(a="word"))


def test_centroids_in_arrays_of_any_layout() -> None:
    centroids = X[:4].copy()
    centroids.flags.writeable = False
    with warnings.catch_warnings(action="error"):
        for same in (centroids, np.asfortranarray(centroids), centroids[::-1][::-1]):
            assert torch.equal(neuralize(same)(X), neuralize(X[:4])(X))
        assert neuralize(centroids[::-1])(X).shape == (60, 4)


# The decision is that of scikit-learn on every row; only rows as near to one mean as to another may differ.


def decides_as(model: Any, rows: np.ndarray) -> int:
    """Asserts that all decisions are those of the model; how many rows are left out, as ties up to rounding."""
    head = neuralize(model, beta=1.0)
    nearest, centres = [], torch.from_numpy(model.cluster_centers_)
    for part in torch.split(torch.from_numpy(rows), 100):
        exact = torch.cdist(part, centres, compute_mode="donot_use_mm_for_euclid_dist").square()  # by differences
        nearest.append(exact.topk(2, largest=False).values)
    best, second = torch.cat(nearest).numpy().T
    tied = second - best <= 1e-12 * second
    assert np.array_equal(head(rows).argmax(1).numpy()[~tied], model.predict(rows)[~tied])
    return int(tied.sum())


@pytest.mark.parametrize("load", [load_wine, load_digits])
@pytest.mark.parametrize("n_clusters", [2, 3, 10, 50])
def test_the_decision_on_data_that_people_know(n_clusters: int, load: Any) -> None:
    data = load().data
    for kind in (KMeans, MiniBatchKMeans):
        assert decides_as(kind(n_clusters, n_init=1, random_state=0).fit(data), data) == 0


@pytest.mark.parametrize("seed", range(10))
def test_the_decision_on_blobs(seed: int) -> None:
    data, _ = make_blobs(1000, n_features=2 + 3 * seed, centers=6, cluster_std=4.0, random_state=seed)
    assert decides_as(KMeans(3 + seed, n_init=1, random_state=seed).fit(data), data) == 0


def test_the_decision_among_ten_thousand_clusters() -> None:
    random = np.random.default_rng(0)
    means, rows = random.normal(size=(10_000, 16)), random.normal(size=(2_000, 16))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = KMeans(10_000, init=means, n_init=1, max_iter=1).fit(means)
    assert len(np.unique(model.predict(rows))) > 1000
    assert decides_as(model, rows) == 0


def test_the_relevance_among_ten_thousand_clusters_conserves() -> None:
    random = np.random.default_rng(0)
    head: Head = neuralize(random.normal(size=(10_000, 16)), beta=0.1)
    got = head.attribute(random.normal(size=(50, 16)))
    torch.testing.assert_close(got.relevance.sum(1), got.explained, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("far", [1e4, 1e6])
@pytest.mark.parametrize("kind", ["k-means", "bisecting", "kernel"])
def test_float32_decides_exactly_though_one_cluster_is_far_away(kind: str, far: float) -> None:
    x, _ = make_blobs(400, 4, centers=5, random_state=0)
    centres = np.stack([x[i::5].mean(0) for i in range(5)] + [np.array([far, 0, 0, 0])])
    rows = torch.from_numpy(x)
    if kind == "kernel":
        heads = [
            NeuralizedKernelKMeans(torch.as_tensor(centres, dtype=dtype), torch.arange(6), 0.1)
            for dtype in (torch.float32, torch.float64)
        ]
    elif kind == "k-means":
        heads = [neuralize(centres.astype(dtype)) for dtype in (np.float32, np.float64)]
    else:
        data = np.vstack([x, centres[-1:]])
        heads = [
            neuralize(BisectingKMeans(6, random_state=0).fit(data.astype(dtype))) for dtype in (np.float32, np.float64)
        ]
    rough, exact = (head(rows.to(head.centre.dtype)) for head in heads)
    clear = exact.topk(2).values.diff().abs()[:, 0] > 1e-3
    assert torch.equal(rough.argmax(1)[clear], exact.argmax(1)[clear])
    mine, right = (f.double().amax(1) for f in (rough, exact))
    assert ((mine - right).abs() / right)[clear].median() < 1e-4


def test_mini_batches_without_labels() -> None:
    x = np.random.default_rng(0).normal(size=(50, 3))
    fitted = MiniBatchKMeans(3, compute_labels=False, n_init=1, random_state=0).fit(x)
    assert (neuralize(fitted)(torch.from_numpy(x)).argmax(1).numpy() == fitted.predict(x)).all()


def test_a_pipeline_far_from_the_origin_in_float32() -> None:
    x, _ = make_blobs(200, 6, centers=3, random_state=0)
    x = (x + 1e5).astype(np.float32)
    model = make_pipeline(StandardScaler(), PCA(4), KMeans(3, n_init=1, random_state=0)).fit(x)
    assert (neuralize(model)(torch.from_numpy(x)).argmax(1).numpy() == model.predict(x)).all()


@pytest.mark.parametrize("beta", [None, "auto"])
def test_the_ways_to_say_automatic(beta: Any) -> None:
    x = np.random.default_rng(0).normal(size=(50, 3))
    fitted, rows = KMeans(3, n_init=1, random_state=0).fit(x), torch.from_numpy(x)
    head = neuralize(fitted, beta=beta)
    torch.testing.assert_close(head.relevance(rows, beta=beta), neuralize(fitted).relevance(rows))


def test_targets_in_words() -> None:
    x = torch.randn(30, 3, dtype=torch.float64)
    head = neuralize(x[:5])
    best = head(x).topk(2).indices
    torch.testing.assert_close(head.relevance(x, target="assigned"), head.relevance(x, target=best[:, 0]))
    torch.testing.assert_close(head.relevance(x, target="runner_up"), head.relevance(x, target=best[:, 1]))
    with pytest.raises(ValueError, match="target='nearest' is unknown; choose a cluster, assigned or runner_up"):
        head.relevance(x, target="nearest")


@pytest.mark.parametrize("name", ["target", "against"])
@pytest.mark.parametrize("wrong", [1.7, torch.tensor([0.9]), float("nan"), [True]])
def test_clusters_are_whole_numbers(name: str, wrong: Any) -> None:
    head = neuralize(torch.randn(4, 3))
    with pytest.raises(ValueError, match=f"{name}=.* should be a cluster number"):
        head.relevance(torch.randn(1, 3), **{name: wrong})


@pytest.mark.parametrize("rule", ["midpoint", "zero"])
@pytest.mark.parametrize("row", [[0.0, 0.0, 0.0], [0.3, -1.7, 2.2]])
def test_scores_that_differ_by_their_biases_alone(row: list[float], rule: Any) -> None:
    """No border separates them, and no feature is the reason: the biases keep what there is."""
    weight = torch.tensor([[1.0, 0.0, -1.0], row, row], dtype=torch.float64)
    head = NeuralizedLinear(weight, torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64), beta=0.3)
    x = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alone = head.attribute(x, 1, 2, rule)
    assert alone.relevance.abs().max() <= 1e-12
    torch.testing.assert_close(alone.absorbed, torch.full((20,), 0.5, dtype=torch.float64))
    for target in range(3):
        explained = head.attribute(x, target, rule=rule)
        torch.testing.assert_close(explained.relevance.sum(1) + explained.absorbed, explained.explained)
        one = head.attribute(x[:1], target, rule=rule)
        torch.testing.assert_close(one.relevance, explained.relevance[:1])


def test_a_stiffness_beyond_the_range_of_numbers_is_infinite() -> None:
    head, x = NeuralizedKMeans(torch.randn(4, 3)), torch.randn(5, 3)
    torch.testing.assert_close(head.relevance(x, beta=1e39), head.relevance(x, beta=math.inf))
