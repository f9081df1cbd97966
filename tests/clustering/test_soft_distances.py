import math
from typing import Any

import numpy as np
import pytest
import torch
from kernels import CLOUD, decision, kernel

from whycluster.clustering import soft_distances as module
from whycluster.clustering.soft_distances import assign_softly, soft_distances, soft_minimum


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


@pytest.mark.parametrize("block", [module.MATRIX_ENTRIES, 50])
@pytest.mark.parametrize("gamma", [0.01, 0.5, 3.0])
def test_a_row_belongs_where_it_is_most_similar_on_average(gamma: float, block: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "MATRIX_ENTRIES", block)
    x, u, labels = CLOUD[:40], CLOUD[40:75], np.arange(35) * 7 % 4
    clusters, distances = assign_softly(*map(torch.from_numpy, (x, u, labels)), gamma)
    assert np.array_equal(clusters.numpy(), decision(x, u, labels, gamma))
    similar = kernel(x, u, gamma)
    best = np.max([similar[:, labels == k].mean(1) for k in range(4)], 0)
    np.testing.assert_allclose(distances.numpy(), -np.log(best) / gamma, rtol=1e-9, atol=1e-9)


def test_far_from_the_origin_nothing_cancels() -> None:
    x, u, labels = (CLOUD[:40] + 3000).astype(np.float32), (CLOUD[40:75] + 3000).astype(np.float32), np.arange(35) % 4
    clusters, distances = assign_softly(*map(torch.from_numpy, (x, u, labels)), 0.5)
    exact = assign_softly(*(torch.from_numpy(rows).double() for rows in (x, u)), torch.from_numpy(labels), 0.5)
    assert torch.equal(clusters, exact[0])
    torch.testing.assert_close(distances.double(), exact[1], rtol=1e-5, atol=1e-5)


def test_rows_far_from_all_supports_have_a_decision() -> None:
    x = torch.tensor([[1e6, 0.0], [-1e6, 0.0]], dtype=torch.float64)  # where each kernel is 0
    u = torch.tensor([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    clusters, distances = assign_softly(x, u, torch.tensor([1, 1, 0]), 1.0)
    assert clusters.tolist() == [1, 0]
    assert distances.isfinite().all()
