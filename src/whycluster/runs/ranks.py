"""Several processes of one run."""

from typing import TypeVar

import pytorch_lightning as pl
import torch.distributed
from pytorch_lightning.utilities import rank_zero_only

T = TypeVar("T")


def is_first() -> bool:
    """Whether this process is the first of several, or the only one; known before there is a trainer."""
    return not getattr(rank_zero_only, "rank", 0)


def gathered(trainer: pl.Trainer, value: T) -> list[T]:
    """The values of all processes of a trainer, in order of rank, in each of them."""
    if trainer.world_size == 1:
        return [value]
    values: list[T | None] = [None] * trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return [value for value in values if value is not None]
