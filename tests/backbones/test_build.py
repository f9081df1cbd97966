import hashlib
import io
import pickle
import re
import warnings
from http.client import IncompleteRead
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import nn
from torchvision.models import GoogLeNet_Weights, SqueezeNet1_0_Weights, get_model

from whycluster.backbones import build_backbone, restore_backbone
from whycluster.backbones.build import names
from whycluster.backbones.glyphnet import WEIGHTS, GlyphNet
from whycluster.data import Folder


@pytest.fixture
def saved(tmp_path):
    """Saves anything as a weights file, and gives its path."""

    def save(content, name="weights.pt"):
        torch.save(content, tmp_path / name)
        return str(tmp_path / name)

    return save


@pytest.fixture
def shipped():
    return torch.load(WEIGHTS, weights_only=True)


@pytest.fixture
def glyphs():
    return torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """Where torch keeps what it fetches; here, a folder that is not there yet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home/hub/checkpoints"


def sentence(name, weights, **options):
    with pytest.raises(ValueError, match=r".") as caught:
        build_backbone(name, weights, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def random_backbone(name, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build_backbone(name, None, **options)


# --- names ---


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_0", "squeezenet1_1", "glyphnet"])
def test_random_weights_come_with_a_warning(name):
    with pytest.warns(UserWarning, match=f"{name} has random weights") as caught:
        backbone = build_backbone(name, None)
    assert caught[-1].filename == __file__  # it points at who asked for them
    side = backbone.preprocessing.crop
    features = backbone(torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8))
    assert features.shape == (1, backbone.n_features)
    assert features.isfinite().all()
    assert backbone.origin["weights"] is backbone.origin["weights_sha256"] is None


def test_unknown_name():
    assert sentence("vgg61", None).startswith("backbone.name='vgg61' is unknown; the nearest are vgg")


def test_names():
    assert {"glyphnet", "vgg16", "vgg16_bn", "squeezenet1_0", "resnet50"} <= set(names())


@pytest.mark.parametrize("option", [{"layer": "featurs"}, {"pool": "mean"}])
def test_unknown_layer_or_pool(option):
    key, value = next(iter(option.items()))
    assert f"backbone.{key}={value!r}" in sentence("glyphnet", "DEFAULT", **option)


# --- files ---


def test_shipped_weights(shipped, glyphs):
    backbone = build_backbone("glyphnet", "DEFAULT", pool="flatten")
    network = GlyphNet().eval()
    network.load_state_dict(shipped)
    with torch.no_grad():
        wanted = network.features(glyphs / 255).flatten(1)
    torch.testing.assert_close(backbone(glyphs), wanted)
    assert backbone.origin["weights_sha256"] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()


WRAPPINGS = {
    "plain": lambda state: state,
    "a dict without metadata": dict,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1, "state": [1, 2]}},
    "module.": lambda state: {f"module.{key}": value for key, value in state.items()},
    "both": lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    "parameters": lambda state: {
        key: nn.Parameter(value, requires_grad=value.is_floating_point()) for key, value in state.items()
    },
    "float64": lambda state: {
        key: value.double() if value.is_floating_point() else value for key, value in state.items()
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_state_dict_in_its_usual_wrappings(saved, shipped, glyphs, wrapping):
    backbone = build_backbone("glyphnet", saved(WRAPPINGS[wrapping](shipped)))
    assert torch.equal(backbone(glyphs), build_backbone("glyphnet", "DEFAULT")(glyphs))
    assert {value.dtype for value in backbone.state_dict().values()} == {torch.float32}


def test_counters_of_batch_norms_may_be_missing(saved):
    state = get_model("shufflenet_v2_x0_5", weights=None).state_dict()
    without = {key: value for key, value in state.items() if "num_batches" not in key}
    assert len(without) < len(state)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone = build_backbone("shufflenet_v2_x0_5", saved(without))
    assert torch.equal(backbone(images), build_backbone("shufflenet_v2_x0_5", saved(state))(images))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(saved, shipped, glyphs, dtype):
    halved = {key: value.to(dtype) if value.is_floating_point() else value for key, value in shipped.items()}
    features, wanted = (build_backbone("glyphnet", weights)(glyphs) for weights in (saved(halved), "DEFAULT"))
    assert features.dtype == torch.float32
    assert 0 < (features - wanted).norm() / wanted.norm() < 0.05


def test_file_in_the_old_format(tmp_path, shipped, glyphs):
    torch.save(shipped, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    backbone = build_backbone("glyphnet", str(tmp_path / "old.pth"))
    assert torch.equal(backbone(glyphs), build_backbone("glyphnet", "DEFAULT")(glyphs))


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", ["torch", "torch in the old format", "pickle"])
def test_code_in_a_weights_file_is_not_run(tmp_path, shipped, writer):
    sprung, file = tmp_path / "sprung", tmp_path / "weights.pt"
    content = {**shipped, "trap": Trap(sprung)}
    if writer == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=writer == "torch")
    text = sentence("glyphnet", str(file))
    assert "could run code" in text
    assert str(file) in text
    assert not sprung.exists()


def test_whole_network_is_refused(saved):
    assert "torch.save(network.state_dict(), …)" in sentence("glyphnet", saved(GlyphNet()))


@pytest.mark.parametrize(
    "content", [b"", b"some text\n" * 9, b"\x80\x02", b"PK\x03\x04" + b"\0" * 40, b"\xff\xd8\xff\xe0JFIF"]
)
def test_files_that_hold_no_weights(tmp_path, content):
    (tmp_path / "weights.pt").write_bytes(content)
    assert sentence("glyphnet", str(tmp_path / "weights.pt")).startswith(
        f"the weights file '{tmp_path}/weights.pt' is damaged"
    )


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_truncated_weights(tmp_path, share):
    whole = WEIGHTS.read_bytes()
    (tmp_path / "weights.pt").write_bytes(whole[: int(share * len(whole))])
    assert "is damaged" in sentence("glyphnet", str(tmp_path / "weights.pt"))


@pytest.mark.parametrize(
    "content", [[1, 2], torch.zeros(3), {"epoch": 3}, {1: torch.zeros(3)}, {"state_dict": 5}, "text"], ids=repr
)
def test_files_of_something_else(saved, content):
    assert "holds no state_dict" in sentence("glyphnet", saved(content))


def test_weights_of_another_network(saved, shipped):
    text = sentence("squeezenet1_0", saved(shipped))
    assert "does not fit squeezenet1_0: " in text
    assert "tensors missing (" in text
    assert "unknown (" in text


def test_weights_for_another_number_of_classes(saved, shipped, glyphs):
    other = {**shipped, **GlyphNet(7).classifier.state_dict(prefix="classifier.")}
    with pytest.warns(UserWarning, match=r"1 tensors \(classifier\.2\.weight\) left out, which the cut does not use"):
        backbone = build_backbone("glyphnet", saved(other))
    assert torch.equal(backbone(glyphs), build_backbone("glyphnet", "DEFAULT")(glyphs))
    text = sentence("glyphnet", saved(other), layer="classifier")
    assert text.endswith("does not fit glyphnet: 1 of another shape (classifier.2.weight).")


def test_one_tensor_missing(saved, shipped):
    del shipped["features.0.weight"]
    assert sentence("glyphnet", saved(shipped)).endswith(
        "does not fit glyphnet: 1 tensors missing (features.0.weight)."
    )


def test_empty_state_dict(saved):
    assert "tensors missing" in sentence("glyphnet", saved({}))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite(saved, shipped, value):
    shipped["features.2.weight"][0, 0, 1, 1] = value
    text = sentence("glyphnet", saved(shipped))
    assert "not finite in 1 tensors (features.2.weight)" in text
    assert "weights.pt" in text


def test_what_is_cut_off_may_be_anything(saved, shipped, glyphs):
    shipped["classifier.2.weight"][:] = torch.nan  # as in torchvision's IMAGENET1K_FEATURES
    assert torch.equal(
        build_backbone("glyphnet", saved(shipped))(glyphs), build_backbone("glyphnet", "DEFAULT")(glyphs)
    )


@pytest.mark.parametrize("weights", ["nowhere.pt", "IMAGENET1K_V9", "imagenet1k_v1", "", "/"])
def test_neither_a_file_nor_published(weights):
    text = sentence("squeezenet1_0", weights)
    assert "is neither a file nor weights of squeezenet1_0 (IMAGENET1K_V1, DEFAULT)" in text


def test_glyphnet_has_one_published_file():
    assert sentence("glyphnet", "IMAGENET1K_V1").endswith("is neither a file nor weights of glyphnet (DEFAULT).")


def test_file_that_may_not_be_read(saved, shipped, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    path = saved(shipped)
    monkeypatch.setattr(torch, "load", refuse)
    assert sentence("glyphnet", path).endswith("weights.pt' cannot be read: Permission denied.")


# --- published weights ---


def unreachable(*args, **kwargs):
    raise URLError("Temporary failure in name resolution")


def test_no_network_names_the_file_and_its_place(checkpoints, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    text = sentence("squeezenet1_0", "IMAGENET1K_V1")
    file = Path(SqueezeNet1_0_Weights.IMAGENET1K_V1.url).name
    assert f"put the file {file} into {checkpoints}, or give its path as backbone.weights=/path/to/{file}." in text
    assert "name resolution" in text


def test_no_place_for_the_file(checkpoints):
    checkpoints.parent.parent.mkdir()
    checkpoints.parent.write_text("in the way")
    assert str(checkpoints) in sentence("squeezenet1_0", "DEFAULT")


class Response(io.BytesIO):
    """A download that breaks off after a few bytes, or ends with others than it should."""

    def __init__(self, error):
        super().__init__(b"half of it")
        self.error = error

    def info(self):
        return self

    def get_all(self, name):
        return ["1000"]

    def read(self, *args):
        data = super().read(*args)
        if not data and self.error:
            raise self.error
        return data


@pytest.mark.parametrize(
    "error", [ConnectionResetError("reset"), IncompleteRead(b""), URLError("away"), TimeoutError(), None]
)
def test_half_a_download_does_not_stay(checkpoints, monkeypatch, error):
    monkeypatch.setattr(torch.hub, "urlopen", lambda *args, **kwargs: Response(error))
    assert "could not be fetched" in sentence("squeezenet1_0", "IMAGENET1K_V1")
    assert list(checkpoints.iterdir()) == []


def test_fetched_once_and_checked(checkpoints, monkeypatch):
    network, calls = get_model("squeezenet1_0"), []

    def download(url, path, hash_prefix):
        calls.append((url, hash_prefix))
        torch.save(network.state_dict(), path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    first, second = (build_backbone("squeezenet1_0", weights) for weights in ("IMAGENET1K_V1", "DEFAULT"))
    url = SqueezeNet1_0_Weights.IMAGENET1K_V1.url
    assert calls == [(url, re.search(r"-([0-9a-f]{8,})\.", url)[1])]
    assert torch.equal(first.network.state_dict()["network.features.0.weight"], network.features[0].weight)
    assert first.origin["weights_sha256"] == second.origin["weights_sha256"]


def test_file_names_of_old_densenets(saved):
    network = get_model("densenet121").eval()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value
        for key, value in network.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old  # as in densenet121-a639ec97.pth
    kept = build_backbone("densenet121", saved(old)).network.network.state_dict()
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in kept.items())


def test_mnasnet_from_a_plain_dict(saved):
    network = get_model("mnasnet0_5")
    kept = build_backbone("mnasnet0_5", saved(dict(network.state_dict()))).network.network.state_dict()
    assert torch.equal(kept["layers.0.weight"], network.layers[0].weight)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_inceptions_see_what_torchvision_shows_them(saved, name):
    """torchvision's builder gives published weights `transform_input=True`, on top of the usual normalisation."""
    network = get_model(name, weights=None, init_weights=False, transform_input=True).eval()
    backbone = build_backbone(name, saved(network.state_dict()))
    read = []
    network.fc.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    usual = GoogLeNet_Weights.DEFAULT.transforms()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (usual.mean, usual.std))
    with torch.no_grad():
        network((images / 255 - mean) / std)
    torch.testing.assert_close(backbone(images), read[0], rtol=1e-4, atol=1e-5)


