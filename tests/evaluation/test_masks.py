import pytest
import torch

from whycluster.evaluation.masks import hits, mass_inside, rank_accuracy


@pytest.fixture
def masks():
    masks = torch.zeros(2, 9, 9, dtype=torch.bool)
    masks[0, 2:5, 3:7] = True
    masks[1, 7:, 7:] = True
    return masks


def test_relevance_on_the_mask_alone_is_perfect(masks):
    heatmaps = masks.double() * torch.rand(2, 9, 9) - 0.1 * ~masks
    assert mass_inside(heatmaps, masks).tolist() == [1, 1]
    assert rank_accuracy(heatmaps, masks).tolist() == [1, 1]


def test_relevance_beside_the_mask_alone_is_worth_nothing(masks):
    heatmaps = (~masks).double()
    assert mass_inside(heatmaps, masks).tolist() == [0, 0]
    assert rank_accuracy(heatmaps, masks).tolist() == [0, 0]
    assert hits(heatmaps, masks, 3).tolist() == [False, False]


def test_the_same_everywhere_is_worth_the_share_of_the_area(masks):
    heatmaps = torch.ones(2, 9, 9, dtype=torch.float64)
    share = masks.double().mean((1, 2))
    torch.testing.assert_close(mass_inside(heatmaps, masks), share)
    torch.testing.assert_close(rank_accuracy(heatmaps, masks).double(), share, rtol=1e-6, atol=0)


def test_negative_relevance_has_no_mass(masks):
    assert mass_inside(-torch.ones(2, 9, 9), masks).isnan().all()


def test_rank_accuracy_counts_pixels():
    heatmap = torch.tensor([[[5.0, 4.0, 3.0, 2.0, 1.0]]])
    assert rank_accuracy(heatmap, torch.tensor([[[True, False, True, False, False]]])).tolist() == [0.5]
    assert rank_accuracy(heatmap, torch.ones(1, 1, 5, dtype=torch.bool)).tolist() == [1]
    ties = torch.tensor([[[5.0, 2.0, 2.0, 2.0, 1.0]]])  # the second of two places is shared by three pixels
    torch.testing.assert_close(
        rank_accuracy(ties, torch.tensor([[[True, True, False, False, False]]])), torch.tensor([2 / 3])
    )


@pytest.mark.parametrize("window", [1, 2, 3, 4])
def test_the_densest_square_hits_where_its_centre_is(masks, window):
    heatmaps = torch.zeros(2, 9, 9)
    heatmaps[:, 3, 4] = 1.0  # of even windows around it the first is taken, whose centre is just above and left
    heatmaps[:, 3:5, 4:6] += 0.1
    assert hits(heatmaps, masks, window).tolist() == [True, False]


@pytest.mark.parametrize(("window", "centre"), [(1, (3, 4)), (2, (3, 4)), (3, (4, 5)), (4, (4, 5))])
def test_the_centre_of_a_square(window, centre):
    """That of an even one is the pixel above and left of its middle."""
    heatmaps = torch.zeros(1, 9, 9)
    heatmaps[0, 3 : 3 + window, 4 : 4 + window] = 1
    found = [(row, column) for row in range(9) for column in range(9) if hits(heatmaps, pixel(row, column), window)]
    assert found == [centre]


def pixel(row, column):
    mask = torch.zeros(1, 9, 9, dtype=torch.bool)
    mask[0, row, column] = True
    return mask
