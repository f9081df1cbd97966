import pytest
from torch import nn
from torchvision import models

from whycluster.backbones import build_backbone
from whycluster.backbones.stage import default_stage, stage_names, stage_parameters


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("resnet18", "layer4"),
        ("squeezenet1_0", "features.12"),
        ("glyphnet", "features.12"),
        ("vit_b_16", "encoder.layers.encoder_layer_11"),
        ("densenet121", "features.denseblock4"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*random weights")
def test_the_default_is_the_last_stage_before_the_cut(name, stage, monkeypatch):
    for draw in ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_", "trunc_normal_"):
        monkeypatch.setattr(nn.init, draw, lambda tensor, *_, **__: nn.init.zeros_(tensor))
    assert default_stage(build_backbone(name, None).network.network) == stage


@pytest.mark.filterwarnings("ignore:.*random weights")
def test_what_lies_behind_the_cut_is_no_stage():
    network = build_backbone("resnet18", None, layer="layer2").network.network
    assert default_stage(network) == "layer2"
    with pytest.raises(ValueError, match=r"head.finetune='layer4' has no parameters before .*; choose one of .*layer2"):
        stage_parameters(network, ["layer4"])


def test_an_unknown_stage_is_refused_with_the_nearest_names():
    with pytest.raises(ValueError, match=r"head.finetune='layer5' is no module .*; the nearest are layer4"):
        stage_parameters(models.resnet18(), ["layer5"])


def test_parameters_of_stages_that_overlap_come_once():
    network = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 4)))
    assert stage_names(network) == ["0", "1", "1.1"]
    assert [p.shape for p in stage_parameters(network, ["1", "1.1"])] == [(4, 3), (4,)]


def test_a_network_without_weights_has_no_stage():
    with pytest.raises(ValueError, match=r"no stage with parameters to train; set head\.finetune=null"):
        default_stage(nn.Sequential(nn.ReLU()))
