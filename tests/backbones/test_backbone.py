import copy

import pytest
import torch
from torch import nn
from torchvision.models import SwinTransformer, VisionTransformer, get_model

from whycluster.backbones import Backbone, Preprocessing, build_backbone
from whycluster.backbones.default_layer import default_layer
from whycluster.backbones.glyphnet import GlyphNet

POOLS = ("avg", "sum", "max", "flatten")  # of maps
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


def test_unknown_pool(tiny, preprocessing):
    with pytest.raises(ValueError, match=r"pool='mean' is unknown; choose from cls, avg, sum, max, flatten\."):
        Backbone(tiny, preprocessing, pool="mean")


@pytest.mark.parametrize("layer", ["features", "fc"])
def test_no_class_token(tiny, preprocessing, layer):
    with pytest.raises(ValueError, match=rf"backbone\.pool='cls', but the layer '{layer}' .* leave backbone\.pool"):
        Backbone(tiny, preprocessing, layer, "cls")


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, images):
        whole = self.conv(images).flatten(2)  # (N, C, L)
        return whole.chunk(2, 1), whole.flatten()


@pytest.mark.parametrize(("layer", "given"), [("flatten_1", r"\(200,\)"), ("chunk", "tuple")])
def test_layer_without_features(preprocessing, layer, given):
    with pytest.raises(ValueError, match=rf"layer='{layer}' gives no features: .* here it is {given}\."):
        Backbone(Odd(), preprocessing, layer)


@pytest.mark.parametrize(("layer", "channels"), [("flatten", [0, 1]), ("getitem", [0]), ("getitem_1", [1])])
def test_channels_before_a_row_of_places(preprocessing, images, layer, channels):
    network = Odd()
    backbone = Backbone(network, preprocessing, layer, "max")
    torch.testing.assert_close(backbone(images), network.conv(backbone.normalise(images)).amax((2, 3))[:, channels])


def test_no_plain_place_to_cut(preprocessing):
    with pytest.raises(ValueError, match=r"where to cut .* set backbone\.layer to one of .*conv, flatten, chunk"):
        Backbone(Odd(), preprocessing)


@pytest.mark.parametrize(("name", "layer", "channels"), LAST_FEATURE_MAPS)
def test_default_layer_of_torchvision(name, layer, channels):
    with torch.device("meta"):  # shapes only: no weights are drawn, no convolution is computed
        network = get_model(name, weights=None, init_weights=False) if name == "googlenet" else get_model(name)
    backbone = Backbone(network, Preprocessing(224, 224, (0.5,) * 3, (0.5,) * 3))
    assert backbone.origin["layer"] == layer
    assert backbone.network.poolings[0].layout == "channels first"
    assert backbone.n_features == channels


def test_default_layer_of_glyphnet():
    assert default_layer(GlyphNet().eval(), torch.zeros(1, 3, 32, 32)) == "features"


@pytest.mark.parametrize(
    ("name", "layer", "layout", "pool", "size"),
    [
        ("vit_b_32", "encoder.ln", "tokens", "cls", 768),
        ("swin_t", "norm", "channels last", "avg", 768),
        ("swin_v2_t", "norm", "channels last", "avg", 768),
        ("maxvit_t", "blocks.3", "channels first", "avg", 512),
    ],
)
def test_transformers_of_torchvision(name, layer, layout, pool, size):
    with torch.device("meta"):
        network = get_model(name)
    backbone = Backbone(network, Preprocessing(224, 224, (0.5,) * 3, (0.5,) * 3))
    assert (backbone.origin["layer"], backbone.origin["pool"], backbone.n_features) == (layer, pool, size)
    assert backbone.network.poolings[0].layout == layout


def read_by(network, module, images):
    """What a module of a network is given."""
    read = []
    handle = network.get_submodule(module).register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    with torch.no_grad():
        network(images)
    handle.remove()
    return read[-1]


@pytest.fixture(scope="module")
def vit():
    """A vision transformer of torchvision, with two blocks, for images of 32 pixels; its parameters are not trivial."""
    torch.manual_seed(0)
    network = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0, 0.2)
    return network


AS_THEY_ARE = Preprocessing(32, 32, (0.0,) * 3, (1.0,) * 3)


def test_class_token_of_a_vision_transformer(vit):
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(Backbone(vit, AS_THEY_ARE)(images), read_by(vit, "heads", images))


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    ("layer", "prefix"), [("encoder.ln", 1), ("encoder.layers.encoder_layer_0", 1), ("permute", 0)]
)
def test_tokens_of_patches_are_pooled(vit, pool, layer, prefix):
    images, tokens = torch.rand(2, 3, 32, 32), []
    backbone = Backbone(vit, AS_THEY_ARE, layer, pool)
    if prefix:
        hooked = vit.get_submodule(layer).register_forward_hook(lambda module, inputs, output: tokens.append(output))
        vit(images)
        hooked.remove()
    else:
        tokens.append(vit.conv_proj(images).flatten(2).mT)
    patches = tokens[0][:, prefix:].mT[..., None]
    torch.testing.assert_close(backbone(images), tokens[0].flatten(1) if pool == "flatten" else pooled(patches, pool))
    assert backbone.origin["pool"] == pool


def test_class_token_before_it_is_there(vit):
    with pytest.raises(ValueError, match="the layer 'permute' of this network has no class token"):
        Backbone(vit, AS_THEY_ARE, "permute", "cls")


def test_channels_last_of_a_swin_transformer():
    network = SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=3).eval()
    images = torch.rand(2, 3, 32, 32)
    backbone = Backbone(network, AS_THEY_ARE)
    assert backbone.network.poolings[0].layout == "channels last"
    torch.testing.assert_close(backbone(images), read_by(network, "head", images))


def test_other_sizes_than_the_crop(tiny, preprocessing):
    backbone, larger = Backbone(tiny, preprocessing), torch.rand(2, 3, 17, 23)
    torch.testing.assert_close(backbone(larger), torch.relu(tiny.features(backbone.normalise(larger))).mean((2, 3)))


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


def test_features_of_several_layers_are_joined(tiny, preprocessing, images):
    backbone = Backbone(tiny, preprocessing, ["fc", "features"], "max")
    alone = [Backbone(tiny, preprocessing, layer, "max")(images) for layer in ("fc", "features")]
    torch.testing.assert_close(backbone(images), torch.cat(alone, 1))
    assert backbone.widths == [2, 5]
    assert backbone.n_features == 7
    assert (backbone.origin["layer"], backbone.origin["pool"]) == (["fc", "features"], "max")


def test_tokens_of_several_layers_each_have_their_own_pooling():
    """Before the class token is added, there is none that could be taken or left out."""
    network = VisionTransformer(32, 8, 2, 1, 12, 24, num_classes=3).eval()
    prepare = Preprocessing(32, 32, (0.5,) * 3, (0.5,) * 3)
    backbone = Backbone(network, prepare, ["permute", "encoder.ln"])
    images = torch.rand(2, 3, 32, 32)
    alone = [Backbone(network, prepare, layer)(images) for layer in ("permute", "encoder.ln")]
    torch.testing.assert_close(backbone(images), torch.cat(alone, 1))
    assert [how.pool for how in backbone.network.poolings] == ["avg", "cls"]
    assert [how.n_prefix for how in backbone.network.poolings] == [0, 1]
    again = Backbone(network, prepare, backbone.origin["layer"], backbone.origin["pool"])
    assert torch.equal(again(images), backbone(images))
