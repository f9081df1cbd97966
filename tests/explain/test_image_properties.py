"""Properties of images, restated in NumPy, and how well they tell clusters apart."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy.ndimage import convolve
from sklearn.metrics import roc_auc_score

from whycluster.explain.image_properties import (
    OF_FILE,
    OF_PIXELS,
    PROPERTIES,
    file_properties,
    pixel_properties,
    thumbnails,
    with_colours_of,
)
from whycluster.explain.property_tests import cross_validated_auc, separation, single_aucs


@pytest.fixture
def photos():
    """Smooth patterns, `(6, 64, 64, 3)` uint8."""
    random = np.random.RandomState(0)
    y, x = np.mgrid[0:64, 0:64] / 64
    waves = [np.sin(random.rand() * 30 * x + random.rand() * 30 * y) for _ in range(18)]
    return (127 + 100 * np.stack(waves).reshape(6, 3, 64, 64)).astype(np.uint8).transpose(0, 2, 3, 1)


def measured(photos):
    found = pixel_properties(torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2))
    return {name: found[:, at].numpy() for at, name in enumerate(OF_PIXELS)}


def test_they_are_what_numpy_says(photos):
    found = measured(photos)
    assert len(found) == len(OF_PIXELS) == len(set(OF_PIXELS))
    for at, photo in enumerate(photos / 255):
        red, green, blue = photo.transpose(2, 0, 1)
        grey = photo.mean(2)
        rg, yb = red - green, (red + green) / 2 - blue
        n = grey.size
        spread = np.sqrt((rg.var() + yb.var()) * n / (n - 1))
        laplacian = convolve(grey, [[0, 1, 0], [1, -4, 1], [0, 1, 0]])[1:-1, 1:-1]
        expected = {
            "brightness": grey.mean(),
            "contrast": grey.std(ddof=1),
            "colourfulness": spread + 0.3 * np.hypot(rg.mean(), yb.mean()),
            "saturation": (photo.max(2) - photo.min(2)).mean(),
            "red cast": rg.mean(),
            "yellow cast": yb.mean(),
            "sharpness": np.log(laplacian.var(ddof=1) + 1e-6),
            "green of the bottom left corner": photo[-8:, :8, 1].mean(),
            "variation of the top right corner": photo[:8, -8:].reshape(-1, 3).std(0, ddof=1).mean(),
        }
        for name, value in expected.items():
            assert found[name][at] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    rim = photos[0].astype(float) / 255
    inner = rim[2:-2, 2:-2, 0]
    expected = (rim[..., 0].sum() - inner.sum()) / (64 * 64 - 60 * 60)
    assert found["red of the border"][0] == pytest.approx(expected, rel=1e-4)


def test_blur_and_jpeg_show(photos):
    random = np.random.RandomState(1)
    photos = [(photo // 2 + random.randint(0, 100, photo.shape)).astype(np.uint8) for photo in photos]
    blurred = [np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(2))) for photo in photos]
    assert (measured(blurred)["sharpness"] < measured(photos)["sharpness"] - 1).all()
    compressed = []
    for photo in photos:
        file = io.BytesIO()
        Image.fromarray(photo).save(file, "JPEG", quality=5)
        compressed.append(np.asarray(Image.open(file)))
    shifted = [np.roll(photo, (3, 5), (0, 1)) for photo in compressed]  # the grid need not begin at the edge
    for some in (compressed, shifted):
        assert (measured(some)["blockiness"] > measured(photos)["blockiness"] + 0.2).all()


def test_a_constant_image_has_finite_properties():
    assert pixel_properties(torch.zeros(2, 3, 4, 5, dtype=torch.uint8)).isfinite().all()


def test_properties_of_files(tmp_path):
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg")
    size = (tmp_path / "a.jpg").stat().st_size
    assert file_properties(tmp_path / "a.jpg") == [40, 20, 2, size / 800, 1, 0]
    (tmp_path / "b.png").write_text("no image")
    for path in (None, tmp_path / "b.png", tmp_path / "gone.png"):
        assert file_properties(path) == [0] * len(OF_FILE)


def test_other_colours_are_given(photos):
    images = torch.from_numpy(photos).permute(0, 3, 1, 2)
    mean, deviation = torch.tensor([0.5, 0.4, 0.6]), torch.tensor([0.05, 0.1, 0.08])
    found = with_colours_of(images, mean, deviation)
    torch.testing.assert_close(found.mean((2, 3)), mean.expand(6, 3), rtol=0, atol=1e-3)
    torch.testing.assert_close(found.std((2, 3)), deviation.expand(6, 3), rtol=0, atol=1e-3)


def test_thumbnails_are_means():
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    expected = images.float().reshape(2, 3, 112, 2, 112, 2).mean((3, 5)).round()
    assert torch.equal(thumbnails(images).float(), expected)


def test_aucs_are_those_of_scikit_learn():
    random = np.random.RandomState(0)
    x, y = random.randint(0, 5, (50, 7)).astype(float), random.rand(50) < 0.3
    np.testing.assert_allclose(single_aucs(x, y), [roc_auc_score(y, column) for column in x.T])


def test_a_property_that_tells_a_cluster_from_others():
    random = np.random.RandomState(0)
    properties = random.randn(60, len(PROPERTIES))
    own, others = np.arange(20), np.arange(20, 60)
    assert separation(properties, own, others).auc < 0.75
    properties[own, PROPERTIES.index("sharpness")] -= 6
    found = separation(properties, own, others)
    assert (found.name, found.best_auc) == ("sharpness", 1)
    assert found.auc > 0.95
    assert found.is_extreme
    assert not found.is_of_colour
    assert found.ranked[0] == properties[own, PROPERTIES.index("sharpness")].argmin()


def test_too_few_images_tell_nothing():
    y = np.arange(20) < 4
    assert cross_validated_auc(np.random.RandomState(0).randn(20, 3) + 9 * y[:, None], y) == 0.5
