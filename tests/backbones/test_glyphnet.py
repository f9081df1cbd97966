import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from whycluster.backbones import build_backbone, restore_backbone
from whycluster.backbones.glyphnet import IMAGE_SIZE, MEAN, STD, WEIGHTS, GlyphNet
from whycluster.lrp import LRP, EpsilonGammaBox


@pytest.fixture(scope="module")
def digits():
    """300 digits `(300, 3, 32, 32)`, from 0 to 1."""
    images = torch.tensor(load_digits().images[:300] / 16).float()[:, None].expand(-1, 3, -1, -1)
    return nn.functional.interpolate(images, size=IMAGE_SIZE, mode="bilinear")


def test_shipped_weights_load_as_plain_tensors():
    network = GlyphNet()
    network.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    assert all(value.isfinite().all() for value in network.state_dict().values())


def test_shipped_weights_are_small():
    assert WEIGHTS.stat().st_size <= 2**20


def test_shapes():
    network = GlyphNet().eval()
    images = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert network.features(images).shape == (2, 64, 4, 4)
    assert network(images).shape == (2, 52)
    assert GlyphNet(7)(images).shape == (2, 7)


def test_flattened_features():
    backbone = build_backbone("glyphnet", "DEFAULT", pool="flatten")
    features = backbone(torch.randint(0, 256, (5, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8))
    assert features.shape == (5, 1024)
    assert (features >= 0).all()
    assert backbone.n_features == 1024


def test_black_and_white_go_to_zero_and_one():
    low, high = build_backbone("glyphnet", "DEFAULT").bounds()
    assert (low == 0).all()
    assert (high == 1).all()
    assert (MEAN, STD) == ((0.0,) * 3, (1.0,) * 3)


def test_it_is_homogeneous():
    """Without biases, black gives zeros, and half the contrast gives half the features and logits."""
    network = GlyphNet().eval()
    network.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    images = torch.rand(3, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert not network(torch.zeros_like(images)).any()
    torch.testing.assert_close(network(images / 2), network(images) / 2, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(network.features(images / 2), network.features(images) / 2, rtol=1e-5, atol=1e-5)


def test_relevance_of_features_arrives_at_the_pixels(digits):
    backbone = build_backbone("glyphnet", "DEFAULT", pool="flatten")
    features = backbone(digits[:8])
    lrp = LRP(backbone.network, EpsilonGammaBox(*backbone.bounds()))
    _, relevance = lrp(backbone.normalise(digits[:8]), features)
    torch.testing.assert_close(relevance.sum((1, 2, 3)), features.sum(1), rtol=1e-3, atol=0)


def test_digits_keep_their_neighbours(digits):
    """Chance is 10 %; the nearest digit by these features should show the same value nearly always."""
    features = build_backbone("glyphnet", "DEFAULT", pool="flatten")(digits)
    nearest = torch.cdist(features, features).fill_diagonal_(torch.inf).argmin(1)
    values = torch.tensor(load_digits().target[:300])
    assert (values[nearest] == values).float().mean() > 0.9


# --- earlier versions ---


def earlier_features():
    """The feature extractor of earlier versions, with statistics that matter: `(N, 3, 32, 32) -> (N, 64, 4, 4)`."""
    layers = []
    for inputs, outputs in ((3, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64)):
        norm = nn.BatchNorm2d(outputs)
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            nn.init.uniform_(values, 0.5, 1.5)
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), norm, nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if inputs == outputs else []
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("layer", ["features", "features.0"])  # the second comes before any batch norm
def test_models_of_earlier_versions_give_the_same_features(digits, layer):
    torch.manual_seed(0)
    network = earlier_features()
    # As such a model file holds it.
    origin = {
        "name": "glyphnet",
        "weights": "DEFAULT",
        "weights_sha256": "0" * 64,
        "layer": layer,
        "pool": "flatten",
        "preprocessing": {
            **build_backbone("glyphnet", "DEFAULT").origin["preprocessing"],
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
        },
    }
    wanted = network if layer == "features" else network[:1]
    state = {f"network.features.{name}": value for name, value in wanted.state_dict().items()}
    with torch.no_grad():
        expected = wanted(digits[:8] * 2 - 1).flatten(1)
    backbone = restore_backbone(origin, state)
    torch.testing.assert_close(backbone(digits[:8]), expected)
    assert backbone.origin == origin
