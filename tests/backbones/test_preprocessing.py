import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import get_weight

from whycluster.backbones import Backbone, Preprocessing

# Resizing to 256, 232 and 342 pixels, a crop as large as the resized image, bicubic, and other means.
WEIGHTS = [
    "VGG16_Weights.IMAGENET1K_V1",
    "VGG16_Weights.IMAGENET1K_FEATURES",
    "ResNet50_Weights.IMAGENET1K_V2",
    "Inception_V3_Weights.IMAGENET1K_V1",
    "EfficientNet_B0_Weights.IMAGENET1K_V1",
    "EfficientNet_V2_S_Weights.IMAGENET1K_V1",
]
SIZES = [(1, 1), (3, 500), (500, 3), (224, 224), (257, 256), (641, 427), (31, 33)]


def noise(width, height):
    values = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_is_what_torchvision_does(tiny, weights, size):
    transforms = get_weight(weights).transforms()
    backbone = Backbone(tiny, Preprocessing.of_transforms(transforms))
    prepared = backbone.preprocessing(noise(*size))
    assert prepared.dtype == torch.uint8
    assert torch.equal(backbone.normalise(prepared[None])[0], transforms(noise(*size)))


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (2, 50_001)], ids=str)
def test_a_line_is_not_enlarged_to_gigabytes(preprocessing, size):
    assert preprocessing(Image.new("RGB", size, (9, 8, 7))).shape == (3, 10, 10)


def test_of_a_line_the_middle_is_seen(preprocessing):
    image = Image.new("RGB", (5000, 1))
    image.paste((90, 80, 70), (2450, 0, 2550, 1))
    assert preprocessing(image).flatten(1).T.unique(dim=0).tolist() == [[90, 80, 70]]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_plain_values_and_back(weights):
    preprocessing = Preprocessing.of_transforms(get_weight(weights).transforms())
    again = Preprocessing.from_plain(json.loads(json.dumps(preprocessing.to_plain())))
    assert again == preprocessing
    assert hash(again) == hash(preprocessing)
