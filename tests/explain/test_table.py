import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.cluster import BisectingKMeans, KMeans, MiniBatchKMeans
from sklearn.datasets import load_wine, make_circles
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, Normalizer

from whycluster import KernelKMeans, explain_table, neuralize
from whycluster.explain import table as module
from whycluster.heads import NeuralizedKMeans


@pytest.fixture(scope="module")
def wine():
    return load_wine(as_frame=True).data


@pytest.fixture(scope="module")
def model(wine):
    return make_pipeline(MinMaxScaler(), KMeans(3, n_init=1, random_state=0)).fit(wine)


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(40, 4))


KINDS = {
    "KMeans": KMeans(3, n_init=1, random_state=0),
    "MiniBatchKMeans": MiniBatchKMeans(3, n_init=1, random_state=0),
    "BisectingKMeans": BisectingKMeans(3, random_state=0),
    "KernelKMeans": KernelKMeans(3, n_init=1, random_state=0),
    "pipeline": make_pipeline(MinMaxScaler(), KMeans(3, n_init=1, random_state=0)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_relevance_of_the_head(kind, rows):
    fitted = KINDS[kind].fit(rows)
    head, table = neuralize(fitted), explain_table(fitted, rows)
    np.testing.assert_allclose(table.to_numpy(), head.relevance(torch.from_numpy(rows)).numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(table.sum(axis=1), head(torch.from_numpy(rows)).amax(1), rtol=1e-9)
    np.testing.assert_array_equal(table.index.get_level_values("cluster"), fitted.predict(rows))


def test_centroids_are_a_model(rows):
    torch.testing.assert_close(
        torch.tensor(explain_table(rows[:3], rows).to_numpy()), neuralize(rows[:3]).relevance(torch.tensor(rows))
    )


def test_a_head_keeps_its_own_beta_unless_another_is_given(rows):
    head = neuralize(rows[:4], beta=0.3)
    x = torch.from_numpy(rows)
    np.testing.assert_allclose(explain_table(head, rows), head.relevance(x))
    np.testing.assert_allclose(explain_table(head, rows, beta=2), head.relevance(x, beta=2))
    np.testing.assert_allclose(explain_table(rows[:4], rows, beta=2), head.relevance(x, beta=2))


def test_questions_are_passed_on(rows):
    head, x = neuralize(rows[:4]), torch.from_numpy(rows)
    targets, others = torch.arange(40) % 4, torch.arange(1, 41) % 4
    for target, against in ((2, None), (2, 0), (targets, others)):
        table = explain_table(head, rows, target=target, against=against, rule="zero")
        np.testing.assert_allclose(table, head.relevance(x, target, against, "zero"))
        np.testing.assert_array_equal(table.index.get_level_values("cluster"), np.broadcast_to(target, 40))
    as_list = explain_table(head, rows, target=targets.tolist(), against=pd.Series(others.numpy()), rule="zero")
    pd.testing.assert_frame_equal(as_list, table)


def test_a_row_is_explained_alone_as_among_others(wine, model):
    table = explain_table(model, wine)
    pd.testing.assert_frame_equal(explain_table(model, wine.iloc[[7]]), table.iloc[[7]])


def test_batches_make_no_difference(wine, model, monkeypatch):
    whole = explain_table(model, wine, target=np.arange(178) % 3)
    monkeypatch.setattr(module, "TABLE_ENTRIES", 16 * 7)  # seven rows at a time
    pd.testing.assert_frame_equal(explain_table(model, wine, target=np.arange(178) % 3), whole)
    pd.testing.assert_frame_equal(explain_table(model, wine.to_numpy(), list(wine), target=np.arange(178) % 3), whole)


@pytest.mark.parametrize(
    "kind", [sparse.csr_matrix, sparse.csc_array, sparse.coo_matrix, torch.tensor, np.ndarray.tolist]
)
def test_all_that_holds_numbers_is_the_same(kind, rows):
    rows[rows < 0] = 0
    pd.testing.assert_frame_equal(explain_table(rows[:3], kind(rows)), explain_table(rows[:3], rows))


def test_frames_of_any_number_type(rows):
    frame = pd.DataFrame(rows).round().astype({0: "Int64", 1: "float32", 2: "int8"})
    frame[3] = frame[3] > 0
    np.testing.assert_allclose(explain_table(rows[:3], frame), explain_table(rows[:3], frame.to_numpy(np.float64)))


def test_read_only_arrays_are_taken_without_a_warning(rows, recwarn):
    rows.setflags(write=False)
    explain_table(rows[:3].copy(), rows)
    explain_table(rows[:3].copy(), pd.DataFrame(rows))
    assert not recwarn.list


def test_names_of_features(wine, model, rows):
    assert list(explain_table(model, wine).columns) == list(wine)
    assert list(explain_table(model, wine.to_numpy()).columns) == list(wine)
    assert list(explain_table(model, pd.DataFrame(wine.to_numpy())).columns) == list(wine)
    assert list(explain_table(model, wine, range(13)).columns) == list(range(13))
    assert list(explain_table(rows[:3], rows).columns) == ["x0", "x1", "x2", "x3"]
    assert list(explain_table(rows[:3], pd.DataFrame(rows, columns=list("abba"))).columns) == list("abba")
    two = pd.MultiIndex.from_product([["a", "b"], ["c", "d"]])
    assert explain_table(rows[:3], pd.DataFrame(rows, columns=two)).columns.equals(two)
    passed = make_pipeline("passthrough", KMeans(3, n_init=1)).fit(wine)
    assert list(explain_table(passed, wine.to_numpy()).columns) == list(wine)


def test_the_index_is_that_of_the_frame_and_the_cluster(wine, model):
    assert explain_table(model, wine).index.names == ["row", "cluster"]
    named = wine.set_axis(pd.Index([f"wine {number}" for number in range(178)], name="bottle"))
    table = explain_table(model, named)
    assert table.index.names == ["bottle", "cluster"]
    assert table.loc["wine 3"].index.tolist() == model.predict(wine)[3:4].tolist()
    shuffled = explain_table(model, named.iloc[::-1])
    pd.testing.assert_frame_equal(shuffled.iloc[::-1], table)
    levels = wine.set_axis(pd.MultiIndex.from_arrays([[1] * 178, range(178)], names=["year", "bottle"]))
    assert explain_table(model, levels).index.names == ["year", "bottle", "cluster"]


def test_no_rows_make_an_empty_table(wine, model):
    assert explain_table(model, wine.iloc[:0]).shape == (0, 13)


def test_single_precision_stays_single(rows):
    head = NeuralizedKMeans(torch.tensor(rows[:3], dtype=torch.float32))
    assert (explain_table(head, rows).dtypes == np.float32).all()


def test_rings_by_the_coordinate_that_tells_them_apart():
    x, _ = make_circles(200, factor=0.3, noise=0.03, random_state=0)
    table = explain_table(KernelKMeans(2, gamma=5, random_state=0).fit(x), [[1, 0], [0, 1], [0.3, 0]], ["x", "y"])
    right, top, inner = table.index.get_level_values("cluster")
    assert right == top != inner
    assert table["x"].iloc[0] > 2 * abs(table["y"].iloc[0])
    assert table["y"].iloc[1] > 2 * abs(table["x"].iloc[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"feature_names": ["a", "b"]}, "feature_names holds 2 names, but the model takes 4 features"),
        ({"feature_names": "abcd"}, r"feature_names='abcd' should be a list of 4 names"),
        ({"target": 7}, "target=7 is no cluster"),
        ({"target": 0.5}, r"target=0.5 should be a cluster number, or one for each of 40 rows"),
        ({"target": "nearest"}, "target='nearest' should be a cluster number, .* runner_up or all"),
        ({"target": [0, 1]}, r"target=\[0, 1\] should be a cluster number"),
        ({"target": 1, "against": 1}, "against itself"),
        ({"rule": "epsilon"}, "rule='epsilon' is unknown"),
        ({"beta": -1.0}, r"beta=-1.0 should be a number >= 0"),
    ],
)
def test_arguments_that_make_no_sense(rows, arguments, message):
    with pytest.raises(ValueError, match=message):
        explain_table(rows[:3], rows, **arguments)


def test_data_that_does_not_fit(rows):
    with pytest.raises(ValueError, match=r"features of shape \(40, 3\) do not fit this model, which takes \(N, 4\)\."):
        explain_table(rows[:3], rows[:, :3])
    with pytest.raises(ValueError, match=r"shape \(4,\) .*; one row alone has the shape \(1, D\)"):
        explain_table(rows[:3], rows[0])
    with pytest.raises(ValueError, match="should be numbers"):
        explain_table(rows[:3], rows.astype(str))


def test_missing_values_are_named(rows, monkeypatch):
    monkeypatch.setattr(module, "TABLE_ENTRIES", 1)
    centroids = rows[:3].copy()
    rows[9, 2] = np.nan
    with pytest.raises(ValueError, match="row 9 has nan in column 'x2'"):
        explain_table(centroids, rows)
    with pytest.raises(ValueError, match="row 19 has nan in column 'c'"):
        explain_table(centroids, pd.DataFrame(rows, index=[*range(10, 50)]), np.array(list("abcd")))
    frame = pd.DataFrame(rows, columns=list("abcd"), index=[f"r{number}" for number in range(40)])
    with pytest.raises(ValueError, match="row 'r9' has nan in column 'c'"):
        explain_table(centroids, frame)
    with pytest.raises(ValueError, match="row 'r9' has nan in column 'c'"):
        explain_table(centroids, frame.convert_dtypes())


def test_columns_that_are_no_numbers_are_named(wine, model):
    for bad in (["red"] * 178, pd.date_range("2020", periods=178), [1j] * 178):
        with pytest.raises(ValueError, match=r"column 'hue' holds .*, which are no numbers"):
            explain_table(model, wine.assign(hue=bad))


def test_columns_that_are_not_those_of_the_model(wine, model):
    with pytest.raises(ValueError, match="in another order than those the model was fitted with"):
        explain_table(model, wine[wine.columns[::-1]])
    with pytest.raises(ValueError, match=r"missing: 'hue'; unknown: 'shade'; 13 where 13"):
        explain_table(model, wine.rename(columns={"hue": "shade"}))
    with pytest.raises(ValueError, match=r"missing: 'hue'; unknown: none; 12 where 13"):
        explain_table(model, wine.drop(columns="hue"))


def test_an_index_with_a_level_cluster_is_refused(wine, model):
    with pytest.raises(ValueError, match="level named 'cluster'"):
        explain_table(model, wine.rename_axis(index="cluster"))


def test_models_that_cannot_be_explained(rows):
    with pytest.raises(NotFittedError):
        explain_table(KMeans(3), rows)
    with pytest.raises(ValueError, match="no affine map"):
        explain_table(make_pipeline(Normalizer(), KMeans(3, n_init=1)).fit(rows), rows)


def test_without_pandas(rows, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'whycluster\[tables\]'"):
        explain_table(rows[:3], rows)


def test_whycluster_needs_neither_pandas_nor_matplotlib():
    # scikit-learn imports pandas by itself where it is; what counts is that nothing here asks for it.
    script = "import sys; sys.modules['pandas'] = sys.modules['matplotlib'] = None; import whycluster"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_in_words(kind, rows):
    fitted = KINDS[kind].fit(rows)
    x = torch.from_numpy(rows)
    head = neuralize(fitted)
    runner_up = head(x).topk(2).indices[:, 1]
    pd.testing.assert_frame_equal(explain_table(fitted, rows, target="assigned"), explain_table(fitted, rows))
    table = explain_table(fitted, rows, target="runner_up")
    np.testing.assert_array_equal(table.index.get_level_values("cluster"), runner_up)
    np.testing.assert_allclose(table, head.relevance(x, runner_up))
    table = explain_table(fitted, rows, target="all")
    assert table.shape == (len(rows) * 3, 4)
    for cluster in range(3):
        own = table.xs(cluster, level="cluster")
        np.testing.assert_array_equal(own.index, range(len(rows)))
        np.testing.assert_allclose(own, head.relevance(x, cluster), rtol=1e-12)


@pytest.mark.parametrize("wrapped", [lambda model, wine: model, neuralize], ids=["model", "head"])
@pytest.mark.parametrize("kind", [KMeans(3, n_init=1, random_state=0), KernelKMeans(3, n_init=1, random_state=0)])
def test_columns_in_another_order_are_refused_of_models_and_heads(kind, wrapped, wine):
    model = wrapped(kind.fit(wine), wine)
    assert list(explain_table(model, wine.to_numpy()).columns) == list(wine.columns)
    with pytest.raises(ValueError, match="in another order"):
        explain_table(model, wine[wine.columns[::-1]])
