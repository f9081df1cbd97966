"""Networks of timm: where they are cut, how they are pooled, and how their weights are read."""

import sys
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from whycluster.backbones import build_timm_backbone, restore_backbone
from whycluster.backbones.timm_models import create
from whycluster.data import Folder

timm = pytest.importorskip("timm", reason="timm is not installed (whycluster[timm])")


def random_backbone(name, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build_timm_backbone(name, None, **options)


def file_of(network, path):
    torch.save(network.state_dict(), path)
    return str(path)


def model(name, **options):
    """A network of timm whose parameters are all away from their trivial first values."""
    torch.manual_seed(0)
    network = timm.create_model(name, **options).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0, 0.1)
    return network


def tokens_of(network, images):
    with torch.no_grad():
        return network.forward_features(images)


# A few blocks of each family are enough; `forward_head` is timm's own code for what a classifier reads.
OWN_FEATURES = [
    ("test_vit", "norm", "cls", None),
    ("test_vit2", "fc_norm", "avg", None),
    ("deit_tiny_patch16_224", "norm", "cls", 32),
    ("vit_small_patch14_dinov2", "norm", "cls", 28),
    ("vit_small_patch14_reg4_dinov2", "norm", "cls", 28),
    ("vit_base_patch16_siglip_224", "attn_pool", "avg", 32),
    ("eva02_tiny_patch14_224", "fc_norm", "avg", 28),
    ("swin_tiny_patch4_window7_224", "norm", "avg", 32),
    ("xcit_nano_12_p16_224", "norm", "cls", 32),
    ("mixer_s32_224", "norm", "avg", 64),
    ("tf_efficientnetv2_b0", "bn2", "avg", 32),
    ("resnetv2_50", "norm", "avg", 32),
    ("resnet18", "layer4", "avg", 32),
]


@pytest.mark.parametrize(("name", "layer", "pool", "size"), OWN_FEATURES)
def test_features_are_what_the_classifier_reads(name, layer, pool, size):
    backbone = random_backbone(name, image_size=size)
    network = create(name, size)
    network.load_state_dict({key.removeprefix("network."): value for key, value in states(backbone)}, strict=False)
    images = torch.rand(2, 3, backbone.preprocessing.crop, backbone.preprocessing.crop)
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(images), pre_logits=True)
    assert (backbone.origin["layer"], backbone.origin["pool"]) == (layer, pool)
    torch.testing.assert_close(backbone.network(images), expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0


def states(backbone):
    return backbone.network.state_dict().items()


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [("test_convnext", "stages", None), ("caformer_s18", "stages", 64), ("mobilenetv4_conv_small", "blocks", 64)],
)
def test_maps_are_averaged_before_what_a_head_adds(name, layer, size):
    backbone = random_backbone(name, image_size=size)
    network = create(name, size)
    network.load_state_dict({key.removeprefix("network."): value for key, value in states(backbone)}, strict=False)
    images = torch.rand(2, 3, backbone.preprocessing.crop, backbone.preprocessing.crop)
    expected = tokens_of(network, images).mean((2, 3))
    assert (backbone.origin["layer"], backbone.origin["pool"]) == (layer, "avg")
    torch.testing.assert_close(backbone.network(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "prefix"), [("vit_small_patch16_dinov3", 5), ("deit_tiny_distilled_patch16_224", 2)])
def test_prefix_tokens(tmp_path, name, prefix):
    """DINOv3's class token is taken, although timm would average; register and distillation tokens are no patches."""
    network = model(name, img_size=32)
    weights = file_of(network, tmp_path / "weights.pt")
    images = torch.rand(2, 3, 32, 32)
    tokens = tokens_of(network, images)
    pooled = {None: tokens[:, 0], "cls": tokens[:, 0], "avg": tokens[:, prefix:].mean(1)}
    pooled |= {"sum": tokens[:, prefix:].sum(1), "max": tokens[:, prefix:].amax(1), "flatten": tokens.flatten(1)}
    for pool, expected in pooled.items():
        backbone = build_timm_backbone(name, weights, pool=pool, image_size=32)
        torch.testing.assert_close(backbone.network(images), expected, rtol=1e-4, atol=1e-4)
        assert backbone.n_features == expected.shape[1]


@pytest.mark.parametrize("name", ["test_vit2", "vit_base_patch16_siglip_224"])
def test_a_pool_that_is_asked_for_takes_the_place_of_the_own_one(name):
    backbone = random_backbone(name, pool="flatten", image_size=None if name == "test_vit2" else 32)
    assert backbone.network.poolings[0].layout == "tokens"
    assert backbone.n_features > 200


def test_no_class_token():
    with pytest.raises(ValueError, match=r"backbone\.pool='cls', .* has no class token"):
        random_backbone("vit_base_patch16_siglip_224", pool="cls", image_size=32)


def test_transformers_export(tmp_path):
    backbone = random_backbone("test_vit")
    images = torch.rand(2, 3, 160, 160)
    batch = ({0: torch.export.Dim("batch")},)
    graph = torch.export.export(backbone.network, (images,), dynamic_shapes=batch).run_decompositions({}).module()
    more = torch.rand(3, 3, 160, 160)
    torch.testing.assert_close(graph(more), backbone.network(more), rtol=1e-4, atol=1e-5)


# --- weights ---


