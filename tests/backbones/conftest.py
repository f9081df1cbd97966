import pytest
import torch
from torch import nn
from torch.nn import functional as F

from whycluster.backbones import Preprocessing


class Tiny(nn.Module):
    """Two convolutions, a ReLU as a function, and a classifier, for images of any size."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(5, 2)

    def forward(self, images):
        maps = F.relu(self.features(images))
        return self.fc(self.avgpool(maps).flatten(1))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def tiny():
    return Tiny().eval()


@pytest.fixture
def preprocessing():
    return Preprocessing(12, 10, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


@pytest.fixture
def images():
    return torch.randint(0, 256, (3, 3, 10, 10), dtype=torch.uint8)
