"""After a power cut only that is there which was waited for: the content of files, and the names in folders.

A run is watched as it waits for the disk. For some moments of it the folder is then made as the strictest disk would
have kept it: of each file what it held when somebody last waited for it, of each folder the names at that moment, and
nothing else. Runs go on from there, and end as the first did.
"""

import json
import os
import random
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from whycluster.data import progress
from whycluster.data.listing import UNFINISHED

Held = bytes | dict[str, tuple[int, bool]]  # of a file its content, of a folder names, inodes and which are folders


class Disk:
    """What is on the disk after each time that somebody waited for it, by inode."""

    def __init__(self) -> None:
        self.events: list[tuple[int, Held]] = []
        self._open: list[int] = []  # so that no inode gets a second life
        self._lock, self._fsync = threading.Lock(), os.fsync

    def fsync(self, descriptor: int) -> None:
        with self._lock:
            self._fsync(descriptor)
            self._open.append(os.dup(descriptor))
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                held: Held = {entry.name: (entry.inode(), entry.is_dir()) for entry in os.scandir(descriptor)}
            else:
                held = os.pread(descriptor, status.st_size, 0)
            self.events.append((status.st_ino, held))

    def close(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)

    def restored(self, moment: int, root: int, target: Path) -> None:
        """Makes the folder as it was kept at a moment."""
        self._restore(dict(self.events[:moment]), root, True, target)

    def _restore(self, kept: dict[int, Held], inode: int, is_folder: bool, target: Path) -> None:
        held = kept.get(inode, {} if is_folder else b"")  # of what nobody waited for, the name at most
        if isinstance(held, bytes):
            target.write_bytes(held)
            return
        target.mkdir()
        for name, (other, is_folder) in held.items():
            self._restore(kept, other, is_folder, target / name)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    watched = Disk()
    monkeypatch.setattr(os, "fsync", watched.fsync)
    monkeypatch.setattr(progress, "EVERY", -1)
    yield watched
    watched.close()


def contents(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    found = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
    for name in ("heatmaps", "relevance"):
        found |= {str(path.relative_to(folder)): path.read_bytes() for path in (folder / name).rglob("*.*")}
    assert not (folder / UNFINISHED).exists()
    return found


@pytest.mark.parametrize("command", ["train", "explain"])
def test_after_a_power_cut_runs_go_on_and_end_as_if_there_had_been_none(disk, trained, run, tmp_path, command):
    settings = {
        "train": ("data.limit=60", "head.n_clusters=4", "head.n_init=2", "batch_size=10", "num_workers=0"),
        "explain": (f"checkpoint={trained}", "limit=12", "batch_size=3", "num_workers=0"),
    }[command]
    whole = tmp_path / "whole"
    whole.mkdir()
    root = whole.stat().st_ino
    run(command, whole, *settings)
    names = ("model.ckpt", "features.npy", "assignments.csv", "receipts.csv", "skipped.csv")
    expected = contents(whole, names)
    assert len(disk.events) > 30
    n_events, went_on = len(disk.events), 0
    moments = random.Random(0).sample(range(n_events), 12)
    for moment in [*moments, n_events]:
        folder = tmp_path / f"cut{moment}"
        disk.restored(moment, root, folder)
        state = folder / UNFINISHED
        went_on += any(path.read_bytes() for path in state.glob("*.0.jsonl"))
        run(command, folder, *settings, "resume=true")
        assert contents(folder, names) == expected
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["n_images"] == (60 if command == "train" else 12)
    assert went_on >= 6  # work was there to go on from
