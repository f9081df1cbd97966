import warnings

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from whycluster.clustering.lloyd import Sums, accumulate, assign, reseed, starts, update


def blobs(n=200, d=5, seed=0):
    random = np.random.RandomState(seed)
    return torch.from_numpy(random.randn(n, d) + random.randint(0, 5, (n, 1)) * 3)


def test_assign_is_the_nearest_centroid():
    x, centroids = blobs(), blobs(7, seed=1)
    squared = ((x[:, None] - centroids) ** 2).sum(2)
    clusters, distances = assign(x, centroids)
    assert torch.equal(clusters, squared.argmin(1))
    torch.testing.assert_close(distances, squared.min(1).values, rtol=1e-10, atol=1e-10)


def test_assign_to_several_restarts_equals_one_after_another():
    x, centroids = blobs(), blobs(21, seed=1).view(3, 7, 5)
    clusters, distances = assign(x, centroids)
    for restart in range(3):
        alone = assign(x, centroids[restart])
        assert torch.equal(clusters[restart], alone[0])
        torch.testing.assert_close(distances[restart], alone[1])


def test_accumulate_sums_each_cluster():
    x, centroids = blobs(), blobs(14, seed=1).view(2, 7, 5)
    sums, distances = accumulate(x, centroids)
    for restart in range(2):
        clusters = assign(x, centroids[restart])[0]
        for cluster in range(7):
            torch.testing.assert_close(sums.features[restart, cluster], x[clusters == cluster].sum(0))
            assert sums.counts[restart, cluster] == (clusters == cluster).sum()
    torch.testing.assert_close(sums.inertia, distances.sum(1))


@pytest.mark.parametrize("parts", [1, 3, 200])
def test_sums_of_batches_add_up_to_the_sums_of_all(parts):
    x, centroids = blobs(), blobs(7, seed=1)[None]
    total = Sums.nothing(centroids)
    for batch in x.chunk(parts):
        total = total + accumulate(batch, centroids)[0]
    for one, other in zip(total, accumulate(x, centroids)[0], strict=True):
        torch.testing.assert_close(one, other)


def test_accumulate_takes_an_empty_batch():
    sums, distances = accumulate(torch.empty(0, 5), torch.zeros(2, 3, 5))
    assert sums.counts.sum() == 0
    assert distances.shape == (2, 0)


def test_one_iteration_is_that_of_scikit_learn():
    x, start = blobs(), blobs(6, seed=3)
    theirs = KMeans(6, init=start.numpy(), n_init=1, max_iter=1, algorithm="lloyd", tol=0)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        theirs.fit(x.numpy())
    ours, _ = update(accumulate(x, start[None])[0], start[None])
    np.testing.assert_allclose(ours[0].numpy(), theirs.cluster_centers_, rtol=1e-10)


def test_shift_is_zero_only_when_nothing_moves():
    centroids = torch.tensor([[[0.1], [5.0]]])
    x = torch.tensor([[0.1], [5.0]])
    assert update(accumulate(x, centroids)[0], centroids)[1] == 0
    assert update(accumulate(x + 1e-3, centroids)[0], centroids)[1] > 0


def test_an_empty_cluster_gets_the_farthest_row_and_the_donor_loses_it():
    x = torch.tensor([[0.0], [1.0], [2.0], [9.0]]).double()
    centroids = torch.tensor([[[1.0], [-50.0], [-60.0]]]).double()  # two that nothing is near
    sums, distances = accumulate(x, centroids)
    order = distances[0].argsort(descending=True)
    moved = reseed(sums, x[order], assign(x[order], centroids[0])[0])
    assert moved.counts.tolist() == [[2, 1, 1]]
    assert moved.features[0, 1].item() == 9
    assert moved.features.sum() == x.sum()


def test_reseeding_never_empties_another_cluster():
    centroids = torch.tensor([[[0.0], [100.0], [-500.0]]]).double()
    x = torch.tensor([[0.0], [0.5], [90.0]]).double()  # the farthest row is the only one of its cluster
    sums, distances = accumulate(x, centroids)
    order = distances[0].argsort(descending=True)
    assert (reseed(sums, x[order], assign(x[order], centroids[0])[0]).counts >= 1).all()


def test_starts_are_rows_and_follow_the_seed():
    x = blobs().numpy()
    first = starts(x, 4, n_init=3, seed=1)
    assert first.shape == (3, 4, 5)
    assert torch.equal(first, starts(x, 4, n_init=3, seed=1))
    assert not torch.equal(first, starts(x, 4, n_init=3, seed=2))
    assert all((x == row).all(1).any() for row in first.flatten(0, 1).numpy())


def test_more_clusters_than_rows_is_an_error():
    with pytest.raises(ValueError, match="n_clusters=4 should be <= the number of images, 3"):
        starts(np.zeros((3, 2)), 4, 1, 0)
