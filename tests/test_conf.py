import inspect
from pathlib import Path

import hydra
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from whycluster.runs import make_trainer

CONF = Path(__file__).parents[1] / "conf"
GROUPS = {path.name: sorted(file.stem for file in path.iterdir()) for path in CONF.iterdir() if path.is_dir()}
NAMES = {"torchvision": ["resnet18"], "timm": ["test_vit"]}  # of networks, where a preset leaves it to the user


def composed(command, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(command, list(overrides))


KWARGS_OF = {make_trainer: pl.Trainer, TensorBoardLogger: SummaryWriter}  # where a target hands its **kwargs on to
HYDRA_KEYS = {"_target_", "_partial_"}


def arguments(target):
    """Names that a target takes, those that it hands on included."""
    parameters = inspect.signature(target).parameters.values()
    names = {parameter.name for parameter in parameters}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        names |= arguments(KWARGS_OF[target])
    return names


def unknown_keys(config, at="config"):
    """Keys in a config that its targets do not take, by their full names; where there is no target, all of them."""
    known = HYDRA_KEYS | (arguments(hydra.utils.get_object(config["_target_"])) if "_target_" in config else set())
    found = [f"{at}.{key}" for key in config if key not in known]
    for key in config:
        if OmegaConf.is_dict(value := OmegaConf.select(config, key)):
            found += unknown_keys(value, f"{at}.{key}")
    return found


@pytest.mark.parametrize(
    ("command", "choice"),
    [("train", f"{group}={name}") for group, names in GROUPS.items() for name in names]
    + [("explain", f"{group}={name}") for group in ("trainer", "logger") for name in GROUPS[group]],
)
def test_every_key_is_an_argument(command, choice):
    assert unknown_keys(composed(command, choice)) == []


@pytest.mark.parametrize("place", ["", "backbone.", "data.", "head.", "trainer.", "logger."])
def test_a_misspelt_key_would_be_noticed(place):
    assert unknown_keys(composed("train", f"++{place}batch_sise=3")) == [f"config.{place}batch_sise"]


def test_a_misspelt_key_of_the_evaluation_would_be_noticed():
    assert unknown_keys(composed("explain", "+evaluation.stepps=3")) == ["config.evaluation.stepps"]


def zeros(tensor, *_, **__):
    """In the place of random weights, which are slow to draw for a VGG."""
    return torch.nn.init.zeros_(tensor)


@pytest.mark.parametrize("command", [path.stem for path in CONF.glob("*.yaml")])
def test_commands(command):
    assert callable(hydra.utils.instantiate(composed(command)))


@pytest.mark.parametrize("name", GROUPS["backbone"])
def test_backbones(name, monkeypatch):
    for draw in ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_", "trunc_normal_"):
        monkeypatch.setattr(torch.nn.init, draw, zeros)
    wanted = [f"backbone={name}", *(f"backbone.name={given}" for given in NAMES.get(name, []))]
    config = composed("train", *wanted, "backbone.weights=null").backbone
    with pytest.warns(UserWarning, match="random weights"):
        backbone = hydra.utils.instantiate(config)
    assert backbone.n_features > 0


@pytest.mark.parametrize("name", GROUPS["data"])
def test_data(name, tmp_path):
    (tmp_path / "image.png").touch()
    root = [f"data.root='{tmp_path}'"] if name == "folder" else []
    assert hydra.utils.instantiate(composed("train", f"data={name}", *root).data).paths


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in ("head", "trainer") for name in GROUPS[group]])
def test_the_rest(group, name):
    assert hydra.utils.instantiate(composed("train", f"{group}={name}")[group])


@pytest.mark.parametrize("name", GROUPS["logger"])
def test_loggers(name, tmp_path):
    make = hydra.utils.instantiate(composed("train", f"logger={name}").logger)
    assert Path(make(save_dir=tmp_path, name="tensorboard", version="").log_dir) == tmp_path / "tensorboard"


def test_no_group_is_forgotten():
    assert set(GROUPS) == {"backbone", "data", "head", "logger", "trainer"}
