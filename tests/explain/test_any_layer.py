"""A network cut at any of its nodes clusters and explains."""

import pytest
import torch
from families import FAMILIES
from networks import randomized
from torch import nn

from whycluster.backbones import Backbone, Preprocessing
from whycluster.backbones.layers import layer_names
from whycluster.lrp import LRP, EpsilonGammaBox

SIZE = 32
NO_FEATURES = "gives no features"


def network_of(family: str) -> nn.Module:
    torch.manual_seed(0)
    return randomized(FAMILIES[family][0]()).eval()


SLOW = [
    pytest.param(family, marks=pytest.mark.slow)
    for family in ("densenet", "mobilenet_v3", "shufflenet", "efficientnet")
]


@pytest.mark.parametrize("family", ["resnet", "convnext", *SLOW])
def test_every_node_can_be_the_last(family: str) -> None:
    network = network_of(family)
    preprocessing = Preprocessing(SIZE, SIZE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    refused = []
    for layer in layer_names(network, images)[1::6]:  # each is exported anew, which takes a second
        try:
            backbone = Backbone(network, preprocessing, layer)
        except ValueError as error:
            if NO_FEATURES not in str(error):
                raise
            refused.append(layer)  # a size, a weight, a tuple of parts
            continue
        features = backbone(images)
        assert features.shape == (2, backbone.n_features)
        output, _, receipt = LRP(backbone.network, EpsilonGammaBox(-1.0, 1.0)).attribute(
            backbone.normalise(images), lambda output: output
        )
        torch.testing.assert_close(output, features, rtol=1e-4, atol=1e-5)
        assert receipt.imbalance.max() <= 1e-3
    assert len(refused) <= len(layer_names(network, images)) // 12  # few give no features


@pytest.mark.parametrize("layer", ["features.1.0.block.1", "features.1.0.block.2", "features.1.0.block.0"])
def test_features_are_averaged_over_places_wherever_the_channels_are(layer: str) -> None:
    network = network_of("convnext")
    backbone = Backbone(network, Preprocessing(SIZE, SIZE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), layer)
    assert backbone.n_features == 4
