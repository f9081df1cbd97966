"""Batches of prepared images with their numbers, and the reasons why others cannot be read."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from whycluster.data.collections import Collection
from whycluster.data.decoding import UnreadableImageError

Prepare = Callable[[Image.Image], Tensor]
Item = tuple[int, Tensor | str]
T = TypeVar("T")

MOST_WORKERS = 8  # more are rarely needed to decode as fast as the devices of one machine compute


@dataclass
class Batch:
    """Prepared images, and the reasons why others could not be read.

    Attributes:
        indices: numbers of the images in their collection, `(N,)`.
        images: `(N, 3, H, W)` uint8; `(0,)` where no image of the batch could be read.
        skipped: number `->` reason.
    """

    indices: Tensor
    images: Tensor
    skipped: dict[int, str]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def rows(self) -> list[int]:
        """Numbers of all images of the batch, read or not, ascending."""
        return sorted([*self.indices.tolist(), *self.skipped])

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """Moves the images to a device (Lightning calls this)."""
        return Batch(self.indices, self.images.to(device, non_blocking=non_blocking), self.skipped)


class PreparedImages(Dataset[Item]):
    """The images of a collection, prepared for a network.

    Args:
        collection: the images.
        prepare: RGB image `->` `(3, H, W)` uint8.
        rows: the numbers of the images to use, in order; `None`: all.
    """

    def __init__(self, collection: Collection, prepare: Prepare, rows: Sequence[int] | None = None) -> None:
        self.collection = collection
        self.prepare = prepare
        self.rows = range(len(collection.paths)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Item:
        index = self.rows[place]
        try:
            return index, self.prepare(self.collection.load(index))
        except UnreadableImageError as error:
            return index, str(error)


def collate(items: list[Item]) -> Batch:
    """Joins items to a batch."""
    images = [(index, image) for index, image in items if isinstance(image, Tensor)]
    return Batch(
        indices=torch.tensor([index for index, _ in images], dtype=torch.long),
        images=torch.stack([image for _, image in images]) if images else torch.empty(0, dtype=torch.uint8),
        skipped={index: reason for index, reason in items if isinstance(reason, str)},
    )


def image_loader(
    images: PreparedImages,
    batch_size: int,
    num_workers: int | None,
    rank: int = 0,
    world_size: int = 1,
    done: np.ndarray | None = None,
) -> DataLoader[Batch]:
    """Builds a loader of batches in order, decoded by several processes.

    The composition of batches, on which the last digit of results may depend, is the same for any number of ranks, and
    whatever is done already.

    Args:
        images: the images.
        batch_size: how many at once.
        num_workers: processes that decode; `None`: one for every second core, and none for a batch or two.
        rank: of this process.
        world_size: the number of processes that divide the batches.
        done: whether images are done already, `(N,)`; a batch is left out if all of it is.
    """
    batches = [images.rows[start : start + batch_size] for start in range(0, len(images.rows), batch_size)]
    if done is not None:
        batches = [batch for batch in batches if not all(done[row] for row in batch)]
    # A rank without images gets one empty batch: it still has to take part in what all ranks do together.
    share = share_of_rank(batches, rank, world_size) or [images.rows[:0]]
    if num_workers is None:
        num_workers = 0 if len(share) <= 2 else min(MOST_WORKERS, n_cores() // 2)
    return DataLoader(_Batches(images, share), batch_size=None, num_workers=num_workers)


def n_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Batches(Dataset[Batch]):
    """A data set of batches: the images of some rows, one batch per item."""

    def __init__(self, images: PreparedImages, batches: Sequence[Sequence[int]]) -> None:
        self.images, self.batches = images, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, item: int) -> Batch:
        part = PreparedImages(self.images.collection, self.images.prepare, self.batches[item])
        return collate([part[place] for place in range(len(part))])


def share_of_rank(rows: Sequence[T], rank: int, world_size: int) -> Sequence[T]:
    """Returns the rows, or batches, of one process of several; together they have each once, and nothing is padded.

    Example:
        >>> [list(share_of_rank(range(5), rank, 2)) for rank in range(2)]
        [[0, 1], [2, 3, 4]]
    """
    return rows[len(rows) * rank // world_size : len(rows) * (rank + 1) // world_size]
