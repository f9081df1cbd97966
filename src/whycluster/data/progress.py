"""Which images are done, so that a run that was stopped goes on behind them."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from whycluster.files import Journal

EVERY = 1.0  # second: what is done is noted that often at most, as disks take their time to be sure


class Stopwatch:
    """Which part of the work takes how long, in seconds."""

    def __init__(self) -> None:
        self._since, self._times = time.monotonic(), dict[str, float]()

    def lap(self, part: str) -> None:
        """All time since the last lap went into this part."""
        now = time.monotonic()
        self._times[part] = self._times.get(part, 0.0) + now - self._since
        self._since = now

    def taken(self) -> dict[str, float]:
        """The times of the parts; they begin at zero again."""
        times, self._times = self._times, {}
        return {part: round(seconds, 6) for part, seconds in times.items()}


class Progress:
    """What a run has done, in journals that each process writes for itself and that all read before they begin.

    Args:
        folder: of the journals.
        name: of what is done.
        n_rows: how many images there are.

    Attributes:
        done: whether each image is, `(n_rows,)` bool, as it was when the run went on.
        written: images done since then, by this process.
    """

    def __init__(self, folder: Path, name: str, n_rows: int) -> None:
        self.folder, self.name = folder, name
        self.done = np.zeros(n_rows, dtype=bool)
        self.written = 0
        for entry in self.entries():
            self.done[slice(*entry["rows"])] = True

    def begin(self, rank: int) -> None:
        """Opens the journal of a process; not before all have read the others."""
        self._journal = Journal(self.folder / f"{self.name}.{rank}.jsonl")
        self._waiting: list[dict[str, Any]] = []
        self._noted = time.monotonic()

    def add(self, first: int, n: int, times: dict[str, float], **entry: Any) -> bool:
        """Takes a note of a batch.

        Args:
            first: number of its first image.
            n: images, one after the other.
            times: that parts of the work took.
            entry: plain values to keep with it.

        Returns:
            Whether it is time to `note` what was taken.
        """
        self._waiting.append({"rows": [first, first + n], "times": times, **entry})
        self.written += n
        return time.monotonic() - self._noted > EVERY

    def note(self) -> None:
        """Writes to disk what was taken; the files of these images have to be there before."""
        while self._waiting:
            self._journal.append(self._waiting[0])
            del self._waiting[0]  # an interrupt before this line notes the batch twice
        self._noted = time.monotonic()

    def entries(self) -> Iterator[dict[str, Any]]:
        """All entries of all processes, in the order of the images; few are in memory at once."""
        places = [
            (entry["rows"][0], journal, place)
            for journal in sorted(self.folder.glob(f"{self.name}.*.jsonl"))
            for place, entry in Journal.places(journal)
        ]
        behind = -1
        for first, journal, place in sorted(places):
            if first > behind:
                yield Journal.entry(journal, place)
            behind = first

    def forget(self) -> None:
        """Removes all notes."""
        for journal in self.folder.glob(f"{self.name}.*.jsonl"):
            journal.unlink(missing_ok=True)

    def skipped(self) -> dict[int, str]:
        """Number `->` reason, of the images that could not be used."""
        return {int(row): reason for entry in self.entries() for row, reason in entry["skipped"].items()}

    def times(self) -> dict[str, float]:
        """Seconds that parts of the work took, of the process that took longest."""
        longest: dict[str, float] = {}
        for journal in sorted(self.folder.glob(f"{self.name}.*.jsonl")):
            times: dict[str, float] = {}
            for _, entry in Journal.places(journal):
                for part, seconds in entry["times"].items():
                    times[part] = times.get(part, 0.0) + seconds
            longest = max(longest, times, key=lambda times: sum(times.values()))
        return {part: round(seconds, 3) for part, seconds in longest.items()}
