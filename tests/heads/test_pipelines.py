import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.cluster import DBSCAN, BisectingKMeans, KMeans, MiniBatchKMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits, load_wine
from sklearn.decomposition import NMF, PCA, IncrementalPCA, TruncatedSVD
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)

from whycluster.clustering.kernel_kmeans import KernelKMeans
from whycluster.heads import neuralize

K = 4
WINE, CULTIVAR = load_wine(return_X_y=True)

STEPS: dict[str, list[Any]] = {
    "standard": [StandardScaler()],
    "without mean": [StandardScaler(with_mean=False)],
    "without scale": [StandardScaler(with_std=False)],
    "robust": [RobustScaler()],
    "robust without scale": [RobustScaler(with_scaling=False)],
    "robust without centre": [RobustScaler(with_centering=False)],
    "minmax": [MinMaxScaler((-1, 3))],
    "maxabs": [MaxAbsScaler()],
    "PCA": [PCA(5, random_state=0)],
    "whitened": [PCA(5, whiten=True, random_state=0)],
    "all whitened": [StandardScaler(), PCA(whiten=True, random_state=0)],
    "incremental": [IncrementalPCA(5)],
    "incremental whitened": [IncrementalPCA(5, whiten=True)],
    "SVD": [TruncatedSVD(4, random_state=0)],
    "variance": [VarianceThreshold(1.0)],
    "best": [SelectKBest(k=6)],
    "scaled, then PCA": [StandardScaler(), PCA(6, random_state=0)],
    "PCA, then scaled": [PCA(6, random_state=0), StandardScaler()],
    "scaled twice": [RobustScaler(), MinMaxScaler()],
    "two projections": [StandardScaler(), PCA(8, random_state=0), TruncatedSVD(3, random_state=0)],
    "selected, then PCA": [SelectKBest(k=7), StandardScaler(), PCA(3, random_state=0), MaxAbsScaler()],
    "nested": [make_pipeline(StandardScaler(), make_pipeline("passthrough", PCA(5, random_state=0))), MaxAbsScaler()],
    "passed through": ["passthrough", StandardScaler(), None, "passthrough"],
    "nothing": ["passthrough"],
}


def pipeline(steps: list[Any], end: Any) -> Pipeline:
    return Pipeline([(f"step {number}", step) for number, step in enumerate([*steps, end])])


@pytest.fixture(params=STEPS)
def model(request: Any) -> Pipeline:
    return pipeline(STEPS[request.param], KMeans(K, n_init=1, random_state=0)).fit(WINE, CULTIVAR)


def linear_part(model: Pipeline, width: int) -> np.ndarray:
    """`A` of the map before the clustering, `A x + a`: where unit vectors go, seen from where zero goes."""
    return (model[:-1].transform(np.eye(width)) - model[:-1].transform(np.zeros((1, width)))).T


