"""Results of a pass over images, in files that appear only when complete: what exists is done."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whycluster.files import write_tensors

Entry = dict[str, Any]


class Shards:
    """Results of images, in files that are never changed; each holds those of consecutive images.

    A result is an entry for each batch: `first` and `end`, the numbers of its images; `skipped`, number `->` reason of
    those that could not be read; and tensors, numbers, strings or lists of these.

    Args:
        folder: of the files; made when the first one is written.
        n_images: how many images there are.

    Example:
        >>> shards = Shards(Path(getfixture("tmp_path")), n_images=5)
        >>> shards.write([{"first": 2, "end": 4, "skipped": {3: "empty"}}])
        >>> shards.done().tolist(), shards.skipped()
        ([False, False, True, True, False], {3: 'empty'})
    """

    def __init__(self, folder: Path, n_images: int) -> None:
        self.folder, self.n_images = folder, n_images

    def write(self, entries: Sequence[Entry]) -> None:
        """Writes the entries of consecutive images as one file."""
        write_tensors(self.folder / f"{entries[0]['first']}-{entries[-1]['end']}.pt", list(entries))

    def done(self) -> np.ndarray:
        """Tells whether each image is done, `(n_images,)` bool."""
        done = np.zeros(self.n_images, dtype=bool)
        for first, end in self._spans():
            done[first:end] = True
        return done

    def __iter__(self) -> Iterator[Entry]:
        """Yields all entries in the order of the images; tensors are read when they are used."""
        behind = 0
        for first, end in self._spans():
            for entry in torch.load(self.folder / f"{first}-{end}.pt", mmap=True, weights_only=True):
                if entry["first"] >= behind:  # else a process that was still ending has computed it as well
                    behind = entry["end"]
                    yield entry

    def skipped(self) -> dict[int, str]:
        """Returns number `->` reason, of the images that could not be read."""
        return {number: reason for entry in self for number, reason in entry["skipped"].items()}

    def remove(self) -> None:
        """Deletes all files and the folder."""
        for first, end in self._spans():
            (self.folder / f"{first}-{end}.pt").unlink()
        self.folder.rmdir()

    def _spans(self) -> list[tuple[int, int]]:
        """Returns the number of the first image of each file, and the number after its last, ascending."""
        spans = [path.stem.split("-") for path in self.folder.glob("[0-9]*.pt")]
        return sorted((int(first), int(end)) for first, end in spans)
