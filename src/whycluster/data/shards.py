"""What a pass over images has done, in files that are written whole: what exists is done."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whycluster.files import write_tensors

Shard = dict[str, Any]


class Shards:
    """Results of batches of images, each in a file that is never changed.

    A shard holds `first` and `end`, the numbers of its images; `skipped`, number `->` reason of those that could not be
    read; and tensors or plain values.

    Args:
        folder: of the files; made when the first one is written.
        n_images: how many images there are.

    Example:
        >>> shards = Shards(Path(getfixture("tmp_path")), n_images=5)
        >>> shards.write({"first": 2, "end": 4, "skipped": {3: "empty"}})
        >>> shards.done().tolist(), shards.skipped()
        ([False, False, True, True, False], {3: 'empty'})
    """

    def __init__(self, folder: Path, n_images: int) -> None:
        self.folder, self.n_images = folder, n_images

    def write(self, shard: Shard) -> None:
        """Writes the results of a batch."""
        write_tensors(self._file(shard["first"], shard["end"]), shard)

    def done(self) -> np.ndarray:
        """Whether each image is done, `(n_images,)` bool."""
        done = np.zeros(self.n_images, dtype=bool)
        for first, end in self._spans():
            done[first:end] = True
        return done

    def __iter__(self) -> Iterator[Shard]:
        """All shards in the order of the images; tensors are read when they are used."""
        for first, end in self._spans():
            yield torch.load(self._file(first, end), mmap=True, weights_only=True)

    def skipped(self) -> dict[int, str]:
        """Number `->` reason, of the images that could not be read."""
        return {number: reason for shard in self for number, reason in shard["skipped"].items()}

    def _file(self, first: int, end: int) -> Path:
        return self.folder / f"{first}-{end}.pt"

    def _spans(self) -> list[tuple[int, int]]:
        """Numbers of the first image of each file and of the one behind its last, ascending."""
        spans = [path.stem.split("-") for path in self.folder.glob("[0-9]*.pt")]
        return sorted((int(first), int(end)) for first, end in spans)