def reference(model: Pipeline, rows: np.ndarray, rule: str, beta: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the assigned clusters: distances where the clustering has them, relevance where the columns are."""
    a, z, nu = linear_part(model, rows.shape[1]), model[:-1].transform(rows), model[-1].cluster_centers_
    mu = model[:-1].inverse_transform(nu)
    relevance, explained, absorbed = np.zeros_like(rows), np.zeros(len(rows)), np.zeros(len(rows))
    for n, row in enumerate(rows):
        d = [((z[n] - centre) ** 2).sum() for centre in nu]
        c = int(np.argmin(d))
        h = {k: d[k] - d[c] for k in range(len(nu)) if k != c}
        explained[n] = f = min(h.values())
        p = {k: math.exp(-beta * (h[k] - f)) for k in h}
        for k in h:
            w, q = 2 * a.T @ (nu[c] - nu[k]), f * p[k] / sum(p.values()) / h[k]
            if rule == "midpoint":
                relevance[n] += q * w * (row - (mu[c] + mu[k]) / 2)
            else:
                relevance[n] += q * w * row
                absorbed[n] += q * (h[k] - w @ row)
    return relevance, explained, absorbed


def test_the_decision_is_that_of_the_pipeline(model: Pipeline) -> None:
    assert np.array_equal(neuralize(model)(WINE).argmax(1).numpy(), model.predict(WINE))
    assert np.array_equal(neuralize(model)(WINE * 0.9 + 0.1).argmax(1).numpy(), model.predict(WINE * 0.9 + 0.1))


@pytest.mark.parametrize("rule", ["midpoint", "zero"])
@pytest.mark.parametrize("beta", [None, 0.0])
def test_relevance_at_the_original_columns(beta: Any, rule: Any, model: Pipeline) -> None:
    head, rows = neuralize(model, WINE), WINE[::9]
    got = head.attribute(rows, rule=rule, beta=beta)
    expected = reference(model, rows, rule, float(head.beta) if beta is None else beta)
    for ours, theirs in zip(got, expected, strict=True):
        assert np.abs(ours.numpy() - theirs).max() <= 1e-9 * max(1e-3, np.abs(theirs).max())
    torch.testing.assert_close(got.explained, head(rows).amax(1), rtol=1e-10, atol=1e-12)
    balance = got.explained - got.relevance.sum(1) - got.absorbed
    assert balance.abs().max() <= 1e-10 * max(1, float(got.relevance.abs().max()))


def test_the_rule_for_absent_features_is_about_original_columns(model: Pipeline) -> None:
    rows = WINE[:20].copy()
    rows[:, 3] = 0
    assert not neuralize(model).relevance(rows, rule="zero")[:, 3].any()


@pytest.mark.parametrize("kind", ["standard", "robust", "minmax", "maxabs", "PCA", "whitened", "variance"])
def test_constant_columns(kind: str) -> None:
    rows = np.insert(WINE, [0, 5], [3.0, 0.0], axis=1)
    model = pipeline(STEPS[kind], KMeans(K, n_init=1, random_state=0)).fit(rows)
    head = neuralize(model, rows)
    assert np.array_equal(head(rows).argmax(1).numpy(), model.predict(rows))
    for target in (None, 0):
        for rule in ("midpoint", "zero"):
            got = head.attribute(rows, target, rule=rule)
            assert all(part.isfinite().all() for part in got)
            assert got.relevance[:, [0, 6]].abs().max() <= 1e-9 * got.relevance.abs().max()


@pytest.mark.parametrize("steps", [[StandardScaler()], [StandardScaler(), PCA(10, random_state=0)]])
def test_digits(steps: list[Any]) -> None:
    data = load_digits().data  # of which three columns are constant
    model = pipeline(steps, MiniBatchKMeans(10, n_init=1, random_state=0)).fit(data)
    head = neuralize(model, data)
    assert np.array_equal(head(data).argmax(1).numpy(), model.predict(data))
    torch.testing.assert_close(head.relevance(data).sum(1), head(data).amax(1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["standard", "scaled, then PCA", "whitened", "best", "nested"])
@pytest.mark.parametrize(
    "end",
    [
        KernelKMeans(K, gamma=0.1, n_init=1, random_state=0),
        KernelKMeans(K, n_init=1, max_supports=20, random_state=0),
        BisectingKMeans(K, n_init=1, random_state=0),
    ],
    ids=["kernel", "fewer supports", "bisecting"],
)
def test_other_clusterings_at_the_end(end: Any, kind: str) -> None:
    model = pipeline(STEPS[kind], end).fit(WINE, CULTIVAR)
    head = neuralize(model, WINE)
    assert np.array_equal(head(WINE).argmax(1).numpy(), model.predict(WINE))
    for target in (None, 1):
        got = head.attribute(WINE, target)
        error = (got.relevance.sum(1) + got.absorbed - got.explained).abs()
        assert (error <= 1e-10 * got.explained.abs().clamp(min=got.relevance.abs().amax(1)).clamp(min=1)).all()
        assert got.absorbed.abs().max() <= 1e-10
        zero = head.attribute(WINE, target, rule="zero")
        error = (zero.relevance.sum(1) + zero.absorbed - zero.explained).abs()
        assert (error <= 1e-10 * zero.absorbed.abs().clamp(min=zero.relevance.abs().amax(1)).clamp(min=1)).all()


@pytest.mark.parametrize("kind", ["standard", "scaled, then PCA"])
def test_kernel_discriminants_are_those_after_the_steps(kind: str) -> None:
    model = pipeline(STEPS[kind], KernelKMeans(K, gamma=0.1, n_init=1, random_state=0)).fit(WINE)
    after = neuralize(model[-1])(model[:-1].transform(WINE))
    torch.testing.assert_close(neuralize(model)(WINE), after, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", ["midpoint", "zero"])
def test_kernel_relevance_at_the_original_columns(rule: Any) -> None:
    """Against one cluster, pair by pair of supports, in scaled and mixed columns."""
    centres = np.array([[0, 0, 0, 0, 0], [9, 8, -9, 7, 9]])
    data = np.random.default_rng(0).normal(size=(24, 5)) * [0.2, 0.3, 0.2, 0.4, 0.1] + np.repeat(centres, 12, axis=0)
    model = pipeline([StandardScaler(), PCA(3, random_state=0)], KernelKMeans(2, gamma=0.2, random_state=0)).fit(data)
    head, a, z = neuralize(model), linear_part(model, 5), model[:-1].transform(data)
    u, labels = model[-1].supports_, model[-1].support_labels_
    back = model[:-1].inverse_transform(u)
    got = head.attribute(data, rule=rule)
    for n, c in enumerate(model.predict(data)):
        d = ((z[n] - u) ** 2).sum(1)
        own, others = np.flatnonzero(labels == c), np.flatnonzero(labels != c)
        share = {i: math.exp(-0.2 * d[i]) / np.exp(-0.2 * d[own]).sum() for i in own}
        share |= {j: math.exp(-0.2 * d[j]) / np.exp(-0.2 * d[others]).sum() for j in others}
        f, expected = float(got.explained[n]), np.zeros(5)
        assert min(abs(d[j] - d[i]) for i in own for j in others) > 0.01 * f  # no border is near
        for i in own:
            for j in others:
                w, middle = 2 * a.T @ (u[i] - u[j]), (back[i] + back[j]) / 2
                expected += f * share[i] * share[j] / (d[j] - d[i]) * w * (data[n] - (rule == "midpoint") * middle)
        np.testing.assert_allclose(got.relevance[n].numpy(), expected, rtol=1e-9, atol=1e-9)


def test_the_relevance_of_scaled_columns_is_that_after_scaling() -> None:
    """As the midpoint rule counts differences only, for a scaling it does not matter where one looks."""
    model = pipeline([StandardScaler()], KMeans(K, n_init=1, random_state=0)).fit(WINE)
    after = neuralize(model[-1], beta=0.1).relevance(model[:-1].transform(WINE))
    torch.testing.assert_close(neuralize(model, beta=0.1).relevance(WINE), after, rtol=1e-9, atol=1e-9)


def test_sparse_rows() -> None:
    rows = sparse.csr_matrix(np.where(WINE > 2, WINE, 0))
    steps = [StandardScaler(with_mean=False), TruncatedSVD(5, random_state=0)]
    model = pipeline(steps, KMeans(K, n_init=1, random_state=0)).fit(rows)
    head = neuralize(model, rows)
    assert np.array_equal(head(rows).argmax(1).numpy(), model.predict(rows))
    assert not head.relevance(rows, rule="zero")[torch.from_numpy(rows.toarray() == 0)].any()


def test_data_frames() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(WINE, columns=load_wine().feature_names)
    steps = [StandardScaler(), PCA(5, random_state=0)]
    model = pipeline(steps, KMeans(K, n_init=1, random_state=0)).set_output(transform="pandas").fit(frame)
    with warnings.catch_warnings(action="error"):
        head = neuralize(model, frame)
    assert np.array_equal(head(frame).argmax(1).numpy(), model.predict(frame))
    assert head.relevance(frame).shape == (178, 13)


# Errors.

END = KMeans(2, n_init=1, random_state=0)


@pytest.mark.parametrize(
    "step",
    [
        PolynomialFeatures(),
        Normalizer(),
        MinMaxScaler(clip=True),
        QuantileTransformer(n_quantiles=10),
        NMF(2, max_iter=2000, tol=1e-2),
        FunctionTransformer(),
        ColumnTransformer([("scaled", StandardScaler(), [0, 1])]),
    ],
)
def test_steps_that_are_not_affine(step: Any) -> None:
    model = Pipeline([("first", StandardScaler(with_mean=False)), ("odd", step), ("end", END)]).fit(np.abs(WINE[:60]))
    with pytest.raises(ValueError, match=f"step 'odd' of the pipeline, {type(step).__name__}, is no affine map"):
        neuralize(model)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (make_pipeline(StandardScaler(), END), "This StandardScaler instance is not fitted yet"),
        (make_pipeline(StandardScaler().fit(WINE), KMeans(2)), "This KMeans instance is not fitted yet"),
        (Pipeline([("nothing", "passthrough")]), "this pipeline is empty; let it end in a k-means"),
        (make_pipeline(make_pipeline("passthrough"), None), "this pipeline is empty"),
        (make_pipeline(StandardScaler()).fit(WINE), "cannot neuralize a StandardScaler; give a fitted KMeans"),
        (make_pipeline(StandardScaler(), DBSCAN()).fit(WINE), "cannot neuralize a DBSCAN; give a fitted KMeans"),
        (make_pipeline(StandardScaler(), KMeans(1)).fit(WINE), "one cluster alone has no competitor"),
    ],
)
def test_pipelines_that_cannot_be_neuralized(model: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        neuralize(model)


def test_rows_that_do_not_fit_the_first_step() -> None:
    model = make_pipeline(StandardScaler(), PCA(3, random_state=0), END).fit(WINE)
    with pytest.raises(ValueError, match=r"features of shape \(178, 12\) do not fit this model, which takes \(N, 13\)"):
        neuralize(model)(WINE[:, 1:])
