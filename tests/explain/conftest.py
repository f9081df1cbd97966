import numpy as np
import pytest
import torch
from PIL import Image

from whycluster.backbones import build_backbone
from whycluster.explain import ClusterModel
from whycluster.heads import NeuralizedKMeans

SOURCE = {"kind": "folder", "root": "/gone/photos"}


@pytest.fixture
def images():
    """Six smooth patterns that lie in different clusters, `(6, 3, 32, 32)` uint8."""
    y, x = np.mgrid[0:32, 0:32] / 31
    patterns = [x, y, 1 - x, (x + y) / 2, np.sin(9 * x) ** 2, np.sin(7 * x * y) ** 2]
    colours = np.array([(1, 0.5, 0), (0, 1, 0.5), (1, 1, 1)] * 2)
    pixels = np.stack(patterns)[:, None] * colours[:, :, None, None]
    return torch.from_numpy((255 * pixels).round().astype(np.uint8))


@pytest.fixture
def model(images):
    """`glyphnet` and four centroids, each near an image."""
    backbone = build_backbone("glyphnet", "DEFAULT", pool="flatten")
    with torch.no_grad():
        features = backbone(images[:4])
    noise = torch.rand(features.shape, generator=torch.Generator().manual_seed(0)) * features.std()
    head = NeuralizedKMeans(features + noise, beta=0.02)
    return ClusterModel(backbone, head, SOURCE, seed=7, versions={"whycluster": "0.0.1"})


@pytest.fixture
def photos(tmp_path, images):
    """The images as PNG files that preprocessing leaves as they are, and the folder of them."""
    root = tmp_path / "photos"
    root.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / f"{number}.png")
    return root
