import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score, silhouette_score

from whycluster.clustering.how_many import Candidate, choose, choose_n_clusters, numbers_of_clusters
from whycluster.clustering.stability import bootstrap_clusters, refit_kmeans


def blobs(n_groups, n_rows=240, width=6, seed=0):
    x, groups = make_blobs(n_rows, width, centers=n_groups, center_box=(-8, 8), random_state=seed)
    return x.astype(np.float32), groups


@pytest.mark.parametrize("n_groups", [2, 4, 7])
def test_groups_that_lie_apart_are_counted(n_groups):
    choice = choose_n_clusters(blobs(n_groups)[0], range(2, 10))
    assert choice.n_clusters == n_groups
    assert choice.sure
    assert [one.n_clusters for one in choice.curve] == list(range(2, 10))


def test_rows_without_groups_tell_nothing():
    x = np.random.RandomState(0).randn(300, 8) * [5, 3, 1, 1, 1, 1, 1, 1]
    choice = choose_n_clusters(x, range(2, 7))
    assert not choice.sure
    assert choice.verdict.startswith("these features do not tell how many groups there are: ")
    assert choice.n_clusters in range(2, 7)


def test_figures_are_those_of_k_means_in_the_features():
    """With no more features than components these are a rotation of them, which changes no distance."""
    x = blobs(3)[0]
    [one] = choose_n_clusters(x, [3]).curve
    clusters = KMeans(3, n_init=5, random_state=1).fit_predict(x)
    assert one.silhouette == pytest.approx(silhouette_score(x, clusters), abs=1e-4)
    means = np.array([x[clusters == k].mean(0) for k in range(3)])
    assert one.inertia == pytest.approx(((x - means[clusters]) ** 2).sum(), rel=1e-4)
    refits = bootstrap_clusters(x, refit_kmeans(3), 8, seed=1)
    expected = np.mean([adjusted_rand_score(clusters, found) for found in refits])
    assert one.stability == pytest.approx(expected, abs=0.05)


def test_inertia_counts_what_the_components_leave_out():
    random = np.random.RandomState(0)
    x = random.randn(300, 120).astype(np.float32)
    x[:150, 0] += 60
    [one] = choose_n_clusters(x, [2]).curve
    parts = (x[:150], x[150:])
    assert one.inertia == pytest.approx(sum(((part - part.mean(0)) ** 2).sum() for part in parts), rel=1e-3)


def test_rows_without_groups_have_the_same_variances():
    """A long normal distribution has a large silhouette in two parts, which is no evidence of groups."""
    x = np.random.RandomState(0).randn(1000, 5) * [20, 1, 1, 1, 1]
    [one] = choose_n_clusters(x, [2]).curve
    assert one.silhouette > 0.5
    assert one.silhouette_without_groups == pytest.approx(one.silhouette, abs=0.02)


def test_the_same_seed_gives_the_same_choice():
    x = np.random.RandomState(0).randn(120, 60)
    one, again, other = (choose_n_clusters(x, [2, 3], seed) for seed in (0, 0, 1))
    assert one == again
    assert one.curve != other.curve


def candidate(n_clusters, silhouette, stability, without=0.0):
    return Candidate(n_clusters, silhouette, without, stability, 1.0)


def test_the_choice_is_stable_and_far_above_rows_without_groups():
    curve = [
        candidate(2, 0.30, 0.95, without=0.25),  # a large silhouette that needs no groups
        candidate(3, 0.189, 0.90),
        candidate(4, 0.191, 0.61),
        candidate(5, 0.20, 0.61),
        candidate(6, 0.40, 0.59),  # the largest silhouette, but another one in each sample
        candidate(7, 0.10, 0.90),
    ]
    choice = choose(curve, 20)
    assert (choice.n_clusters, choice.sure, choice.curve) == (4, True, curve)
    assert choice.verdict == "4 clusters stand out most, and 5 nearly as much"


def test_the_largest_number_is_a_choice_that_more_numbers_may_change():
    curve = [candidate(2, 0.2, 0.9), candidate(3, 0.3, 0.9)]
    rise = "; silhouettes rise up to the largest number that was tried"
    assert choose(curve, 4).verdict.endswith(f"{rise}, so try larger ones")
    assert choose(curve, 3).verdict.endswith(rise)  # there is none


def test_silhouettes_below_those_of_rows_without_groups_tell_nothing():
    choice = choose([candidate(2, 0.05, 0.9, without=0.2), candidate(3, 0.1, 0.9, without=0.2)], 20)
    assert (choice.n_clusters, choice.sure) == (3, False)
    assert "hardly above those of rows without groups; 3 is a cautious choice" in choice.verdict


def test_where_nothing_is_stable_the_least_number_is_a_cautious_choice():
    choice = choose(
        [candidate(2, 0.2, 0.5), candidate(3, 0.3, 0.4), candidate(4, 0.1, 0.1), candidate(7, 0.1, 0.1)], 20
    )
    assert (choice.n_clusters, choice.sure) == (2, False)
    assert "do not tell" in choice.verdict
    assert "no clustering into 2 to 4, 7 is stable; 2 is a cautious choice" in choice.verdict


def test_numbers_that_the_rows_do_not_allow_are_left_out():
    few = blobs(2, n_rows=6)[0]
    assert [one.n_clusters for one in choose_n_clusters(few).curve] == [2, 3, 4, 5]
    alike = np.repeat(np.array([[0.0], [1], [9]]), 30, axis=0)
    choice = choose_n_clusters(alike)
    assert [one.n_clusters for one in choice.curve] == [2, 3]
    assert choice.verdict.endswith("the largest number that was tried")  # no larger one is possible
    assert choose_n_clusters(alike, [2]).verdict.endswith("so try larger ones")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((20, 3)), "20 images with 1 different features"),
        (np.eye(2), "2 images with 2 different features"),
        (np.full((20, 3), np.nan), "NaN or infinity"),
        (np.full((20, 3), np.inf), "NaN or infinity"),
        (np.arange(4.0)[:, None], r"should be from 2 to 3 .* leaves none of 4 to 8"),
    ],
)
def test_rows_of_which_none_can_be_chosen_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        choose_n_clusters(x, range(4, 9))


@pytest.mark.parametrize(
    ("setting", "numbers"), [(2, [2]), (12, [12]), ("3-5", [3, 4, 5]), (" 4 - 4 ", [4]), ("auto", range(2, 21))]
)
def test_a_setting_is_a_number_a_range_or_auto(setting, numbers):
    assert list(numbers_of_clusters(setting)) == list(numbers)


@pytest.mark.parametrize("setting", [1, 0, True, 2.5, None, "1-4", "5-3", "many", "", "2-", "-3", "8", "2-4-6", "2..4"])
def test_other_settings_are_refused_by_name(setting):
    with pytest.raises(ValueError, match=r"head\.n_clusters=.* should be a whole number >= 2"):
        numbers_of_clusters(setting)
