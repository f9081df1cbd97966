import torch
from sklearn.datasets import load_digits

from whycluster.backbones import build_backbone
from whycluster.backbones.glyphnet import IMAGE_SIZE, MEAN, STD, WEIGHTS, GlyphNet


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


def test_black_and_white_go_to_minus_one_and_one():
    low, high = build_backbone("glyphnet", "DEFAULT").bounds()
    assert (low == -1).all()
    assert (high == 1).all()
    assert (MEAN, STD) == ((0.5,) * 3, (0.5,) * 3)


def test_digits_keep_their_neighbours():
    """Chance is 10 %; the nearest digit by these features should show the same value nearly always."""
    digits = load_digits()
    images = torch.tensor(digits.images[:300] / 16).float()[:, None].expand(-1, 3, -1, -1)
    images = torch.nn.functional.interpolate(images, size=IMAGE_SIZE, mode="bilinear")
    features = build_backbone("glyphnet", "DEFAULT", pool="flatten")(images)
    nearest = torch.cdist(features, features).fill_diagonal_(torch.inf).argmin(1)
    values = torch.tensor(digits.target[:300])
    assert (values[nearest] == values).float().mean() > 0.9
