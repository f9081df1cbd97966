"""Augmented images in random batches, reproducible for any number of processes and after a resume."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from whycluster.data.images import PreparedImages, share_of_rank
from whycluster.errors import UserError

Key = tuple[int, np.ndarray, int]  # an epoch, the rows of this process in a batch, and how many all processes have


class RowBatch(NamedTuple):
    """Rows of a collection, and what a network reads of them.

    Attributes:
        rows: their numbers, `(n,)`.
        inputs: images `(n, 3, H, W)` uint8, or features `(n, D)`.
        total: rows of this step in all processes together.
    """

    rows: Tensor
    inputs: Tensor
    total: int


class EpochBatches(Sampler[Key]):
    """Random batches of rows: a new order each epoch, which follows from the seed and the epoch alone.

    A batch is shared out among processes, so all of them make the same number of steps; the shares of a batch together
    are the batch of a single process.

    Args:
        n_rows: `N`.
        batch_size: rows of a step at most, in all processes together.
        seed: of the order.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(self, n_rows: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.n_rows, self.seed, self.rank, self.world_size = n_rows, seed, rank, world_size
        self.n_batches = math.ceil(n_rows / batch_size)
        self.epoch = 0

    def begin(self, epoch: int) -> None:
        """Chooses the order; not named `set_epoch`, which Lightning calls with the epoch before when a fit resumes."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Key]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.n_rows)
        for batch in np.array_split(order, self.n_batches):  # of nearly equal sizes: none is tiny
            share = share_of_rank(range(len(batch)), self.rank, self.world_size)
            yield self.epoch, batch[list(share)], len(batch)


class RowBatches(Dataset[RowBatch]):
    """A data set of batches, by the keys of `EpochBatches`.

    Args:
        inputs: rows and epoch `->` what a network reads of them.
    """

    def __init__(self, inputs: Callable[[np.ndarray, int], Tensor]) -> None:
        self.inputs = inputs

    def __getitem__(self, key: Key) -> RowBatch:
        epoch, rows, total = key
        return RowBatch(torch.from_numpy(rows), self.inputs(rows, epoch), total)


class AugmentedImages:
    """Images that are changed at random: what happens to an image follows from the seed, the epoch and its row.

    Args:
        images: all of which can be read.
        augment: images `(3, H, W)` uint8 `->` the same; it draws from PyTorch's generator, as torchvision's transforms.
        seed: of the changes.
    """

    def __init__(self, images: PreparedImages, augment: Callable[[Tensor], Tensor] | None, seed: int) -> None:
        self.images, self.augment, self.seed = images, augment, seed

    def __call__(self, rows: np.ndarray, epoch: int) -> Tensor:
        """Loads rows, `(n, 3, H, W)` uint8.

        Raises:
            UserError: for an image that cannot be read any more, or a change of its size or type.
        """
        images = [self._augmented(int(row), epoch) for row in rows]
        return torch.stack(images) if images else torch.empty(0, dtype=torch.uint8)

    def _augmented(self, row: int, epoch: int) -> Tensor:
        number, image = self.images[row]
        if isinstance(image, str):
            path = self.images.collection.paths[number]
            raise UserError(f"{path!r} could be read when the run began, and now it cannot: {image}.")
        if self.augment is None:
            return image
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence((self.seed, epoch, row)).generate_state(1)[0]))
            changed = self.augment(image)
        if changed.shape != image.shape or changed.dtype != image.dtype:
            raise UserError(
                f"head.augment makes {tuple(changed.shape)} {changed.dtype} of an image {tuple(image.shape)} "
                f"{image.dtype}, which is what the backbone reads; choose transforms that keep size and type."
            )
        return changed
