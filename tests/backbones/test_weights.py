"""Weights files as trainers write them."""

import re
import sys
import warnings

import pytest
import torch
from safetensors.torch import save_file

from whycluster.backbones import build_backbone
from whycluster.backbones.glyphnet import WEIGHTS, GlyphNet
from whycluster.backbones.weights import common_prefix, differences


@pytest.fixture
def shipped():
    return dict(torch.load(WEIGHTS, weights_only=True))


@pytest.fixture
def expected(glyphs):
    return build_backbone("glyphnet", "DEFAULT")(glyphs)


@pytest.fixture
def glyphs():
    return torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)


def under(prefix, tensors):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def others():
    """Weights of the same names and shapes, which must not be taken."""
    torch.manual_seed(1)
    return GlyphNet().state_dict()


def without_classifier(tensors):
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier")}


# What lies around, and what the one line about it must say.
FILES = {
    "no classifier": (without_classifier, None),
    "another classifier": (
        lambda w: {**without_classifier(w), "head.mlp.0.weight": torch.zeros(9, 9), "mask": torch.zeros(2)},
        r"2 tensors \(head\.mlp\.0\.weight, …\) left out",
    ),
    "model.": (lambda w: under("model.", w), r"names read without 'model\.'"),
    "module.model.": (lambda w: under("module.model.", w), r"names read without 'module\.model\.'"),
    "lightning": (
        lambda w: {"epoch": 3, "state_dict": {**under("backbone.", w), "head.weight": torch.zeros(3)}, "lr": [0.1]},
        r"taken from its key 'state_dict'; names read without 'backbone\.'",
    ),
    "moco": (
        lambda w: {
            "state_dict": {
                **under("module.encoder_k.", others()),
                **under("module.encoder_q.", w),
                "module.queue": torch.zeros(9),
            }
        },
        r"names read without 'module\.encoder_q\.'",
    ),
    "dino": (
        lambda w: {"student": under("module.backbone.", others()), "teacher": under("backbone.", w), "epoch": 1},
        r"taken from its key 'teacher'; names read without 'backbone\.'",
    ),
    "student and teacher": (
        lambda w: {**under("student.backbone.", others()), **under("teacher.backbone.", w)},
        r"names read without 'teacher\.backbone\.'",
    ),
    "student alone": (lambda w: under("student.backbone.", w), r"names read without 'student\.backbone\.'"),
    "ema": (lambda w: {"model": others(), "ema": w, "step": 4}, "taken from its key 'ema'"),
    "averaged": (
        lambda w: {"model_state": {"n_averaged": torch.tensor(3), **under("module.", w)}, "step": 4},
        r"taken from its key 'model_state'; names read without 'module\.'",
    ),
    "wrapped twice": (lambda w: {"model": {"state_dict": w, "epoch": 3}}, r"taken from its key 'model\.state_dict'"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_of_trainers(tmp_path, shipped, glyphs, expected, kind):
    change, told = FILES[kind]
    torch.save(change(shipped), tmp_path / "file.pth")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backbone = build_backbone("glyphnet", str(tmp_path / "file.pth"))
    assert torch.equal(backbone(glyphs), expected)
    if told is None:
        assert not caught
    else:
        (line,) = caught
        assert line.filename == __file__
        assert "\n" not in str(line.message)
        assert re.search(told, str(line.message))


def test_safetensors(tmp_path, shipped, glyphs, expected):
    save_file(shipped, tmp_path / "file.safetensors")
    assert torch.equal(build_backbone("glyphnet", str(tmp_path / "file.safetensors"))(glyphs), expected)
    whole = (tmp_path / "file.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half\.safetensors' is damaged"):
        build_backbone("glyphnet", str(tmp_path / "half.safetensors"))


def test_safetensors_not_installed(tmp_path, shipped, monkeypatch):
    save_file(shipped, tmp_path / "file.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ValueError, match="pip install safetensors"):
        build_backbone("glyphnet", str(tmp_path / "file.safetensors"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("features.2.weight"), r"1 tensors missing \(features\.2\.weight\)"),
        (lambda w: w.update({"features.2.weight": torch.zeros(2, 2)}), r"1 of another shape \(features\.2\.weight\)"),
        # A deeper network has all of it and more: it must not be taken for this one.
        (lambda w: w.update({"features.21.weight": torch.zeros(2)}), r"1 unknown \(features\.21\.weight\)"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_the_cut_uses_must_fit(tmp_path, shipped, change, message, prefix):
    change(shipped)
    torch.save(under(prefix, shipped), tmp_path / "file.pt")
    with pytest.raises(ValueError, match=f"does not fit glyphnet: {message}"):
        build_backbone("glyphnet", str(tmp_path / "file.pt"))


def test_logits_need_the_classifier(tmp_path, shipped):
    torch.save(without_classifier(shipped), tmp_path / "file.pt")
    with pytest.raises(ValueError, match=r"1 tensors missing \(classifier\.2\.weight\)"):
        build_backbone("glyphnet", str(tmp_path / "file.pt"), layer="classifier")


def test_common_prefix():
    one = torch.zeros(1)
    wanted = {"a.weight": one, "b.weight": one}
    assert common_prefix(wanted, {"x.a.weight": one, "b.weight": one, "x.b.weight": one}) == "x."
    assert common_prefix(wanted, {"x.a.weight": one, "a.weight": one}) == ""
    assert common_prefix(wanted, {"c": one}) == common_prefix({}, {}) == ""


def test_differences_are_named_once():
    wanted = {"a.weight": torch.zeros(2), "a.bias": torch.zeros(2), "b": torch.zeros(1)}
    given = {"a.weight": torch.zeros(3), "a.more": torch.zeros(1), "c.more": torch.zeros(1), "b": torch.zeros(1)}
    text = differences(wanted, given, wanted)
    assert text == "1 tensors missing (a.bias), 1 unknown (a.more), 1 of another shape (a.weight)"
    assert differences(wanted, wanted, wanted) == ""
