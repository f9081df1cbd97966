from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

from whycluster import TemiClustering
from whycluster.clustering.temi_heads import TemiSettings
from whycluster.errors import UserError

SHORT = {"n_init": 2, "n_heads": 2, "n_neighbours": 3, "epochs": 5}
X = load_digits().data[:300]


@parametrize_with_checks([TemiClustering(3, **SHORT)])
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_labels_are_those_of_the_most_similar_prototype() -> None:
    model = TemiClustering(10, **SHORT, random_state=0).fit(X)
    moved = X - X.mean(0) / 2
    cosines = moved @ model.prototypes_.T / np.linalg.norm(moved, axis=1, keepdims=True)
    np.testing.assert_allclose(np.linalg.norm(model.prototypes_, axis=1), 1)
    np.testing.assert_array_equal(model.labels_, cosines.argmax(1))
    np.testing.assert_array_equal(model.labels_, model.predict(X))
    assert np.isfinite(model.loss_)


def test_same_seed_same_prototypes() -> None:
    first, second, other = (TemiClustering(5, **SHORT, random_state=seed).fit(X).prototypes_ for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_settings_are_those_of_temi() -> None:
    model = TemiClustering(3)
    assert {
        name: value for name, value in model.get_params().items() if name not in ("n_clusters", "random_state")
    } == {name: getattr(TemiSettings(), name) for name in TemiSettings.__dataclass_fields__}
    assert clone(model).get_params() == model.get_params()


@pytest.mark.parametrize(
    ("settings", "rows", "sentence"),
    [
        ({"n_clusters": 0}, X, "n_clusters=0 should be a whole number >= 1"),
        ({"n_clusters": 9, "n_neighbours": 3}, X[:8], "n_samples=8 should be >= n_clusters=9"),
        ({"n_clusters": 2, "n_neighbours": 8}, X[:8], "n_samples=8 should be > n_neighbours=8"),
        ({"temperature": -1}, X, "temperature=-1 should be a number > 0"),
        ({}, np.ones((30, 2)), "all rows are equal; there is nothing to cluster"),
    ],
)
def test_requests_that_cannot_be_met(settings: dict[str, Any], rows: np.ndarray, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        TemiClustering(**settings).fit(rows)


def test_a_collapse_is_said() -> None:
    rows = np.repeat([[0.0, 1.0], [1.0, 0.0]], 20, axis=0)
    with pytest.warns(ConvergenceWarning, match="the clustering has collapsed: 1 of 3 clusters are empty"):
        TemiClustering(3, **SHORT, random_state=0).fit(rows)
