import numpy as np
import pytest
import torch

from whycluster.clustering import neighbours
from whycluster.clustering.neighbours import nearest_neighbours, query_blocks
from whycluster.errors import UserError


def all_neighbours(x, k, origin=0.0):
    origin = torch.full((x.shape[1],), origin)
    return torch.cat([nearest_neighbours(x, origin, k, block) for block in query_blocks(len(x))]).numpy()


def by_sorting(x, k):
    """All similarities in float64, sorted; of equal ones the first."""
    unit = x.astype(np.float64) / np.maximum(np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True), 1e-12)
    similar = unit @ unit.T
    np.fill_diagonal(similar, -np.inf)
    return np.argsort(-similar.round(9), axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize(("query_rows", "key_rows"), [(1024, 8192), (7, 11), (100, 30)])
@pytest.mark.parametrize("k", [1, 5, 99])
def test_they_are_those_of_sorting_all_pairs(monkeypatch, query_rows, key_rows, k):
    monkeypatch.setattr(neighbours, "QUERY_ROWS", query_rows)
    monkeypatch.setattr(neighbours, "KEY_ROWS", key_rows)
    x = np.random.RandomState(0).randn(100, 6) * np.random.RandomState(1).uniform(0.1, 9, (100, 1))
    np.testing.assert_array_equal(all_neighbours(x, k), by_sorting(x, k))


@pytest.mark.parametrize("key_rows", [4, 10, 8192])
@pytest.mark.parametrize("k", [1, 3, 6, 30])
def test_of_equal_ones_the_first_are_taken(monkeypatch, key_rows, k):
    monkeypatch.setattr(neighbours, "KEY_ROWS", key_rows)
    x = np.eye(4)[np.random.RandomState(0).randint(4, size=40)]  # whose products are exact
    x[5] = 0  # is equally similar to all
    found = all_neighbours(x, k)
    np.testing.assert_array_equal(found, by_sorting(x, k))
    assert found[5].tolist() == [row for row in range(40) if row != 5][:k]


def test_length_does_not_count():
    x = np.array([[1.0, 0.0], [100.0, 90.0], [2.0, 0.1], [0.5, 0.5]])
    assert all_neighbours(x, 1)[:, 0].tolist() == [2, 3, 0, 1]


def test_similarity_is_relative_to_the_origin():
    x = np.random.RandomState(0).randn(50, 3)
    np.testing.assert_array_equal(all_neighbours(x + 3, 4, origin=3.0), by_sorting(x, 4))


def test_rows_in_a_file(tmp_path):
    x = np.random.RandomState(0).randn(50, 3).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_array_equal(all_neighbours(mapped, 4), all_neighbours(x, 4))


@pytest.mark.parametrize("k", [0, 10, 11])
def test_more_neighbours_than_rows(k):
    with pytest.raises(UserError, match=f"n_neighbours={k} should be from 1 to 9, as there are 10 rows"):
        all_neighbours(np.ones((10, 2)), k)
