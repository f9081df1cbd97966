import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from whycluster.explain.relevance_places import relevance_shares
from whycluster.explain.suspected_regions import most_suspect, place_of

OWN, OTHERS = np.arange(20), np.arange(20, 60)


@pytest.fixture
def pixels():
    return np.random.RandomState(0).randint(0, 256, (60, 3, 28, 28)).astype(np.uint8)


@pytest.fixture
def shares():
    """Images of the cluster have most of their relevance in 3 by 3 cells at the top right."""
    places = np.random.RandomState(1).rand(60, 14, 14)
    places[OWN, 1:4, 10:13] += 8
    return relevance_shares(places)


def test_relevance_and_the_same_pixels_at_one_place_are_suspicious(shares, pixels):
    pixels[OWN, :, 2:8, 20:26] = pixels[0, :, 2:8, 20:26]
    for suspect in most_suspect(shares, pixels, OWN, OTHERS):
        assert suspect.strength > 0.5
        assert suspect.region[1:4, 10:13].all()
        assert "top right" in suspect.place
        inside = shares[:, suspect.region].sum(1)
        assert suspect.concentration == pytest.approx(np.median(inside[OWN]) / np.median(inside[OTHERS]))
        assert suspect.excess == pytest.approx(inside[OWN].mean() - inside[OTHERS].mean())
        np.testing.assert_array_equal(suspect.typical, OWN[np.argsort(-inside[OWN])][:15])
        assert suspect.similarity[OWN].min() > suspect.similarity[OTHERS].max()


def test_content_at_one_place_looks_different_in_each_image(shares, pixels):
    for suspect in most_suspect(shares, pixels, OWN, OTHERS):
        assert suspect.concentration > 2
        assert suspect.strength < 0.3


def test_the_same_pixels_without_relevance_are_not_suspicious(shares, pixels):
    pixels[OWN, :, 14:, :14] = 7
    assert all(suspect.strength < 0.3 for suspect in most_suspect(shares, pixels, OWN, OTHERS))


def test_equal_relevance_outlines_nothing(pixels):
    constant = np.full((60, 14, 14), 1 / 196)
    (suspect,) = most_suspect(constant, pixels, OWN, OTHERS)
    assert suspect.strength == 0
    (nowhere,) = most_suspect(np.zeros((60, 14, 14)), pixels, OWN, OTHERS)
    assert nowhere.strength == 0


@pytest.mark.filterwarnings("error")
def test_a_region_that_reaches_everywhere_is_compared_with_what_is_not_in_it(pixels):
    """No cell of a grid of 7 by 7 is farther from it than edges reach."""
    places, region = np.random.RandomState(1).rand(60, 7, 7), np.zeros((7, 7), dtype=bool)
    region[(1, 1, 5, 5), (1, 4, 2, 5)] = True
    places[:20, region] += 8
    wider = np.kron(binary_dilation(region), np.ones((4, 4), dtype=bool))
    pixels[:20, :, wider] = pixels[0][:, wider]
    (suspect,) = [one for one in most_suspect(relevance_shares(places), pixels, OWN, OTHERS) if "pieces" in one.place]
    assert suspect.region[region].all()
    assert suspect.sameness > 0.5


def test_places_in_words():
    region = np.zeros((14, 14), dtype=bool)
    region[6:8, 6:8] = True
    assert place_of(region) == "a region around the middle"
    region[12, 2] = True
    assert place_of(region) == "a region in several pieces"
    assert place_of(np.arange(196).reshape(14, 14) < 28) == "a region at the top"
