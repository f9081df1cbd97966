"""Several processes of one run."""

import os
import threading
import time
from typing import TypeVar

import pytorch_lightning as pl
import torch.distributed
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.utilities import rank_zero_only

T = TypeVar("T")
WATCHER, WATCHED_EVERY = "end-with-parent", 0.5  # seconds


def is_first() -> bool:
    """Whether this process is the first of several, or the only one; known before there is a trainer."""
    return not getattr(rank_zero_only, "rank", 0)


def started_together() -> bool:
    """Whether several processes were started at once, by torchrun or srun, and not by the first of them."""
    launchers = (TorchElasticEnvironment, SLURMEnvironment)
    return any(launcher.detect() and launcher().world_size() > 1 for launcher in launchers)


def end_with_parent() -> None:
    """Lets this process end soon after the one that started it, however that ended.

    Otherwise it would go on with its share of a run that is over, and into the files of the run that follows.
    """
    if any(thread.name == WATCHER for thread in threading.enumerate()):
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCHED_EVERY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name=WATCHER).start()


def gathered(trainer: pl.Trainer, value: T) -> list[T]:
    """The values of all processes of a trainer, in order of rank, in each of them."""
    if trainer.world_size == 1:
        return [value]
    values: list[T | None] = [None] * trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return [value for value in values if value is not None]
