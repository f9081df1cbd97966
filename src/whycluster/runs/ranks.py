"""Several processes of one run."""

from typing import TypeVar

import pytorch_lightning as pl
import torch.distributed

T = TypeVar("T")


def gathered(trainer: pl.Trainer, value: T) -> list[T]:
    """The values of all processes of a trainer, in order of rank, in each of them."""
    if trainer.world_size == 1:
        return [value]
    values: list[T | None] = [None] * trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return [value for value in values if value is not None]
