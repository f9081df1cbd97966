import pytest
import torch
from scipy.ndimage import gaussian_filter

from whycluster.evaluation.fills import FILLS, blur_fill, gaussian_blur, mean_fill


@pytest.fixture
def images():
    return torch.rand(3, 3, 20, 26, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", FILLS)
def test_what_is_not_gone_stays(name, images):
    gone = torch.rand(3, 1, 20, 26, generator=torch.Generator().manual_seed(1)) < 0.4
    filled = FILLS[name](images, 4)(images)(gone)
    assert torch.equal(filled.masked_select(~gone), images.masked_select(~gone))
    assert not torch.equal(filled, images)
    assert filled.min() >= 0
    assert filled.max() <= 1 + 1e-12
    assert torch.equal(FILLS[name](images, 4)(images)(torch.zeros_like(gone)), images)


def test_the_mean_colour(images):
    gone = torch.ones(3, 1, 20, 26, dtype=torch.bool)
    assert torch.equal(
        mean_fill(torch.tensor([0.1, 0.2, 0.3]))(images)(gone)[1, :, 4, 5], torch.tensor([0.1, 0.2, 0.3])
    )
    colour = FILLS["mean"](images, 4)(images)(gone)[2, :, 0, 0]
    torch.testing.assert_close(colour, images.mean((0, 2, 3)))


@pytest.mark.parametrize("sigma", [0.5, 2.0, 9.0])
def test_blur_is_scipys(images, sigma):
    expected = gaussian_filter(
        images.numpy(), (0, 0, sigma, sigma), mode="nearest", radius=(0, 0, *[max(1, round(3 * sigma))] * 2)
    )
    torch.testing.assert_close(gaussian_blur(images, sigma), torch.from_numpy(expected))
    gone = torch.ones(3, 1, 20, 26, dtype=torch.bool)
    assert torch.equal(blur_fill(sigma)(images)(gone), gaussian_blur(images, sigma))


def test_images_that_lose_patches_are_blurred_as_widely_as_these(images):
    gone = torch.ones(3, 1, 20, 26, dtype=torch.bool)
    assert torch.equal(FILLS["blur"](images, 4)(images)(gone), gaussian_blur(images, 4.0))
