import numpy as np
import pytest
import torch
from PIL import Image

from whycluster.backbones import build_backbone
from whycluster.explain import ClusterModel
from whycluster.heads import NeuralizedKMeans


@pytest.fixture
def pictures():
    """Six smooth patterns in colour, 32×32."""
    y, x = np.mgrid[0:32, 0:32] / 31
    patterns = [x, y, 1 - x, (x + y) / 2, np.sin(9 * x) ** 2, np.sin(7 * x * y) ** 2]
    colours = [(1, 0.5, 0), (0, 1, 0.5), (1, 1, 1)] * 2
    pixels = [255 * pattern[..., None] * colour for pattern, colour in zip(patterns, colours, strict=True)]
    return [Image.fromarray(image.round().astype(np.uint8)) for image in pixels]


@pytest.fixture
def model(pictures):
    """`glyphnet` and three centroids, the features of three of the pictures."""
    backbone = build_backbone("glyphnet", "DEFAULT", pool="flatten")
    images = torch.stack([backbone.preprocessing(picture) for picture in pictures[:3]])
    return ClusterModel(backbone, NeuralizedKMeans(backbone(images), beta=0.02))


@pytest.fixture
def folder_of(tmp_path, pictures):
    """Writes pictures under the names it is given, and returns the folder."""

    def write(*names):
        root = tmp_path / "photos"
        for number, name in enumerate(names):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            pictures[number % len(pictures)].save(root / name, format="PNG")
        return root

    return write


@pytest.fixture
def board(tmp_path):
    """Where TensorBoard's files go."""
    return tmp_path / "tensorboard"
