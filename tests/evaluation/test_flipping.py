import numpy as np
import pytest
import torch

from whycluster.evaluation.fills import mean_fill
from whycluster.evaluation.flipping import area, flip_counts, flipping_curve, patch_means, ranks


@pytest.mark.parametrize(("height", "width", "patch"), [(6, 6, 2), (7, 5, 3), (4, 9, 5), (3, 3, 1)])
def test_patch_means(height, width, patch):
    maps = torch.randn(2, height, width, dtype=torch.float64)
    means = patch_means(maps, patch)
    for row in range(-(-height // patch)):
        for column in range(-(-width // patch)):
            part = maps[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            torch.testing.assert_close(means[:, row, column], part.mean((1, 2)))


def test_ranks_go_from_the_largest_to_the_smallest():
    values = torch.tensor([[3.0, 9.0, 1.0], [0.0, -1.0, 5.0]])
    assert ranks(values, torch.Generator()).tolist() == [[1, 0, 2], [1, 2, 0]]


def test_ties_are_drawn():
    values = torch.zeros(2000, 4)
    values[:, 3] = 1
    drawn = ranks(values, torch.Generator().manual_seed(0))
    assert (drawn[:, 3] == 0).all()
    np.testing.assert_allclose(drawn[:, :3].double().mean(0), [2, 2, 2], atol=0.06)
    assert torch.equal(drawn, ranks(values, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(("n", "fraction", "steps"), [(196, 0.5, 10), (5, 1.0, 10), (4, 0.1, 3), (100, 0.5, 1)])
def test_counts(n, fraction, steps):
    counts = flip_counts(n, fraction, steps)
    assert counts[0] == 0
    assert counts[-1] == max(1, round(fraction * n))
    assert (np.diff(counts) > 0).all()


def test_a_curve_is_what_is_left_after_each_step():
    images = torch.rand(2, 3, 5, 4, dtype=torch.float64)
    places = torch.tensor([[[0, 3], [2, 1], [5, 4]], [[5, 4], [3, 2], [1, 0]]])
    fill = mean_fill(torch.tensor([0.5, 0.5, 0.5]))
    curve = flipping_curve(lambda x: x.sum((2, 3)), images, places, 2, [0, 1, 4, 6], fill)
    for at, count in enumerate([0, 1, 4, 6]):
        left = images.clone()
        for n in range(2):
            for row in range(3):
                for column in range(2):
                    if places[n, row, column] < count:
                        left[n, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 0.5
        torch.testing.assert_close(curve[:, at], left.sum((2, 3)))


def test_area_is_the_mean_height():
    curve = torch.tensor([[[1.0, 4.0], [0.5, 4.0], [0.0, 4.0]]])
    torch.testing.assert_close(area(curve, [0, 1, 4]), torch.tensor([[(0.75 * 1 + 0.25 * 3) / 4, 4.0]]))
