"""Batches of prepared images, each with its number; what cannot be read travels along with its reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from whycluster.data.collections import Collection
from whycluster.data.decoding import UnreadableImageError

Prepare = Callable[[Image.Image], Tensor]
Item = tuple[int, Tensor | str]


@dataclass
class Batch:
    """Prepared images and what could not be read.

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

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """The batch with its images on a device (Lightning calls this)."""
        return Batch(self.indices, self.images.to(device, non_blocking=non_blocking), self.skipped)


class PreparedImages(Dataset[Item]):
    """The images of a collection as a network wants them.

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
    """Items `->` a batch."""
    images = [(index, image) for index, image in items if isinstance(image, Tensor)]
    return Batch(
        indices=torch.tensor([index for index, _ in images], dtype=torch.long),
        images=torch.stack([image for _, image in images]) if images else torch.empty(0, dtype=torch.uint8),
        skipped={index: reason for index, reason in items if isinstance(reason, str)},
    )


def image_loader(
    images: PreparedImages, batch_size: int, num_workers: int, rank: int = 0, world_size: int = 1
) -> DataLoader[Batch]:
    """Batches in order, decoded by `num_workers` processes; of several ranks, each takes its own share."""
    share = share_of_rank(images.rows, rank, world_size)
    # A rank without images gets one empty batch: it still has to take part in what all ranks do together.
    slices = [share[start : start + batch_size] for start in range(0, len(share), batch_size)] or [share]
    return DataLoader(_Batches(images, slices), batch_size=None, num_workers=num_workers)


class _Batches(Dataset[Batch]):
    """The images of some rows, a batch an item."""

    def __init__(self, images: PreparedImages, slices: list[Sequence[int]]) -> None:
        self.parts = [PreparedImages(images.collection, images.prepare, rows) for rows in slices]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, item: int) -> Batch:
        part = self.parts[item]
        return collate([part[place] for place in range(len(part))])


def share_of_rank(rows: Sequence[int], rank: int, world_size: int) -> Sequence[int]:
    """The rows one process of several takes: together they take each row once, nothing is padded.

    Example:
        >>> [list(share_of_rank(range(5), rank, 2)) for rank in range(2)]
        [[0, 1], [2, 3, 4]]
    """
    return rows[len(rows) * rank // world_size : len(rows) * (rank + 1) // world_size]
