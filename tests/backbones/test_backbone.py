import copy

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from whycluster.backbones import Backbone, Preprocessing, build_backbone
from whycluster.backbones.backbone import POOLS, CutNetwork, default_layer, layer_names
from whycluster.backbones.glyphnet import GlyphNet

LAST_FEATURE_MAPS = [
    ("alexnet", "features", 256),
    ("squeezenet1_0", "features", 512),
    ("squeezenet1_1", "features", 512),
    *((f"vgg{depth}{bn}", "features", 512) for depth in (11, 13, 16, 19) for bn in ("", "_bn")),
    ("resnet18", "layer4.1.relu_1", 512),
    ("resnet50", "layer4.2.relu_2", 2048),
    ("densenet121", "relu", 1024),
    ("googlenet", "inception5b.cat", 1024),
    ("mobilenet_v2", "features", 1280),
    ("efficientnet_b0", "features", 1280),
    ("convnext_tiny", "features", 768),
    ("mnasnet0_5", "layers.16", 1280),
]


def pooled(maps, pool):
    return {"avg": maps.mean((2, 3)), "sum": maps.sum((2, 3)), "max": maps.amax((2, 3)), "flatten": maps.flatten(1)}[
        pool
    ]


@pytest.mark.parametrize("pool", POOLS)
def test_features_restated(tiny, preprocessing, images, pool):
    backbone = Backbone(tiny, preprocessing, "features", pool)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    wanted = pooled(tiny.features((images / 255 - mean) / std), pool)
    torch.testing.assert_close(backbone(images), wanted)
    assert backbone.n_features == wanted.shape[1]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(("layer", "n_features"), [("flatten", 5), ("fc", 2)])
def test_pool_has_no_effect_without_places(tiny, preprocessing, images, layer, n_features, pool):
    backbone = Backbone(tiny, preprocessing, layer, pool)
    pooled_maps = torch.relu(tiny.features(backbone.normalise(images))).mean((2, 3))
    torch.testing.assert_close(backbone(images), pooled_maps if layer == "flatten" else tiny.fc(pooled_maps))
    assert backbone.n_features == n_features


def test_cut_at_the_input(tiny, preprocessing, images):
    backbone = Backbone(tiny, preprocessing, "images")
    torch.testing.assert_close(backbone(images), backbone.normalise(images).mean((2, 3)))


def test_uint8_and_floats_are_the_same_image(tiny, preprocessing, images):
    backbone = Backbone(tiny, preprocessing)
    torch.testing.assert_close(backbone(images), backbone(images.float() / 255))


@pytest.mark.parametrize("when", ["before", "after"])
def test_double_precision(tiny, preprocessing, images, when):
    backbone = Backbone(tiny.double(), preprocessing) if when == "before" else Backbone(tiny, preprocessing).double()
    assert backbone(images).dtype == backbone.bounds()[0].dtype == torch.float64


def test_bounds_are_black_and_white(tiny, preprocessing):
    backbone = Backbone(tiny, preprocessing)
    low, high = backbone.bounds()
    torch.testing.assert_close(low, backbone.normalise(torch.zeros(1, 3, 1, 1, dtype=torch.uint8)))
    torch.testing.assert_close(high, backbone.normalise(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)))


def test_stays_in_evaluation_mode_and_untrained(preprocessing, images):
    backbone = Backbone(GlyphNet(), preprocessing)
    first = backbone(images)
    assert not backbone.train().network.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert torch.equal(backbone(images), first)


def test_origin_is_plain_and_complete(tiny, preprocessing):
    origin = Backbone(tiny, preprocessing, pool="max", origin={"name": "tiny"}).origin
    assert origin == {"name": "tiny", "layer": "relu", "pool": "max", "preprocessing": preprocessing.to_plain()}


def test_only_what_leads_to_the_layer_is_kept(tiny, preprocessing):
    kept = Backbone(tiny, preprocessing, "features.0").state_dict()
    assert {tuple(value.shape) for value in kept.values()} == {(4, 3, 3, 3), (4,)}


def test_unknown_layer_lists_the_nearest(tiny, preprocessing):
    with pytest.raises(ValueError, match=r"backbone\.layer='feature\.1' is no layer .* nearest are features\.1, "):
        Backbone(tiny, preprocessing, "feature.1")
    with pytest.raises(ValueError, match=r"backbone\.layer='' is no layer of this network; the nearest are \w+"):
        Backbone(tiny, preprocessing, "")


def test_unknown_pool(tiny):
    with pytest.raises(ValueError, match=r"backbone\.pool='mean' is unknown; choose from avg, sum, max, flatten\."):
        CutNetwork(tiny, "features", "mean")


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, images):
        return self.conv(images).flatten(2)


def test_layer_without_features(preprocessing):
    with pytest.raises(ValueError, match=r"layer='flatten' gives no features: .* here it is \(1, 2, 100\)"):
        Backbone(Odd(), preprocessing, "flatten")


def test_no_plain_place_to_cut(preprocessing):
    with pytest.raises(ValueError, match=r"where to cut .* set backbone\.layer to one of .*conv, flatten\."):
        Backbone(Odd(), preprocessing)


def test_layer_names_are_modules_and_nodes(tiny):
    assert {"features", "features.2", "relu", "avgpool", "flatten", "fc"} <= set(layer_names(tiny))


@pytest.mark.parametrize(("name", "layer", "channels"), LAST_FEATURE_MAPS)
def test_default_layer_of_torchvision(name, layer, channels):
    with torch.device("meta"):  # shapes only: no weights are drawn, no convolution is computed
        network = get_model(name, weights=None, init_weights=False) if name == "googlenet" else get_model(name)
    backbone = Backbone(network, Preprocessing(224, 224, (0.5,) * 3, (0.5,) * 3))
    assert backbone.origin["layer"] == layer
    assert backbone.network.layout == "channels first"
    assert backbone.n_features == channels


def test_default_layer_of_glyphnet():
    assert default_layer(GlyphNet()) == "features"


@pytest.mark.parametrize(
    ("name", "classifier"),
    [
        ("resnet18", "fc"),
        ("densenet121", "classifier"),
        ("mobilenet_v2", "classifier"),
        ("mobilenet_v3_small", "classifier"),
        ("shufflenet_v2_x0_5", "fc"),
        ("regnet_y_400mf", "fc"),
    ],
)
def test_averaged_features_are_what_the_classifier_reads(name, classifier):
    network, read = get_model(name).eval(), []
    handle = network.get_submodule(classifier).register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    images = torch.rand(2, 3, 64, 64)
    backbone = Backbone(network, Preprocessing(64, 64, (0.0,) * 3, (1.0,) * 3))
    with torch.no_grad():
        network(images)
        handle.remove()
        torch.testing.assert_close(backbone(images), read[-1])


def test_a_copy_stays_in_evaluation_mode():
    # torchvision's feature extractors do not: copied, their batch norms go back to learning.
    backbone = build_backbone("glyphnet", "DEFAULT", pool="flatten")
    copied = copy.deepcopy(backbone)
    images = torch.rand(4, 3, 32, 32)
    assert not any(module.training for module in copied.modules())
    assert torch.equal(copied(images), backbone(images))
