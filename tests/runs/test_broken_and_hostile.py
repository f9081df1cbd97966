"""Collections that are broken, odd, or meant to do harm, through whole runs."""

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whycluster.data import Folder

ROOT = Path(__file__).parents[2]
HOSTILE = (
    "<script>alert(1)</script>.png",
    "=cmd|' /C calc'!A0.png",
    "+1+1.png",
    "@SUM(1).png",
    "..png",
    "...png",
    "-rf.png",
    '\tnew\nline".png',
    "%2e%2e%2fup.png",
    "C:\\up.png",
    "~root.png",
    "$(touch gone).png",
)


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def picture(path, colour, size=(40, 36)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.RandomState(abs(hash(path.name)) % 2**32).randint(0, 30, (*size[::-1], 3))
    Image.fromarray((colour + noise).astype(np.uint8)).save(path, format="PNG")


def tree(folder):
    """Everything below a folder, but what is below `runs`."""
    return sorted(str(path) for path in folder.rglob("*") if "runs" not in path.relative_to(folder).parts)


def test_no_name_acts_or_leads_out_of_the_run_folder(run, tmp_path):
    photos = tmp_path / "photos"
    for number, name in enumerate(HOSTILE):
        picture(photos / f"group{number % 2}" / name, 30 + 180 * (number % 2))
    picture(tmp_path / "outside" / "a.png", 90)
    (photos / "link").symlink_to(tmp_path / "outside")
    (photos / "up.png").symlink_to("../outside/a.png")
    before = tree(tmp_path)
    settings = ("data=folder", f"data.root={photos}", "head.n_clusters=2", "num_workers=0")
    model = run("train", tmp_path / "runs" / "train", *settings, "export=copies")
    explained = run("explain", tmp_path / "runs" / "explain", f"checkpoint={model}")
    assert tree(tmp_path) == before
    names = [f"group{number % 2}/{name}" for number, name in enumerate(HOSTILE) if not name.startswith(".")]
    names += ["link/a.png", "up.png"]
    for folder in (model, explained):
        rows = table(folder / "assignments.csv")
        assert {row["path"] for row in rows} == set(names)
        cells = [
            cell
            for name in ("assignments", "skipped")
            for row in table(folder / f"{name}.csv")
            for cell in row.values()
        ]
        assert not any(cell.startswith(("=", "+", "@", "\t", "\r")) for cell in cells)
    assert len(list((explained / "heatmaps").rglob("*.png"))) == len(names)
    assert not any(path.is_symlink() for path in explained.rglob("*"))


def test_a_folder_of_formulas(run, tmp_path):
    for number, name in enumerate(("=1+1", "@a", "+b", "-c")):
        picture(tmp_path / "photos" / name / f"{name}.png", 50 * number)
    folder = run("train", tmp_path / "run", "data=folder", f"data.root={tmp_path / 'photos'}", "head.n_clusters=2")
    rows = table(folder / "assignments.csv")
    assert {row["path"] for row in rows} == {"./=1+1/=1+1.png", "./@a/@a.png", "./+b/+b.png", "./-c/-c.png"}
    assert {row["label"] for row in rows} == {"'=1+1", "'@a", "'+b", "'-c"}


def test_no_network_is_asked_for(run, small, tmp_path, monkeypatch):
    connect = socket.socket.connect

    def refuse(self, address):
        if isinstance(address, str):  # a name in the file system, by which processes of a machine talk
            return connect(self, address)
        raise AssertionError(f"somebody calls {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address: refuse(None, address))
    model = run("train", tmp_path / "train", *small)
    run("explain", tmp_path / "explain", f"checkpoint={model}", "limit=3")


def test_files_that_change_after_they_were_listed(run, photos, tmp_path, monkeypatch):
    listed = Folder.__init__

    def meanwhile(self, root, **settings):
        listed(self, root, **settings)
        (photos / "dark" / "0.png").unlink(missing_ok=True)
        (photos / "dark" / "1.png").write_bytes((photos / "dark" / "1.png").read_bytes()[:60])
        (photos / "light" / "0.png").write_text("something else")

    monkeypatch.setattr(Folder, "__init__", meanwhile)
    settings = ("data=folder", f"data.root={photos}", "head.n_clusters=2", "num_workers=0")
    folder = run("train", tmp_path / "run", *settings)
    reasons = {row["path"]: row["reason"] for row in table(folder / "skipped.csv")}
    assert "any more" in reasons["dark/0.png"]
    assert reasons["dark/1.png"].startswith("damaged")
    assert "not an image" in reasons["light/0.png"]
    assert len(table(folder / "assignments.csv")) == 9


@pytest.mark.parametrize("head", ["kmeans", "kernel_kmeans"])
@pytest.mark.parametrize("n_clusters", [2, 5])
def test_as_many_clusters_as_images_and_images_that_are_all_equal(run, tmp_path, head, n_clusters):
    different, equal = tmp_path / "different", tmp_path / "equal"
    for number in range(5):
        picture(different / f"{number}.png", 40 * number)
        equal.mkdir(exist_ok=True)
        Image.new("RGB", (36, 36), (9, 9, 9)).save(equal / f"{number}.png")
    for root in (different, equal):
        name = f"{root.name} {head}"
        settings = (
            f"head={head}",
            f"head.n_clusters={n_clusters}",
            "data=folder",
            f"data.root={root}",
            "num_workers=0",
        )
        folder = run("train", tmp_path / name, *settings)
        rows = table(folder / "assignments.csv")
        clusters = [int(row["cluster"]) for row in rows]
        assert len(clusters) == 5
        if root is different and n_clusters == 5:
            assert sorted(clusters) == list(range(5))
        if root is equal:
            assert len(set(clusters)) == 1
        explained = run("explain", tmp_path / f"{name} explained", f"checkpoint='{folder}'")
        receipts = table(explained / "receipts.csv")
        assert all(np.isfinite(float(row["pixels"])) for row in receipts)


FULL = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


# No room for the features, none for the model, and little.
@pytest.mark.parametrize(
    "limit", [pytest.param(size, marks=pytest.mark.slow) for size in (20_000, 200_000)] + [150_000]
)
def test_no_room_on_the_disk_is_an_error_and_nothing_is_taken_for_finished(tmp_path, limit):
    arguments = ("train.py", "data.limit=20", "head.n_clusters=2", "num_workers=0", "hydra.run.dir=run")
    command = [sys.executable, "-c", FULL, str(limit), ROOT / arguments[0], *arguments[1:], "trainer.accelerator=cpu"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: "), done.stderr
    assert "File too large" in done.stderr
    assert not (tmp_path / "run" / "model.ckpt").exists()
    assert not list((tmp_path / "run").rglob("*.part"))
    command[2:4] = "import runpy, sys; sys.argv = sys.argv[2:]; runpy.run_path(sys.argv[0], run_name='__main__')", "-"
    done = subprocess.run([*command, "resume=true"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # there is room again
    assert (tmp_path / "run" / "model.ckpt").exists()