# --- preprocessing ---


def test_preprocessing_goes_by_the_published_file_name(saved):
    state = get_model("mobilenet_v2").state_dict()  # its first weights resize to 256, its second to 232
    first, second = (saved(state, file) for file in ("mine.pth", "mobilenet_v2-7ebf99e0.pth"))
    assert build_backbone("mobilenet_v2", first).preprocessing.resize == 256
    assert build_backbone("mobilenet_v2", second).preprocessing.resize == 232
    assert build_backbone("mobilenet_v2", first, preprocessing="IMAGENET1K_V2").preprocessing.resize == 232
    assert build_backbone("mobilenet_v2", second, preprocessing="IMAGENET1K_V1").preprocessing.resize == 256


def test_unknown_preprocessing():
    text = sentence("squeezenet1_0", "anything", preprocessing="mine")
    assert text == "backbone.preprocessing='mine' is unknown; squeezenet1_0 has IMAGENET1K_V1, DEFAULT."


# --- restoring ---


@pytest.mark.parametrize(
    ("name", "options"), [("glyphnet", {"pool": "flatten"}), ("squeezenet1_0", {"layer": "features.5"})]
)
def test_restored_backbone_is_the_same(name, options, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    backbone = random_backbone(name, **options)
    torch.save({"origin": backbone.origin, "state": backbone.network.state_dict()}, tmp_path / "model.pt")
    model = torch.load(tmp_path / "model.pt", weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = restore_backbone(model["origin"], model["state"])
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(again(images), backbone(images))
    assert again.origin == backbone.origin


def test_restoring_does_not_need_the_weights_file(saved, shipped, glyphs, tmp_path):
    path = saved(shipped)
    backbone = build_backbone("glyphnet", path)
    Path(path).unlink()
    assert torch.equal(restore_backbone(backbone.origin, backbone.network.state_dict())(glyphs), backbone(glyphs))


def test_restoring_what_does_not_fit(shipped):
    backbone = build_backbone("glyphnet", "DEFAULT")
    state = backbone.network.state_dict()
    state.pop("network.features.0.weight")
    with pytest.raises(
        ValueError, match=r"do not fit glyphnet up to features: 1 tensors missing \(network\.features\.0"
    ):
        restore_backbone(backbone.origin, state)
    with pytest.raises(ValueError, match=r"backbone\.name='glyfnet' is unknown; the nearest are glyphnet"):
        restore_backbone({**backbone.origin, "name": "glyfnet"}, state)


# --- real weights ---


def test_real_weights_on_a_photo(assets):
    backbone = build_backbone("squeezenet1_0", str(assets / "squeezenet1_0.pt"))
    features = backbone(backbone.preprocessing(Folder(assets / "photos/dog").load(0))[None])
    assert features.shape == (1, 512)
    assert features.isfinite().all()
    assert features.std() > 0
