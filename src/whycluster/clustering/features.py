"""Features on disk: a NumPy file of float32, written by row and read by slices, whatever the size of the collection."""

import errno
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from whycluster.data import share_of_rank
from whycluster.files import written_whole

# Held at once: enough for the matrix products, and little enough that memory is reused; larger blocks would come fresh
# from the system each time, page by page.
BATCH_BYTES = 16 * 2**20
MAPPED_ROWS = 256  # scattered rows that are read through one map


class FeatureStore:
    """Features `(N, D)` in a `.npy` file that is mapped into memory, never read whole.

    Args:
        path: an existing file; see `create`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_rows: int
        self.n_features: int
        self.n_rows, self.n_features = self.open().shape

    @classmethod
    def create(cls, path: Path, n_rows: int, n_features: int) -> "FeatureStore":
        """Makes a file of zeros that has all its room on the disk.

        Raises:
            OSError: if there is not enough; otherwise writing into the map would end the process without a word.
        """
        with written_whole(path) as beside:
            np.lib.format.open_memmap(beside, "w+", np.float32, (n_rows, n_features))
            with open(beside, "r+b") as file:
                _reserve(file.fileno(), os.fstat(file.fileno()).st_size)
        return cls(path)

    def __len__(self) -> int:
        return self.n_rows

    def open(self, writable: bool = False) -> np.ndarray:
        """The file as an array `(N, D)`."""
        array: np.ndarray = np.load(self.path, mmap_mode="r+" if writable else "r", allow_pickle=False)
        return array

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Some rows, in memory, `(len(indices), D)`."""
        rows = np.empty((len(indices), self.n_features), np.float32)
        for start in range(0, len(indices), MAPPED_ROWS):  # what lies around a row is mapped with it
            rows[start : start + MAPPED_ROWS] = self.open()[indices[start : start + MAPPED_ROWS]]
        return rows

    def write(self, rows: np.ndarray | slice, values: np.ndarray) -> None:
        """Overwrites some rows; the map is closed again, as its pages would count as memory of the process."""
        self.open(writable=True)[rows] = values

    def keep(self, rows: np.ndarray, path: Path) -> "FeatureStore":
        """Turns this store into one of these rows only, in this order, under another name."""
        if len(rows) < self.n_rows:
            with written_whole(path) as beside:
                target = FeatureStore.create(beside, len(rows), self.n_features)
                step = self.batch_rows()
                for start in range(0, len(rows), step):
                    target.write(slice(start, start + step), self.rows(rows[start : start + step]))
            self.path.unlink()
        else:
            os.replace(self.path, path)
        return FeatureStore(path)

    def batch_rows(self, width: int = 1) -> int:
        """How many rows are read at once, where `width` numbers are computed from each."""
        return max(1, BATCH_BYTES // (4 * max(self.n_features, width)))

    def batches(self, width: int = 1) -> Iterator[Tensor]:
        """All rows in order, batch by batch, in memory; `width` as in `batch_rows`."""
        step = self.batch_rows(width)
        for start in range(0, self.n_rows, step):
            yield torch.from_numpy(np.array(self.open()[start : start + step]))

    def mean(self) -> Tensor:
        """The mean row, `(D,)` float64."""
        total = torch.zeros(self.n_features, dtype=torch.float64)
        for batch in self.batches():
            total += batch.sum(0, dtype=torch.float64)
        return total / max(1, self.n_rows)

    def variance(self, mean: Tensor) -> float:
        """The variance of the features, averaged over them."""
        squares = sum(float((batch.double() - mean).square().sum()) for batch in self.batches())
        return squares / max(1, self.n_rows * self.n_features)

    def loader(self, width: int = 1, rank: int = 0, world_size: int = 1) -> DataLoader[tuple[Tensor, Tensor]]:
        """Batches `(row numbers, rows)` of the share of one process; all processes get equally many batches."""
        longest = math.ceil(self.n_rows / world_size)
        parts = math.ceil(longest / self.batch_rows(width))
        share = share_of_rank(range(self.n_rows), rank, world_size)
        return DataLoader(_Slices(self, [share_of_rank(share, part, parts) for part in range(parts)]), batch_size=None)


def _reserve(descriptor: int, size: int) -> None:
    """Room on the disk for a file of this many bytes.

    Raises:
        OSError: if there is not enough.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # file systems that know no reservation
            raise


class _Slices(Dataset[tuple[Tensor, Tensor]]):
    """Consecutive rows of a store, a batch an item."""

    def __init__(self, store: FeatureStore, slices: list[Sequence[int]]) -> None:
        self.store, self.slices = store, slices

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        length = len(self.slices[item])
        first = self.slices[item][0] if length else 0
        features = np.array(self.store.open()[first : first + length])
        return torch.arange(first, first + length), torch.from_numpy(features)
