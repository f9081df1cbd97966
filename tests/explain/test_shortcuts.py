"""Artefacts that are planted into noise are found where they decide, and nothing is where they do not."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d
from torchvision.transforms.functional import pil_to_tensor

from whycluster.backbones import Backbone, Preprocessing
from whycluster.clustering.features import FeatureStore
from whycluster.data import Collection, PreparedImages
from whycluster.explain import ClusterModel, Explainer
from whycluster.explain.image_properties import OF_FILE, pixel_properties, thumbnails
from whycluster.explain.shortcuts import Departures, Sample, filled, find_shortcuts
from whycluster.explain.targets import Target
from whycluster.heads import neuralize

SIDE, CELL = 56, 14


class Pictures(Collection):
    def __init__(self, images):
        self.images, self.paths = images, [str(number) for number in range(len(images))]

    def load(self, index):
        return Image.fromarray(self.images[index].permute(1, 2, 0).numpy())


@pytest.fixture(scope="module")
def backbone():
    """The mean of each of 4 by 4 cells, for each colour."""
    network = nn.Sequential(nn.Conv2d(3, 3, CELL, CELL, groups=3, bias=False), nn.ReLU())
    nn.init.constant_(network[0].weight, 1 / CELL**2)
    return Backbone(network, Preprocessing(SIDE, SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), "1", pool="flatten")


def noise(n, low=60, high=120, seed=0):
    """Blocks of random colours, `(n, 3, 56, 56)` uint8."""
    blocks = torch.randint(low, high, (n, 3, 14, 14), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)


def with_corner(images, marked):
    images = images.clone()
    images[marked, 0, -CELL:, -CELL:] = 250
    images[marked, 1:, -CELL:, -CELL:] = 30
    return images


def judged(backbone, images, labels, folder):
    with torch.no_grad():
        features = backbone(images)
    labels = torch.as_tensor(labels)
    centroids = torch.stack([features[labels == k].mean(0) for k in range(int(labels.max()) + 1)])
    explainer = Explainer(ClusterModel(backbone, neuralize(centroids, features)), "epsilon_plus")
    explanation = explainer.explain_targets(images, [Target("assigned")])[0]
    properties = np.pad(pixel_properties(images).numpy(), ((0, 0), (0, len(OF_FILE))))
    places = adaptive_avg_pool2d(explanation.heatmap[:, None], 14)[:, 0].detach().numpy()
    rows = np.arange(len(images))
    sample = Sample(rows, explanation.cluster.numpy(), properties, places, thumbnails(images).numpy())
    store = FeatureStore.write(folder / "features.npy", [features], *features.shape)
    return find_shortcuts(explainer, PreparedImages(Pictures(images), pil_to_tensor), store, sample)


def test_a_corner_that_decides(backbone, tmp_path):
    marked = torch.arange(60) % 2 == 0
    images = with_corner(noise(60), marked)
    found = judged(backbone, images, (~marked).long(), tmp_path)  # K=2
    assert found[0].flagged
    assert found[0].score > 0.7
    assert "may be held together by" in found[0].warning
    assert "of the 15 images with most relevance there, 15 leave this cluster when" in found[0].warning
    assert "bottom right" in found[0].warning
    assert found[0].signals["leave_filled"] == 1
    assert found[0].signals["leave_control"] == 0
    assert found[0].concepts[0].channel == 0  # red is in the corner
    assert sorted(found[0].rows) == marked.nonzero()[:, 0].tolist()
    assert not found[1].flagged
    assert found[1].warning == ""


def test_a_property_that_decides(backbone, tmp_path):
    dark = torch.arange(40) % 2 == 0
    images = noise(40)
    images[~dark] += 90
    for shortcut in judged(backbone, images, (~dark).long(), tmp_path).values():
        assert shortcut.flagged
        assert "may be held together by its brightness" in shortcut.warning
        assert "15 of 15 leave this cluster when they are given the colours of others" in shortcut.warning
        assert "and 0 of 15 when their colours are changed as much the other way" in shortcut.warning
        assert shortcut.signals["property"] == 1


def test_nothing_that_decides(backbone, tmp_path):
    found = judged(backbone, noise(60), torch.arange(60) % 3, tmp_path)
    assert not any(shortcut.flagged for shortcut in found.values())
    assert all(0 <= shortcut.score < 0.3 for shortcut in found.values())


def test_it_is_deterministic(backbone, tmp_path):
    marked = torch.arange(40) % 2 == 0
    one, again = (judged(backbone, with_corner(noise(40), marked), (~marked).long(), tmp_path) for _ in range(2))
    assert one == again


def test_small_clusters_and_constant_images_are_not_judged(backbone, tmp_path):
    images = noise(30)
    images[:1], images[1:3] = 0, 255
    found = judged(backbone, images, [0, 1, 1, *[2] * 27], tmp_path)
    for cluster in (0, 1):
        assert (found[cluster].score, found[cluster].flagged) == (0, False)
        assert found[cluster].evidence == ["too few images to judge"]
    grey = torch.full((20, 3, SIDE, SIDE), 90, dtype=torch.uint8)
    for shortcut in judged(backbone, grey, torch.arange(20) % 2, tmp_path).values():
        assert (shortcut.score, shortcut.flagged) == (0, False)


def test_departures_are_clear_if_chance_does_not_make_them():
    assert Departures(15, 12, 1).is_clear
    assert Departures(15, 12, 1).effect == pytest.approx(11 / 15)
    assert not Departures(15, 9, 8).is_clear
    assert not Departures(3, 2, 0).is_clear  # too few to say
    assert Departures(15, 2, 9).effect == 0
    assert Departures(0, 0, 0).effect == 0


def test_what_surrounds_a_region_fills_it():
    images = torch.full((2, 3, 28, 28), 51, dtype=torch.uint8)
    images[:, :, 14:, 14:] = 255
    region = np.zeros((2, 2, 2), dtype=bool)
    region[0, 1, 1] = True
    found = filled(images, region)
    torch.testing.assert_close(found[0], torch.full((3, 28, 28), 0.2))
    assert torch.equal(found[1], images[1].float() / 255)
