"""A pass over images: batches divided among processes, computed, and written to shards."""

import time
import timeit
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from whycluster.data.images import Batch, PreparedImages, image_loader
from whycluster.data.shards import Shard, Shards

THREADS = 2  # that write: they wait for the disk most of the time
UNDER_WAY = 3  # most batches that are still being written while the next one is computed
CPU_BATCH = 4  # images computed at once on a CPU, where networks are fastest if the allocator reuses their memory
# Seconds to load an image. Below, processes that decode slow down a network on the CPU by more than they save.
QUICK = 0.005


def is_quick(load: Callable[[], Any], device: torch.device) -> bool:
    """Tells whether an image loads so fast that processes for it do not pay beside a network on this device."""
    return device.type == "cpu" and min(timeit.repeat(load, number=1, repeat=3)) < QUICK


def computed_at_once(images: Tensor) -> tuple[Tensor, ...]:
    """Splits a batch `(N, …)` into the parts that a network computes at once: few images on a CPU, all elsewhere."""
    return torch.split(images, CPU_BATCH if images.device.type == "cpu" else max(1, len(images)))


class ImagePass(pl.LightningModule):
    """A Lightning module that predicts for images; several processes divide them, and each image is computed once.

    Args:
        images: the images.
        shards: results that exist already; they are not computed again.
        batch_size: how many images are loaded at once.
        num_workers: processes that decode; `None`: as many as fit.
    """

    def __init__(self, images: PreparedImages, shards: Shards, batch_size: int, num_workers: int | None) -> None:
        super().__init__()
        self.images, self.shards = images, shards
        self.batch_size, self.num_workers = batch_size, num_workers
        self.since = 0.0  # when the pass began, after the callbacks were set up

    def setup(self, stage: str) -> None:
        self.since = time.monotonic()

    def predict_dataloader(self) -> DataLoader[Batch]:
        rank, world_size, done = self.trainer.global_rank, self.trainer.world_size, self.shards.done()
        workers = self.num_workers
        if workers is None and is_quick(lambda: self.images[0], self.trainer.strategy.root_device):
            workers = 0
        self.trainer.strategy.barrier()  # all processes have read what is done before one of them adds to it
        return image_loader(self.images, self.batch_size, workers, rank, world_size, done)


class ShardWriter(pl.Callback):
    """Keeps what is predicted of each batch, by threads of its own, while the next batches are computed.

    Args:
        shards: to write to.
    """

    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        self._threads = ThreadPoolExecutor(THREADS)
        self._under_way: deque[Future[None]] = deque()

    @abstractmethod
    def results(self, prediction: Any, batch: Batch) -> Shard:
        """What to keep of a batch, when all its other files are on the disk; called in a thread."""

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, *_: int, **__: int
    ) -> None:
        if batch.rows:  # a process may have got no images
            self._under_way.append(self._threads.submit(self._write, outputs, batch))
        while len(self._under_way) > UNDER_WAY:
            self._under_way.popleft().result()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for writing in self._under_way:
            writing.result()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        wait(self._under_way)  # what has been computed is not lost; if it cannot be written, the exception says so

    def _write(self, prediction: Any, batch: Batch) -> None:
        place = {"first": batch.rows[0], "end": batch.rows[-1] + 1, "skipped": batch.skipped}
        self.shards.write(place | self.results(prediction, batch))
