import runpy
import signal
import sys
from pathlib import Path

import hydra
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def composed():
    """The config of a command."""

    def compose_for(command, *overrides):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return compose(command, list(overrides))

    return compose_for


@pytest.fixture(scope="session")
def run(composed):
    """Runs a command in this process, in a folder, and returns the folder."""

    def run_in(command, folder, *overrides):
        folder.mkdir(parents=True, exist_ok=True)
        quiet = "+trainer.enable_progress_bar=false"
        config = composed(command, "trainer.accelerator=cpu", quiet, *overrides)
        hydra.utils.instantiate(config)(folder=folder, request=OmegaConf.to_container(config, resolve=True))
        return folder

    return run_in


@pytest.fixture(scope="session")
def small():
    """What makes a train run short."""
    return ("data.limit=150", "head.n_clusters=6", "head.n_init=2")


@pytest.fixture(scope="session")
def trained(run, small, tmp_path_factory):
    """A finished run on 150 digits."""
    return run("train", tmp_path_factory.mktemp("train"), *small)


@pytest.fixture
def photos(tmp_path):
    """A folder of pictures in two groups, with some that cannot be read."""
    random = np.random.RandomState(0)
    for group, colour in (("dark", 40), ("light", 200)):
        for number in range(6):
            place = tmp_path / "photos" / group / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((colour + random.randint(0, 40, (40, 48, 3))).astype(np.uint8)).save(place)
    (tmp_path / "photos" / "dark" / "empty.png").touch()
    (tmp_path / "photos" / "light" / "=text.png").write_text("not an image")
    return tmp_path / "photos"


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Runs a script as a user would, in an empty folder; returns its exit status and what it said on stderr."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.chdir(tmp_path)

    def run_script(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        status = 0
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as stop:
            status = stop.code
        return status, capsys.readouterr().err

    yield run_script
    for number, handler in handlers.items():
        signal.signal(number, handler)
