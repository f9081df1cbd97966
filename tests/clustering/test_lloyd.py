import warnings

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from whycluster.clustering.lloyd import Sums, assign, inertia, moments, reseed, spherical_centroids, starts, update


def blobs(n=200, d=5, seed=0):
    random = np.random.RandomState(seed)
    return torch.from_numpy(random.randn(n, d) + random.randint(0, 5, (n, 1)) * 3)


def test_assign_is_the_nearest_centroid():
    x, centroids = blobs(), blobs(7, seed=1)
    squared = ((x[:, None] - centroids) ** 2).sum(2)
    clusters, distances = assign(x, centroids)
    assert torch.equal(clusters, squared.argmin(1))
    torch.testing.assert_close(distances, squared.min(1).values, rtol=1e-10, atol=1e-10)


def sums_of(x, centroids):
    """The definition, for each restart."""
    x = x.double()
    members = ((x[None, :, None] - centroids[:, None]) ** 2).sum(3).argmin(2)  # (R, N)
    one_hot = torch.nn.functional.one_hot(members, centroids.shape[1]).double()
    return Sums(one_hot.transpose(1, 2) @ x, one_hot.sum(1))


def test_inertia_is_the_sum_of_squared_distances():
    x, centroids = blobs(), blobs(14, seed=1).view(2, 7, 5)
    centroids[1, 3] = 900.0  # a cluster without rows
    mean, scatter, _ = moments(x.split(30), x[0])
    squared = ((x[None, :, None] - centroids[:, None]) ** 2).sum(3)
    got = inertia(sums_of(x, centroids), centroids, mean, scatter)
    torch.testing.assert_close(got, squared.amin(2).sum(1), rtol=1e-12, atol=0)
    assert (inertia(sums_of(x[:7], x[None, :7]), x[None, :7], x.mean(0), 1e-30) == 0).all()  # not below, by rounding


@pytest.mark.parametrize("parts", [1, 7])
def test_moments_of_rows_in_parts(parts):
    x = (blobs() - 3).float() + 1000  # float32 squares would cancel
    mean, scatter, largest = moments(x.chunk(parts), x[0])
    torch.testing.assert_close(mean, x.double().mean(0), rtol=1e-14, atol=0)
    assert scatter == pytest.approx(float((x.double() - x.double().mean(0)).square().sum()), rel=1e-10)
    assert torch.equal(largest, x.abs().max(0).values)
    assert torch.equal(moments([-x], x[0])[2], largest)


def test_one_iteration_is_that_of_scikit_learn():
    x, start = blobs(), blobs(6, seed=3)
    theirs = KMeans(6, init=start.numpy(), n_init=1, max_iter=1, algorithm="lloyd", tol=0)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        theirs.fit(x.numpy())
    ours, _ = update(sums_of(x, start[None]), start[None])
    np.testing.assert_allclose(ours[0].numpy(), theirs.cluster_centers_, rtol=1e-10)


def test_shift_is_zero_only_when_nothing_moves():
    centroids = torch.tensor([[[0.1], [5.0], [99.0]]]).double()  # the last has no rows, and stays
    x = torch.tensor([[0.1], [5.0]]).double()
    assert update(sums_of(x, centroids), centroids)[1] == 0
    moved, shift = update(sums_of(x + torch.tensor([[1.0], [2.0]]), centroids), centroids)
    torch.testing.assert_close(moved, torch.tensor([[[1.1], [7.0], [99.0]]]).double())
    assert float(shift) == pytest.approx(1 + 4)


def test_an_empty_cluster_gets_the_farthest_row_and_the_donor_loses_it():
    x = torch.tensor([[0.0], [1.0], [2.0], [9.0]]).double()
    centroids = torch.tensor([[[1.0], [-50.0], [-60.0]]]).double()  # two that nothing is near
    order = assign(x, centroids[0])[1].argsort(descending=True)
    moved = reseed(sums_of(x, centroids), x[order], assign(x[order], centroids[0])[0])
    assert moved.counts.tolist() == [[2, 1, 1]]
    assert moved.features[0, 1].item() == 9
    assert moved.features.sum() == x.sum()


def test_reseeding_never_empties_another_cluster():
    centroids = torch.tensor([[[0.0], [100.0], [-500.0]]]).double()
    x = torch.tensor([[0.0], [0.5], [90.0]]).double()  # the farthest row is the only one of its cluster
    order = assign(x, centroids[0])[1].argsort(descending=True)
    assert (reseed(sums_of(x, centroids), x[order], assign(x[order], centroids[0])[0]).counts >= 1).all()


def test_starts_are_rows_and_follow_the_seed():
    x = blobs().numpy()
    first = starts(x, 4, n_init=3, seed=1)
    assert first.shape == (3, 4, 5)
    assert torch.equal(first, starts(x, 4, n_init=3, seed=1))
    assert not torch.equal(first, starts(x, 4, n_init=3, seed=2))
    assert all((x == row).all(1).any() for row in first.flatten(0, 1).numpy())


def test_spherical_centroids_move_to_the_directions_of_the_means():
    x = torch.nn.functional.normalize(blobs())
    centroids = torch.nn.functional.normalize(blobs(14, seed=1)).view(2, 7, 5)
    sums = sums_of(x, centroids)
    sums.counts[0, 2], sums.features[0, 2] = 0, 0  # without rows
    sums.features[1, 4] = 0  # rows that cancel
    moved, shift = update(sums, centroids, spherical=True)
    wanted = sums.features.numpy() / np.linalg.norm(sums.features.numpy(), axis=2, keepdims=True).clip(1e-300)
    wanted[0, 2], wanted[1, 4] = centroids[0, 2], centroids[1, 4]
    np.testing.assert_allclose(moved, wanted, rtol=1e-12)
    np.testing.assert_allclose(shift, ((wanted - centroids.numpy()) ** 2).sum((1, 2)), rtol=1e-12)


def directions(n, d, seed=0):
    """Rows of length 1, most of them in the first quadrant as features behind a ReLU are."""
    x = np.random.RandomState(seed).randn(n, d) + 1
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_spherical_k_means_in_memory_restated():
    x, start = directions(400, 6), directions(5, 6, seed=1)
    ours = spherical_centroids(torch.from_numpy(x), torch.from_numpy(3 * start), tol=0)
    centroids = start
    for _ in range(300):
        nearest = (x @ centroids.T).argmax(1)
        sums = np.stack([x[nearest == cluster].sum(0) for cluster in range(5)])
        centroids = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    np.testing.assert_allclose(ours, centroids, rtol=0, atol=1e-12)
    means = KMeans(5, init=start, n_init=1, tol=0, max_iter=300).fit(x).cluster_centers_
    assert np.abs(means / np.linalg.norm(means, axis=1, keepdims=True) - centroids).max() > 1e-3  # which is another


def test_spherical_k_means_ends_where_it_is_told_to_and_fills_empty_clusters():
    x = torch.from_numpy(directions(400, 6)).float()
    start = torch.cat((x[:4], -x[:1]))  # the last one is the nearest of no row
    one, two = (spherical_centroids(x, start, max_iter=n) for n in (1, 2))
    assert one.dtype == torch.float32
    assert (one - two).norm() > 1e-3
    torch.testing.assert_close(spherical_centroids(x, start, tol=1e9), one)
    assert (x @ spherical_centroids(x, start).T).argmax(1).bincount(minlength=5).min() > 0
    torch.testing.assert_close(one.norm(dim=1), torch.ones(5))
