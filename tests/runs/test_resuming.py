"""Runs that are stopped at any moment and started again end as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from whycluster.data.listing import UNFINISHED

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("WHYCLUSTER_KILLS", "1"))  # of each command; 26 take three minutes more
KILLING = Path(__file__).with_name("killing.py")
TIMES = ("seconds", "images_per_second")  # the ends of names in metrics.json that may differ


def contents(folder):
    """All that must be the same: names and bytes of files but of TensorBoard's and Hydra's, and metrics but times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name.startswith((".hydra/", "tensorboard/")):
            continue
        found[name] = path.read_bytes()
        if name == "metrics.json":
            metrics = json.loads(found[name])
            found[name] = {key: value for key, value in metrics.items() if not key.endswith(TIMES)}
    return found


def shell(folder, script, *settings):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as many as those have that are killed
    arguments = [str(word) for word in (sys.executable, script, *settings)]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(900)
def test_runs_killed_at_random_moments_end_as_undisturbed_ones(tmp_path):
    commands = {
        "train": (
            *("data.limit=400", "head=spherical_kmeans", "head.n_clusters=6", "head.n_init=3", "batch_size=8"),
            *("features.standardize=true", "features.pca=20"),
        ),
        "explain": ("checkpoint=train", "limit=40", "batch_size=4"),
    }
    seen = []
    for command, settings in commands.items():
        settings = (*settings, "num_workers=0", "trainer.accelerator=cpu")
        shell(tmp_path, ROOT / f"{command}.py", *settings, f"hydra.run.dir={command}")
        expected = contents(tmp_path / command)
        for line in shell(tmp_path, KILLING, KILLS, ROOT / f"{command}.py", *settings, "resume=true").splitlines():
            if line.startswith("{"):
                ended = json.loads(line)
                seen += ended["signals"]
                assert contents(tmp_path / ended["folder"]) == expected
    assert len(seen) >= 2 * KILLS


@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupt_prints_the_line_that_goes_on(tmp_path, sent):
    settings = ("data.limit=200", "head.n_clusters=6", "head.n_init=1", "batch_size=2")
    settings += ("num_workers=0", "trainer.accelerator=cpu")
    arguments = [sys.executable, ROOT / "train.py", *settings, "hydra.run.dir='my run'"]
    process = subprocess.Popen(arguments, cwd=tmp_path, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    shards = tmp_path / "my run" / UNFINISHED / "features"
    until = time.monotonic() + 100
    while not list(shards.glob("*.pt")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + sent
    line = said.splitlines()[-1]
    assert line.startswith("interrupted; go on by: python ")
    assert line.endswith(" \"hydra.run.dir='my run'\" resume=true")
    again = line.partition("go on by: ")[2].replace("python", sys.executable, 1)
    done = subprocess.run(again, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "going on: " in done.stdout
    assert not (tmp_path / "my run" / UNFINISHED).exists()
    done = subprocess.run(again, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert "is finished already" in done.stdout
