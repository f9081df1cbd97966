"""The commands under DDP, with two processes on the CPU."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from whycluster import ClusterModel
from whycluster.data.listing import UNFINISHED

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
ONE = ("trainer.accelerator=cpu",)
FIGURES = ("metrics", "clusters")
TWO = (*ONE, "trainer.devices=2", "trainer.strategy=ddp")


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def start(folder, script, *settings):
    arguments = [str(word) for word in (sys.executable, ROOT / script, *settings)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(arguments, cwd=folder, env=ENVIRONMENT, text=True, **pipes)


def run(folder, script, *settings):
    process = start(folder, script, *settings)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    return said


@pytest.mark.slow
def test_two_processes_write_what_one_writes(trained, small, tmp_path):
    run(tmp_path, "train.py", *small, *TWO, "hydra.run.dir=run")
    one, two = (np.load(folder / "features.npy") for folder in (trained, tmp_path / "run"))
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)
    one, two = (ClusterModel.load(folder).head.centroids for folder in (trained, tmp_path / "run"))
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)
    mine, other = (table(folder / "assignments.csv") for folder in (trained, tmp_path / "run"))
    assert [(row["path"], row["cluster"]) for row in mine] == [(row["path"], row["cluster"]) for row in other]
    assert not (tmp_path / "run" / UNFINISHED).exists()

    run(tmp_path, "explain.py", "checkpoint=run", "limit=9", "batch_size=2", *TWO, "hydra.run.dir=why")
    run(tmp_path, "explain.py", "checkpoint=run", "limit=9", "batch_size=2", *ONE, "hydra.run.dir=alone")
    for name in ("assignments.csv", "receipts.csv", "skipped.csv"):
        assert (tmp_path / "why" / name).read_text() == (tmp_path / "alone" / name).read_text()
    for path in (tmp_path / "alone" / "relevance").iterdir():
        np.testing.assert_array_equal(np.load(tmp_path / "why" / "relevance" / path.name), np.load(path))
    assert len(list((tmp_path / "why" / "heatmaps").iterdir())) == 9
    run(tmp_path, "explain.py", "checkpoint=run", "limit=1", *TWO, "hydra.run.dir=one")  # none for the second process
    assert len(table(tmp_path / "one" / "assignments.csv")) == 1


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(true, seconds=120):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_two_processes_choose_the_number_of_clusters_that_one_chooses(tmp_path):
    settings = ("data.limit=80", "head.n_clusters=2-6", "head.n_init=1")
    found = []
    for processes, folder in ((ONE, "one"), (TWO, "two")):
        run(tmp_path, "train.py", *settings, *processes, f"hydra.run.dir={folder}")
        metrics, clusters = (json.loads((tmp_path / folder / f"{name}.json").read_text()) for name in FIGURES)
        assert len(clusters) == metrics["n_clusters"]
        found.append([*(tuple(row.values()) for row in metrics["how_many"]), *(row["stability"] for row in clusters)])
    np.testing.assert_allclose(np.hstack(found[0]), np.hstack(found[1]), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize("first", [True, False])
def test_a_killed_process_ends_the_run_and_it_can_go_on(tmp_path, first):
    settings = ("backbone=resnet18", "backbone.weights=null", "data.limit=120", "head.n_clusters=6", "head.n_init=2")
    settings += ("batch_size=4", "num_workers=0", "hydra.run.dir=run")
    process = start(tmp_path, "train.py", *settings, *TWO)
    state = tmp_path / "run" / UNFINISHED
    # Each has done some batches, and has many left: the second begins with the image in the middle.
    first_done, second_done = "[0-9]-*.pt", "6[0-9]-*.pt"
    wait_for(
        lambda: (
            process.poll() is not None
            or all(list((state / "features").glob(names)) for names in (first_done, second_done))
        )
    )
    assert process.poll() is None, process.communicate()[0]
    [other] = children(process.pid)
    os.kill(process.pid if first else other, signal.SIGKILL)
    said, _ = process.communicate(timeout=60)  # ends when both have closed their output
    assert process.returncode != 0
    wait_for(lambda: not Path(f"/proc/{other}").exists(), 10)
    assert state.exists()
    assert not (tmp_path / "run" / "model.ckpt").exists()
    if not first:
        assert "terminated with code -9" in said or "another process of this run has ended" in said

    said = run(tmp_path, "train.py", *settings, *ONE, "resume=true")
    assert "going on: " in said
    run(tmp_path, "train.py", *settings[:-1], *ONE, "hydra.run.dir=undisturbed")
    for name in ("features.npy", "assignments.csv", "model.ckpt"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


@pytest.mark.slow
def test_two_processes_choose_the_rules_that_one_chooses(trained, tmp_path):
    settings = (f"checkpoint={trained}", "composite=auto", "rules_sample=4", "evaluation.steps=2", "limit=9")
    found = []
    for processes, folder in ((ONE, "one"), (TWO, "two")):
        said = run(tmp_path, "explain.py", *settings, "batch_size=2", *processes, f"hydra.run.dir={folder}")
        assert said.count("choosing rules among ") == 1
        found.append(json.loads((tmp_path / folder / "metrics.json").read_text())["rules"])
    assert found[0] == found[1]
    for name in ("assignments.csv", "receipts.csv"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path):
    shift = "{_target_:torchvision.transforms.v2.RandomAffine,degrees:0,translate:[0.1,0.1]}"
    settings = ("head=dec", "data.limit=121", "head.n_clusters=6", "head.n_init=2", "head.max_epochs=3", "head.tol=0")
    settings += (f"head.augment=[{shift}]", "head.batch_size=31", "num_workers=0")  # shares of unequal sizes
    for processes, folder in ((ONE, "one"), (TWO, "two")):
        run(tmp_path, "train.py", *settings, *processes, f"hydra.run.dir={folder}")
    one, two = (ClusterModel.load(tmp_path / folder) for folder in ("one", "two"))
    np.testing.assert_allclose(two.head.centroids, one.head.centroids, rtol=0, atol=1e-3)
    for name, weights in one.backbone.network.state_dict().items():
        np.testing.assert_allclose(two.backbone.network.state_dict()[name], weights, rtol=0, atol=1e-4)
    mine, other = (table(tmp_path / folder / "assignments.csv") for folder in ("one", "two"))
    assert [(row["path"], row["cluster"]) for row in mine] == [(row["path"], row["cluster"]) for row in other]
    assert not (tmp_path / "two" / UNFINISHED).exists()
