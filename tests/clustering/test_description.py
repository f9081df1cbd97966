import numpy as np
import pytest
import torch

from whycluster.clustering import description
from whycluster.clustering import features as stored
from whycluster.clustering.description import assess_clusters
from whycluster.clustering.features import FeatureStore
from whycluster.clustering.stability import refit_kmeans

CENTRES = np.array([[0, 0], [9, 0], [0, 20], [90, 90]], np.float32)
CLUSTERS = np.arange(24) % 4


@pytest.fixture
def features(tmp_path):
    x = CENTRES[CLUSTERS] + np.random.default_rng(0).normal(0, 0.1, (24, 2)).astype(np.float32)
    return FeatureStore.write(tmp_path / "features.npy", [torch.from_numpy(x)], 24, 2)


def test_clusters_are_described_by_their_rows(features):
    rows = assess_clusters(features, CLUSTERS, np.arange(24.0), 5, refit_kmeans(4, 3), seed=0)
    x = features.open().astype(float)
    means = np.stack([x[k == CLUSTERS].mean(0) for k in range(4)])
    assert [row["size"] for row in rows] == [6, 6, 6, 6, 0]
    assert [row["nearest"] for row in rows] == [1, 0, 0, 2, None]
    assert [row["margin"] for row in rows] == [10, 11, 12, 13, None]
    assert rows[2]["distance"] == pytest.approx(np.linalg.norm(means[2] - means[0]))
    assert rows[0]["silhouette"] > 0.9
    assert (rows[4]["stability"], rows[4]["verdict"]) == (None, "not measured")
    assert all(row["stability"] > 0.6 for row in rows[:4])


def test_more_clusters_than_rows_of_the_sample(features, monkeypatch):
    monkeypatch.setattr(description, "sample_size", lambda *_: 3)
    rows = assess_clusters(features, CLUSTERS, np.zeros(24), 4, refit_kmeans(3), seed=0)
    assert any(row["stability"] is not None for row in rows)


def test_a_sample_of_wide_rows_is_smaller(features, monkeypatch):
    sizes = []

    def refit(rows, seed):
        sizes.append(len(rows))
        return lambda x: np.arange(len(x)) % 2

    monkeypatch.setattr(stored, "SAMPLE_BYTES", 4 * 2 * 17)  # 17 rows of two numbers
    for clusters_rows in (1, 5):  # of which the second asks for 20
        monkeypatch.setattr(stored, "CLUSTER_ROWS", clusters_rows)
        assess_clusters(features, CLUSTERS, np.zeros(24), 4, refit, seed=0)
    assert set(sizes[:20]) == {17}
    assert set(sizes[20:]) == {20}
