import numpy as np
import pytest

from whycluster.explain.relevance_places import (
    LARGEST,
    excess_region,
    fixed_regions,
    random_region,
    relevance_shares,
    sub_groups,
)


@pytest.fixture
def random():
    return np.random.RandomState(0)


def test_shares_are_of_positive_relevance(random):
    places = random.randn(5, 4, 4)
    places[3] = -1
    shares = relevance_shares(places)
    for image, share in zip(places, shares, strict=True):
        positive = np.maximum(image, 0)
        np.testing.assert_allclose(share, positive / (positive.sum() or 1))
    assert not shares[3].any()


def test_fixed_regions_are_corners_edges_and_the_border():
    regions = fixed_regions(14)
    assert len(regions) == 13
    assert regions["the border"].sum() == 14**2 - 10**2
    assert regions["the bottom edge"].sum() == 3 * 14
    assert regions["the bottom edge"][11:].all()
    assert regions["the bottom right corner, a quarter of the side"][10:, 10:].all()
    assert regions["the bottom right corner, half of the side"].sum() == 49


def test_cells_with_more_relevance_than_elsewhere_are_found(random):
    own, others = random.rand(40, 14, 14), random.rand(60, 14, 14)
    own[:, 2:4, 5:8] += 3
    region = excess_region(relevance_shares(own), relevance_shares(others))
    planted = np.zeros((14, 14), dtype=bool)
    planted[2:4, 5:8] = True
    assert region[planted].mean() >= 0.6
    assert region[~planted].sum() <= 3


def test_nothing_stands_out_of_equal_relevance(random):
    constant = np.full((20, 14, 14), 1 / 196)
    assert not excess_region(constant, constant).any()
    noise = random.rand(100, 14, 14)
    assert excess_region(relevance_shares(noise[:50]), relevance_shares(noise[50:])).mean() < 0.05
    assert not excess_region(np.zeros((3, 14, 14)), constant).any()


def test_a_region_is_no_larger_than_allowed(random):
    own, others = random.rand(40, 14, 14), random.rand(40, 14, 14)
    own[:, :10] += 5
    assert excess_region(relevance_shares(own), relevance_shares(others)).mean() <= LARGEST


def test_a_sub_group_apart_is_found(random):
    places = 0.05 * random.rand(40, 14, 14)
    places[:25, 3:8, 3:8] += random.rand(25, 5, 5)
    places[25:, 11:, 11:] += random.rand(15, 3, 3)
    groups, gap = sub_groups(relevance_shares(places))
    assert len(set(groups[:25])) == len(set(groups[25:])) == 1
    assert groups[0] != groups[30]
    assert gap > 0.1
    again, _ = sub_groups(relevance_shares(places))
    np.testing.assert_array_equal(groups, again)


def test_few_images_and_constant_heatmaps_are_one_group():
    assert sub_groups(np.ones((9, 14, 14)) / 196)[1] == 0
    groups, gap = sub_groups(np.zeros((2, 14, 14)))
    assert not groups.any()
    assert gap == 0
    groups, _ = sub_groups(np.full((30, 14, 14), 1 / 196))
    assert groups.shape == (30,)


@pytest.mark.parametrize("name", fixed_regions(14))
def test_another_region_is_as_large_and_elsewhere(name, random):
    region = fixed_regions(14)[name]
    drawn = random_region(region, random)
    assert drawn.sum() == region.sum()
    assert not (drawn & region).any()
    assert (random_region(region, random) != drawn).any()
