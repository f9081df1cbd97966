"""Runs that are stopped at any moment and started again end as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from whycluster.runs.folders import UNFINISHED, Run, find_checkpoint

ROOT = Path(__file__).parents[2]
KILLING = Path(__file__).with_name("killing.py")
TIMES = ("seconds_extraction", "seconds_clustering", "images_per_second")  # what may differ in metrics.json
SMALL = ("head.n_clusters=6", "head.n_init=3", "num_workers=0", "batch_size=8", "trainer.accelerator=cpu")


def contents(folder):
    """All that must be the same: names and bytes of all files but of logs, and of metrics without times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name.startswith((".hydra/", "tensorboard/")) or name.endswith(".log"):
            continue
        found[name] = path.read_bytes()
        if name == "metrics.json":
            metrics = json.loads(found[name])
            found[name] = {key: value for key, value in metrics.items() if key not in TIMES}
    return found


def shell(folder, script, *settings):
    done = subprocess.run([sys.executable, ROOT / script, *settings], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def kill(folder, seed, most, script, *settings):
    arguments = [sys.executable, KILLING, seed, most, ROOT / script, *settings, "resume=true"]
    done = subprocess.run([str(word) for word in arguments], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["status"] == 0, (folder / f"killed.{seed}.log").read_text()[-3000:]
    return result["killed"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Runs that nobody stopped, one thread each, as the killed ones have."""
    folder = tmp_path_factory.mktemp("runs")
    script = KILLING.read_text()
    assert "set_num_threads(1)" in script
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        shell(folder, "train.py", *SMALL, "data.limit=400", "hydra.run.dir=train")
        settings = ("checkpoint=train", "limit=40", "num_workers=0", "batch_size=4", "trainer.accelerator=cpu")
        shell(folder, "explain.py", *settings, "hydra.run.dir=explain")
    finally:
        del os.environ["OMP_NUM_THREADS"]
    return folder


@pytest.mark.timeout(900)
def test_runs_killed_at_random_moments_end_as_undisturbed_ones(undisturbed):
    explain = ("checkpoint=train", "limit=40", "num_workers=0", "batch_size=4", "trainer.accelerator=cpu")
    commands = {"train": (*SMALL, "data.limit=400"), "explain": explain}
    killed = []
    for command, settings in commands.items():
        expected = contents(undisturbed / command)
        number, before = 0, len(killed)
        while len(killed) - before < 26:
            number += 1
            name = f"{command}{number}"
            killed += kill(undisturbed, number, 2.5, f"{command}.py", *settings, f"hydra.run.dir={name}")
            assert contents(undisturbed / name) == expected
    assert len(killed) >= 50
    assert {"SIGKILL", "SIGINT", "SIGTERM"} == set(killed)
