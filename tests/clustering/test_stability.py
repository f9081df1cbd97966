import numpy as np
import pytest
from sklearn.cluster import KMeans

from whycluster.clustering.kernel_kmeans import KernelKMeans
from whycluster.clustering.stability import (
    bootstrap_clusters,
    largest_jaccard,
    refit_kmeans,
    refit_spherical_kmeans,
    stability,
    verdict,
)


def jaccard(one, other):
    return len(one & other) / len(one | other)


def test_the_index_is_that_of_the_most_similar_cluster():
    random = np.random.RandomState(0)
    clusters, others = random.randint(0, 5, 200), random.randint(3, 9, 200)
    clusters[clusters == 3] = 4  # a cluster without rows
    expected = [
        max(jaccard(set(np.flatnonzero(clusters == k)), set(np.flatnonzero(others == other))) for other in range(3, 9))
        for k in range(5)
        if k != 3
    ]
    found = largest_jaccard(clusters, others, 5)
    assert np.isnan(found[3])
    np.testing.assert_allclose(np.delete(found, 3), expected)


def test_names_of_clusters_do_not_matter():
    clusters = np.random.RandomState(0).randint(0, 4, 100)
    np.testing.assert_array_equal(largest_jaccard(clusters, (clusters + 2) % 4, 4), np.ones(4))


def test_stability_is_the_mean_over_bootstrap_samples_and_all_rows_are_assigned():
    x = np.arange(40.0)[:, None]
    clusters = (x[:, 0] >= 20).astype(int)
    drawn, limits = [], iter((20, 10))

    def refit(rows, seed):
        drawn.append(rows[:, 0])
        limit = next(limits)
        return lambda all_rows: (all_rows[:, 0] >= limit).astype(int)

    np.testing.assert_allclose(stability(x, clusters, 2, refit, n_refits=2), [(1 + 10 / 20) / 2, (1 + 20 / 30) / 2])
    for rows in drawn:
        assert len(rows) == 40 > len(np.unique(rows))  # with replacement
    assert not np.array_equal(*drawn)


def test_the_same_seed_gives_the_same_clusters():
    x = np.random.RandomState(0).randn(100, 3).astype(np.float32)
    one, again, other = (list(bootstrap_clusters(x, refit_kmeans(3), 3, seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def split_group(seed):
    """Five groups, the first twice as large, and a cluster more than there are groups: rows and their groups."""
    random = np.random.RandomState(seed)
    centres = random.randn(5, 16)
    centres *= 8 / np.linalg.norm(centres, axis=1, keepdims=True)
    groups = np.repeat(np.arange(5), [200, 100, 100, 100, 100])
    return centres[groups] + random.randn(len(groups), 16), groups


def noise_between_groups(seed):
    """Five groups, and noise between them that two clusters share: rows and their groups, 0 for noise."""
    random = np.random.RandomState(seed)
    centres, groups = 6 * random.randn(6, 16), np.repeat(np.arange(6), [200, 100, 100, 100, 100, 100])
    noise = random.uniform(-8, 8, (len(groups), 16))
    return np.where(groups[:, None] == 0, noise, centres[groups] + random.randn(len(groups), 16)), groups


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("plant", "n_clusters"), [(split_group, 6), (noise_between_groups, 7)])
def test_planted_clusters_are_not_to_be_trusted_and_real_ones_are_stable(plant, n_clusters, seed):
    x, groups = plant(seed)
    x = x.astype(np.float32)
    clusters = KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(x)
    planted = np.array([np.bincount(groups[clusters == k]).argmax() == 0 for k in range(n_clusters)])
    assert planted.sum() == 2
    indices = stability(x, clusters, n_clusters, refit_kmeans(n_clusters), seed=seed)
    assert indices[planted].max() < 0.6
    assert indices[~planted].min() >= 0.75


def test_many_clusters_that_are_real_are_stable():
    random = np.random.RandomState(0)
    groups = np.repeat(np.arange(30), 40)
    x = (4 * random.randn(30, 16)[groups] + random.randn(len(groups), 16)).astype(np.float32)
    assert stability(x, groups, 30, refit_kmeans(30)).min() >= 0.75


def test_kernel_k_means_can_be_refitted():
    random = np.random.RandomState(0)
    angle, ring = random.uniform(0, 2 * np.pi, 200), np.repeat([0, 1], 100)
    x = (np.array([1.0, 5.0])[ring] * np.array([np.cos(angle), np.sin(angle)])).T + 0.1 * random.randn(200, 2)

    def refit(rows, seed):
        return KernelKMeans(2, gamma=0.2, random_state=seed).fit(rows).predict

    assert stability(x, ring, 2, refit, n_refits=4).min() >= 0.75
    assert stability(x, ring, 2, refit_kmeans(2), n_refits=4).max() < 0.75  # which cuts the rings in two


def test_directions_are_found_again_by_spherical_k_means():
    random = np.random.RandomState(0)
    groups = np.repeat(np.arange(4), 50)
    x = (random.randn(4, 8)[groups] + 0.2 * random.randn(200, 8)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert stability(x, groups, 4, refit_spherical_kmeans(4), n_refits=4).min() >= 0.75
    drawn = x[random.randint(200, size=200)]
    one, again, other = (refit_spherical_kmeans(4)(drawn, seed)(x) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("word", "indices"),
    {
        "stable": (1.0, 0.75, 0.746),
        "doubtful": (0.744, 0.6, 0.596),
        "unstable": (0.594, 0.0),
        "not measured": (np.nan,),
    }.items(),
)
def test_words_follow_the_limits_of_hennig_as_people_see_the_numbers(word, indices):
    assert {verdict(index) for index in indices} == {word}
