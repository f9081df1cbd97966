import torch

from whycluster.data.inpainting import inpainted


def test_a_hole_in_one_colour_is_filled_with_it():
    images = torch.full((1, 3, 17, 13), 0.3, dtype=torch.float64)
    gone = torch.zeros(1, 1, 17, 13, dtype=torch.bool)
    gone[:, :, 2:15, 3:11] = True
    torch.testing.assert_close(inpainted(images.masked_fill(gone, 0.9), gone), images)


def test_a_hole_between_two_colours_is_filled_from_either_side():
    images = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    images[..., 8:] = 1
    gone = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    gone[..., 5:11] = True
    row = inpainted(images, gone)[0, 0, 8]
    assert row[5] < 0.4
    assert row[10] > 0.6
    assert (row.diff() >= -1e-12).all()


def test_where_nothing_is_left_nothing_is_made_up():
    assert not inpainted(torch.ones(1, 3, 5, 4), torch.ones(1, 1, 5, 4, dtype=torch.bool)).any()
