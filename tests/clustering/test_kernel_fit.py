from typing import Any

import numpy as np
import pytest
import torch
from kernels import BLOB, BLOBS, CLOUD, kernel
from torch import Tensor

from whycluster.clustering import kernel_fit, soft_distances
from whycluster.clustering.kernel_fit import fit_kernel_kmeans, representatives
from whycluster.clustering.kernel_kmeans import KernelKMeans


def test_a_kernel_matrix_too_large_to_keep(monkeypatch: Any) -> None:
    kept = KernelKMeans(5, gamma=0.5, n_init=3, random_state=0).fit(CLOUD)
    squares, computed = kernel_fit.squares, []

    def counted(x: Tensor, others: Tensor) -> Tensor:
        computed.append(len(x) * len(others))
        return squares(x, others)

    monkeypatch.setattr(kernel_fit, "squares", counted)
    for limit in (2**27, 0):
        monkeypatch.setattr(kernel_fit, "KEPT", limit)
        computed.clear()
        again = KernelKMeans(5, gamma=0.5, n_init=3, random_state=0).fit(CLOUD)
        whole = computed.count(90 * 90)
        assert (whole > again.n_iter_) if limit == 0 else (whole == 1)
        assert np.array_equal(again.labels_, kept.labels_)
        assert again.inertia_ == pytest.approx(kept.inertia_, rel=1e-12)


def test_empty_clusters_get_the_rows_least_similar_to_their_own() -> None:
    labels = torch.tensor([[0, 0, 0, 1, 1, 2], [0, 1, 2, 3, 4, 4]])
    own = torch.tensor([[0.5, 0.9, 0.2, 0.3, 0.8, 0.1], [0.1] * 6])  # row 5 is the only one of its cluster
    similarity = torch.zeros(2, 6, 5).scatter_(2, labels[..., None], own[..., None])
    filled = kernel_fit._filled(labels, similarity, 5)
    assert filled.tolist() == [[0, 0, 3, 4, 1, 2], [0, 1, 2, 3, 4, 4]]
    assert labels[0].tolist() == [0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize(("n_clusters", "trials"), [(2, 2), (7, 3), (21, 5)])
def test_starts_are_the_best_of_some_trials(n_clusters: int, trials: int) -> None:
    class Watched(np.random.RandomState):
        def choice(self, *given: Any, **named: Any) -> Any:
            drawn.append(super().choice(*given, **named))
            return drawn[-1]

    drawn: list[np.ndarray] = []
    kernel_fit._start(kernel_fit._Kernel(torch.from_numpy(CLOUD), 0.5), n_clusters, Watched(0))
    assert [len(rows) for rows in drawn] == [trials] * (n_clusters - 1)  # 2 + log K, as in scikit-learn


@pytest.mark.parametrize("block", [1, 100, 1000])
@pytest.mark.parametrize("max_supports", [None, 20])
def test_blocks_change_nothing(block: int, max_supports: int | None, monkeypatch: Any) -> None:
    def fit() -> KernelKMeans:
        return KernelKMeans(5, gamma=0.5, n_init=2, max_supports=max_supports, random_state=0).fit(CLOUD)

    whole = fit()
    for module in (kernel_fit, soft_distances):
        monkeypatch.setattr(module, "MATRIX_ENTRIES", block)
    parts = fit()
    assert np.array_equal(parts.labels_, whole.labels_)
    assert np.array_equal(parts.supports_, whole.supports_)
    assert parts.inertia_ == pytest.approx(whole.inertia_, rel=1e-12)


def test_a_restart_that_converged_says_so() -> None:
    fit = fit_kernel_kmeans(torch.from_numpy(CLOUD), 4, 0.5, 3, 300, 0)
    assert fit.converged
    assert not fit_kernel_kmeans(torch.from_numpy(CLOUD), 4, 0.5, 3, 2, 0).converged


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
