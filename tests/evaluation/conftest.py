import pytest
import torch
from torch import Tensor, nn

from whycluster.backbones import Backbone, build_backbone
from whycluster.backbones.preprocessing import Preprocessing
from whycluster.explain import ClusterModel, Explainer
from whycluster.heads import NeuralizedKMeans

SIDE = 8


class Brightness(nn.Module):
    """The pixels themselves, in one channel, as a feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 1, 1, bias=False)
        self.features.weight.data[:] = 1 / 3

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


@pytest.fixture
def linear():
    """A model whose discriminant of cluster 0 is the sum of the pixels minus half of their number.

    Its two centroids are a white image and a black one, scaled so that `2 (mu_0 - mu_1)·x` is that sum.
    """
    preprocessing = Preprocessing(SIDE, SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    backbone = Backbone(Brightness(), preprocessing, "features", "flatten").double()
    centroids = torch.stack([torch.full((SIDE * SIDE,), 0.75), torch.full((SIDE * SIDE,), 0.25)]).double()
    return ClusterModel(backbone, NeuralizedKMeans(centroids, beta=0.1))


class Curved(nn.Module):
    """Features that are anything but linear in the pixels, with kinks and curvature."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


@pytest.fixture
def curved():
    """A nonlinear model of three clusters, of images whose colours are normalised each in its own way."""
    preprocessing = Preprocessing(SIDE, SIDE, (0.3, 0.4, 0.6), (0.1, 0.2, 0.5))
    backbone = Backbone(Curved(), preprocessing, "features", "flatten").double()
    centroids = torch.randn(3, backbone.n_features, generator=torch.Generator().manual_seed(1)).double()
    return ClusterModel(backbone, NeuralizedKMeans(centroids, beta=0.1))


@pytest.fixture
def bright():
    """Images whose pixels lie from 0.5 to 1, `(6, 3, 8, 8)`; all are in cluster 0."""
    pixels = 0.5 + 0.5 * torch.rand(6, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return pixels.expand(-1, 3, -1, -1).contiguous()


@pytest.fixture(scope="session")
def glyphs():
    """`glyphnet` with four centroids, and images `(8, 3, 32, 32)` from 0 to 1."""
    torch.manual_seed(0)
    backbone = build_backbone("glyphnet", "DEFAULT", pool="flatten")
    images = torch.rand(8, 3, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    with torch.no_grad():
        features = backbone(images[:4])
    return Explainer(ClusterModel(backbone, NeuralizedKMeans(features, beta=0.02))), images
