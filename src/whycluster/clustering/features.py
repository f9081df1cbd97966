"""Features on disk: a float32 memory map, written by row and read by slices, whatever the size of the collection."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from whycluster.data import share_of_rank

BATCH_BYTES = 32 * 2**20  # of features read at once: enough for the matrix products, little enough for any machine


class FeatureStore:
    """Features `(N, D)` in a file of raw float32.

    Args:
        path: the file.
        n_rows: `N`.
        n_features: `D`.
    """

    def __init__(self, path: Path, n_rows: int, n_features: int) -> None:
        self.path, self.n_rows, self.n_features = path, n_rows, n_features

    def __len__(self) -> int:
        return self.n_rows

    def create(self) -> None:
        """Makes the file, filled with zeros."""
        with open(self.path, "wb") as file:
            file.truncate(self.n_rows * self.n_features * 4)

    def open(self, mode: str = "r") -> np.memmap:
        """The file as an array, to read or (`r+`) to write."""
        return np.memmap(self.path, np.float32, mode, shape=(self.n_rows, self.n_features))

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Some rows, in memory, `(len(indices), D)`."""
        return np.asarray(self.open()[indices])

    def keep(self, rows: np.ndarray) -> "FeatureStore":
        """Moves the rows of these (ascending) numbers together and gives back the rest of the space."""
        if len(rows) < self.n_rows:
            features = self.open("r+")
            step = self.batch_rows
            for start in range(0, len(rows), step):
                chosen = rows[start : start + step]
                features[start : start + len(chosen)] = features[chosen]  # never overtakes what is still to be read
            features.flush()
            with open(self.path, "r+b") as file:
                file.truncate(len(rows) * self.n_features * 4)
        return FeatureStore(self.path, len(rows), self.n_features)

    @property
    def batch_rows(self) -> int:
        """How many rows are read at once."""
        return max(1, BATCH_BYTES // (4 * self.n_features))

    def batches(self) -> Iterator[Tensor]:
        """All rows in order, batch by batch, in memory."""
        for start in range(0, self.n_rows, self.batch_rows):
            yield torch.from_numpy(np.array(self.open()[start : start + self.batch_rows]))

    def mean(self) -> Tensor:
        """The mean row, `(D,)` float64."""
        total = sum((batch.sum(0, dtype=torch.float64) for batch in self.batches()), torch.zeros(self.n_features).double())
        return total / max(1, self.n_rows)

    def variance(self, mean: Tensor) -> float:
        """The variance of the features, averaged over them."""
        squares = sum(float((batch.double() - mean).square().sum()) for batch in self.batches())
        return squares / max(1, self.n_rows * self.n_features)

    def loader(self, rank: int = 0, world_size: int = 1) -> DataLoader[tuple[Tensor, Tensor]]:
        """Batches `(row numbers, rows)` of the share of one process; all processes get equally many batches."""
        longest = math.ceil(self.n_rows / world_size)
        parts = math.ceil(longest / self.batch_rows)
        share = share_of_rank(range(self.n_rows), rank, world_size)
        return DataLoader(_Slices(self, [share_of_rank(share, part, parts) for part in range(parts)]), batch_size=None)


class _Slices(Dataset[tuple[Tensor, Tensor]]):
    """Consecutive rows of a store, a batch an item."""

    def __init__(self, store: FeatureStore, slices: list[range]) -> None:  # type: ignore[type-arg]
        self.store, self.slices = store, slices

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        rows = self.slices[item]
        features = np.array(self.store.open()[rows.start : rows.stop])
        return torch.arange(rows.start, rows.stop), torch.from_numpy(features)
