"""Features on disk: a NumPy file of float32 that is read by slices, whatever the size of the collection."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from whycluster.files import written_whole

# Size of a batch: large enough for fast matrix products, and small enough that the allocator reuses its memory; larger
# blocks would be requested from the system each time, page by page.
BATCH_BYTES = 16 * 2**20
MAPPED_ROWS = 256  # scattered rows that are read through one map
# Size of a sample that is clustered in memory, where several copies of it are made.
SAMPLE_ROWS, SAMPLE_BYTES = 10_000, 256 * 2**20
CLUSTER_ROWS = 10  # of each cluster, at least


def batch_rows(n_features: int, width: int = 1) -> int:
    """Returns how many rows of features are read at once, where `width` numbers are computed from each."""
    return max(1, BATCH_BYTES // (4 * max(n_features, width)))


def blocks(parts: Iterable[Tensor], n_rows: int) -> Iterator[Tensor]:
    """Divides rows anew into blocks of `n_rows`, the last one smaller, so that no result depends on the parts.

    Args:
        parts: all rows in order, `(n, D)` each.
        n_rows: of a block.

    Example:
        >>> [len(block) for block in blocks([torch.rand(3, 2), torch.rand(4, 2)], 2)]
        [2, 2, 2, 1]
    """
    waiting: list[Tensor] = []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) >= n_rows:
            *whole, rest = torch.split(torch.cat(waiting), n_rows)
            yield from whole
            waiting = [rest]
    if waiting:
        yield torch.cat(waiting)


def sample_rows(n_rows: int, size: int, seed: int) -> np.ndarray:
    """Draws the numbers of some rows, ascending; all of them, where there are no more than `size`."""
    return np.sort(np.random.RandomState(seed).choice(n_rows, min(n_rows, size), replace=False))


def sample_size(n_features: int, n_clusters: int) -> int:
    """Returns how many rows are drawn where a sample is clustered: 10,000, or as many as 256 MiB hold if that is fewer,
    but at least ten for each cluster.

    Example:
        >>> sample_size(512, 10), sample_size(25_088, 10), sample_size(25_088, 1000)
        (10000, 2674, 10000)
    """
    return max(min(SAMPLE_ROWS, SAMPLE_BYTES // (4 * n_features)), CLUSTER_ROWS * n_clusters)


class FeatureStore:
    """Features `(N, D)` in a `.npy` file that is mapped into memory and read in slices.

    Args:
        path: an existing file; see `write`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_rows: int
        self.n_features: int
        self.n_rows, self.n_features = self.open().shape

    @classmethod
    def write(cls, path: Path, parts: Iterable[Tensor], n_rows: int, n_features: int) -> "FeatureStore":
        """Writes a file, whole or not at all.

        Args:
            path: the file.
            parts: all rows in order, `(n, D)` each; they need not fit into memory together.
            n_rows: `N`.
            n_features: `D`.
        """
        header = {"descr": "<f4", "fortran_order": False, "shape": (n_rows, n_features)}
        with written_whole(path) as beside, open(beside, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for part in parts:
                file.write(part.numpy().astype("<f4", copy=False).tobytes())
        return cls(path)

    def __len__(self) -> int:
        return self.n_rows

    def open(self) -> np.ndarray:
        """Maps the file as an array `(N, D)`."""
        array: np.ndarray = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return array

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Reads some rows into memory, `(len(indices), D)`."""
        rows = np.empty((len(indices), self.n_features), np.float32)
        for start in range(0, len(indices), MAPPED_ROWS):  # whole pages are mapped, and freed with the map
            rows[start : start + MAPPED_ROWS] = self.open()[indices[start : start + MAPPED_ROWS]]
        return rows

    def batch_rows(self, width: int = 1) -> int:
        """Returns how many rows are read at once, where `width` numbers are computed from each."""
        return batch_rows(self.n_features, width)

    def means(self, groups: np.ndarray, n_groups: int) -> Tensor:
        """Computes the mean row of each group.

        Args:
            groups: of each row, `(N,)`, from 0 to `n_groups - 1`.
            n_groups: how many there are.

        Returns:
            `(n_groups, D)` float64; NaN for a group without rows.
        """
        sums = torch.zeros(n_groups, self.n_features, dtype=torch.float64)
        parts = torch.split(torch.from_numpy(groups), self.batch_rows())
        for part, batch in zip(parts, self.batches(), strict=True):
            sums.index_add_(0, part, batch.double())
        return sums / torch.from_numpy(np.bincount(groups, minlength=n_groups))[:, None]

    def batches(self, width: int = 1) -> Iterator[Tensor]:
        """Reads all rows in order, batch by batch, into memory; `width` as in `batch_rows`."""
        step = self.batch_rows(width)
        for start in range(0, self.n_rows, step):
            yield torch.from_numpy(np.array(self.open()[start : start + step]))
