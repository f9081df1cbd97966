import numpy as np
import pytest
import torch

from whycluster.explain.same_pixels import Appearance, median_and_without, sameness

TYPICAL, OTHERS = np.arange(10), np.arange(15, 40)


@pytest.fixture
def pixels():
    return np.random.RandomState(0).randint(0, 256, (40, 3, 28, 28)).astype(np.uint8)


@pytest.fixture
def region():
    region = np.zeros((14, 14), dtype=bool)
    region[10:, 10:] = True
    return region


def similarities(pixels, typical, region):
    return Appearance(pixels, len(region)).like(typical).similarities(region, OTHERS)


def test_equal_patches_are_the_same_and_noise_is_not(pixels, region):
    patch = pixels[39, :, 20:, 20:]
    pixels[:12, :, 20:, 20:] = patch
    similarity = similarities(pixels, TYPICAL, region)
    np.testing.assert_allclose(similarity[:12], 1, atol=1e-6)
    assert np.abs(similarity[12:39]).max() < 0.5
    assert sameness(similarity, TYPICAL, OTHERS) > 0.9
    elsewhere = similarities(pixels, TYPICAL, np.roll(region, -6, 1))
    assert sameness(elsewhere, TYPICAL, OTHERS) < 0.2


def test_by_colours_it_is_the_distance_to_the_median(pixels, region):
    pixels[:12, :, 20:, 20:] = 200 + pixels[:12, :, 20:, 20:] // 25  # alike in colour, not in edges
    inside = pixels[:, :, 20:, 20:].reshape(40, -1).astype(np.float64) / 255
    distances = ((inside - np.median(inside[TYPICAL], 0)) ** 2).mean(1)
    for at in TYPICAL:
        distances[at] = ((inside[at] - np.median(inside[np.setdiff1d(TYPICAL, at)], 0)) ** 2).mean()
    expected = np.clip(1 - distances / np.median(distances[OTHERS]), -1, 1)
    np.testing.assert_allclose(similarities(pixels, TYPICAL, region), expected, atol=1e-5)


def test_lines_on_different_backgrounds_are_the_same_by_edges(region):
    random = np.random.RandomState(0)
    pixels = np.tile(random.randint(0, 170, (40, 3, 1, 1)), (1, 1, 28, 28)).astype(np.uint8)
    pixels[:12, :, 21:28:3, 20:] += 80
    similarity = similarities(pixels, TYPICAL, region)
    assert similarity[:12].min() > 0.9
    assert np.abs(similarity[12:]).max() < 0.3


@pytest.mark.parametrize("n_typical", [2, 7, 10])
def test_by_edges_it_is_the_cosine_with_the_mean_of_the_others(region, n_typical):
    random, typical = np.random.RandomState(1), np.arange(n_typical)
    pixels = np.tile(random.randint(0, 100, (40, 3, 1, 1)), (1, 1, 28, 28)).astype(np.uint8)
    pixels += random.randint(0, 30, pixels.shape).astype(np.uint8)
    pixels[:12, :, 21:28:3, 20:] += 80
    grey = pixels.mean(1) / 255
    around = np.array([[cut(image, row, column).mean() for row in range(28) for column in range(28)] for image in grey])
    edges = (grey - around.reshape(grey.shape))[:, 20:, 20:].reshape(40, -1)
    edges /= np.linalg.norm(edges, axis=1, keepdims=True)
    for at, found in enumerate(similarities(pixels, typical, region)):
        mean = edges[np.setdiff1d(typical, at)].mean(0)
        assert found == pytest.approx(edges[at] @ mean / np.linalg.norm(mean), abs=1e-5)


def cut(image, row, column):
    return image[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]


@pytest.mark.parametrize("n", [2, 3, 6, 7])
def test_medians_without_each_row(n):
    values = np.random.RandomState(n).randint(0, 4, (n, 50)).astype(np.float64)  # with many ties
    median, without = median_and_without(torch.from_numpy(values))
    np.testing.assert_array_equal(median, np.median(values, 0))
    for row in range(n):
        np.testing.assert_array_equal(without[row], np.median(np.delete(values, row, 0), 0))


def test_constant_images_have_no_sameness(region):
    pixels = np.full((40, 3, 28, 28), 7, np.uint8)
    similarity = similarities(pixels, TYPICAL, region)
    assert sameness(similarity, TYPICAL, OTHERS) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("n_typical", [3, 5, 10])
def test_images_of_noise_are_not_alike_however_few_they_are(pixels, region, n_typical):
    typical = np.arange(n_typical)
    similarity = similarities(pixels, typical, region)
    assert sameness(similarity, typical, OTHERS) < 0.15