def test_weights_of_a_file(tmp_path):
    network = model("test_vit", num_classes=7)
    images = torch.rand(2, 3, 160, 160)
    expected = tokens_of(network, images)[:, 0]
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    torch.save({"teacher": {f"backbone.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "dino.pth")
    for file in ("model.safetensors", "dino.pth"):
        with pytest.warns(UserWarning, match="taken from its key 'teacher'|left out, which the cut does not use"):
            backbone = build_timm_backbone("test_vit", str(tmp_path / file))
        torch.testing.assert_close(backbone.network(images), expected)
        assert len(backbone.origin["weights_sha256"]) == 64


def test_position_embeddings_of_another_size_are_fitted_as_timm_does_it(tmp_path):
    large, images = model("vit_small_patch14_dinov2", img_size=56), torch.rand(1, 3, 28, 28)
    small = timm.create_model("vit_small_patch14_dinov2", img_size=28).eval()
    convert = sys.modules[type(large).__module__].checkpoint_filter_fn
    small.load_state_dict(convert(large.state_dict(), small))
    weights = file_of(large, tmp_path / "large.pt")
    backbone = build_timm_backbone("vit_small_patch14_dinov2", weights, image_size=28)
    torch.testing.assert_close(backbone.network(images), tokens_of(small, images)[:, 0], rtol=1e-4, atol=1e-4)


def test_weights_of_another_network(tmp_path):
    weights = file_of(timm.create_model("test_resnet"), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"does not fit test_vit: \d+ tensors missing \(cls_token, …\)"):
        build_timm_backbone("test_vit", weights)


def test_published_weights_that_cannot_be_had(monkeypatch):
    real = timm.create_model

    def unreachable(name, pretrained=False, **options):
        if pretrained:
            raise ConnectionError("no way there")
        return real(name, **options)

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ValueError, match=r"weights of test_vit could not be had .*no way there.*give a file"):
        build_timm_backbone("test_vit", "DEFAULT")


def test_published_weights_are_asked_for(monkeypatch):
    network, asked = model("test_vit"), []
    monkeypatch.setattr(timm, "create_model", lambda *names, **options: asked.append((names, options)) or network)
    backbone = build_timm_backbone("test_vit.r160_in1k", "DEFAULT", image_size=160)
    assert asked == [(("test_vit.r160_in1k",), {"pretrained": True, "img_size": 160})]
    assert torch.equal(backbone.network.state_dict()["network.norm.weight"], network.norm.weight)


def test_random_weights_come_with_a_warning():
    with pytest.warns(UserWarning, match="test_vit has random weights") as caught:
        build_timm_backbone("test_vit", None)
    assert caught[-1].filename == __file__


# --- names and sizes ---


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        (
            "vit_smal_patch14_dinov2",
            None,
            r"backbone\.name='vit_smal_patch14_dinov2' is no model of timm .*; some are ",
        ),
        ("qqq", None, r"backbone\.name='qqq' is no model of timm"),
        ("test_vit", "nowhere.pt", r"backbone\.weights='nowhere\.pt' is neither a file nor DEFAULT"),
    ],
)
def test_what_there_is_not(name, weights, message):
    with pytest.raises(ValueError, match=message):
        build_timm_backbone(name, weights)


@pytest.mark.parametrize("option", [{"layer": "bloks.1"}, {"pool": "mean"}])
def test_unknown_layer_or_pool(option):
    key, value = next(iter(option.items()))
    with pytest.raises(ValueError, match=rf"^backbone\.{key}='{value}' is "):
        random_backbone("test_vit", **option)


def test_a_size_that_a_network_does_not_take():
    with pytest.raises(ValueError, match=r"test_vit does not take images of 150 by 150 pixels: .*150"):
        random_backbone("test_vit", image_size=150)


@pytest.mark.parametrize(("name", "size"), [("test_vit", 96), ("test_resnet", 97), ("test_resnet", None)])
def test_preprocessing_is_timms(name, size):
    config = timm.data.resolve_model_data_config(create(name, None))
    own = config["input_size"][1]
    backbone = random_backbone(name, image_size=size)
    prepare = backbone.preprocessing
    assert (prepare.crop, prepare.resize) == (size or own, int((size or own) / config["crop_pct"]))
    assert (prepare.mean, prepare.std) == (config["mean"], config["std"])
    assert prepare.interpolation == config["interpolation"]


def test_timm_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r'pip install "whycluster\[timm\]"'):
        build_timm_backbone("test_vit", None)


# --- restoring ---


@pytest.mark.parametrize(
    ("name", "options"), [("test_vit", {"image_size": 96}), ("test_vit2", {}), ("test_convnext", {"pool": "max"})]
)
def test_restored_backbone_is_the_same(tmp_path, name, options):
    backbone = random_backbone(name, **options)
    torch.save({"origin": backbone.origin, "state": backbone.network.state_dict()}, tmp_path / "model.pt")
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = restore_backbone(saved["origin"], saved["state"])
    side = backbone.preprocessing.crop
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    assert torch.equal(again(images), backbone(images))
    assert again.origin == backbone.origin


# --- a real transformer ---


def test_real_weights_on_a_photo(assets, tmp_path):
    raw = torch.load(assets / "vit_small_patch14_int8.pt", weights_only=True)
    scaled = {key: value.float() * raw.get(f"{key}:scale", torch.ones(1)).float() for key, value in raw.items()}
    state = {key: value for key, value in scaled.items() if not key.endswith(":scale")}
    torch.save(state, tmp_path / "weights.pt")
    backbone = build_timm_backbone("vit_small_patch14_dinov2", str(tmp_path / "weights.pt"), image_size=224)
    network = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=224).eval()
    network.load_state_dict(state)
    images = backbone.preprocessing(Folder(assets / "photos/dog").load(0))[None]
    with torch.no_grad():
        expected = network(backbone.normalise(images))
    torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)
    assert backbone.n_features == 384
