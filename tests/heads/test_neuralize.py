from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import DBSCAN, KMeans, MiniBatchKMeans

from whycluster.clustering.kernel_kmeans import KernelKMeans
from whycluster.heads import neuralize

X = np.random.default_rng(0).normal(size=(60, 4)) * 3


@pytest.mark.parametrize(
    "estimator", [KMeans(4, n_init=1, random_state=0), MiniBatchKMeans(4, n_init=1, random_state=0)]
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_fitted_estimator(estimator: Any, dtype: type) -> None:
    model = estimator.fit(X.astype(dtype))
    head = neuralize(model, beta=0.2)
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
        (DBSCAN().fit(X), "cannot neuralize a DBSCAN; give a fitted KMeans, BisectingKMeans or KernelKMeans"),
        ("kmeans", "cannot neuralize a str; give a fitted KMeans"),
        (None, "cannot neuralize a NoneType"),
        (np.zeros(3), r"shape \(3,\)"),
        (KMeans(1, n_init=1).fit(X), "one cluster alone has no competitor"),
    ],
)
def test_what_cannot_be_neuralized(model: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        neuralize(model)


def test_arrays_are_taken_as_they_are():
    x = np.random.RandomState(0).randn(40, 3)
    fitted = KMeans(4, n_init=1, random_state=0).fit(x)
    head = neuralize(fitted)
    assert head(x).argmax(1).tolist() == fitted.predict(x).tolist()
    assert head.relevance(x).shape == (40, 3)
