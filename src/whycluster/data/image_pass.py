"""A pass over images: batches divided among processes, computed, and written to shards."""

import time
import timeit
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import Tensor
from torch.utils.data import DataLoader

from whycluster.data.images import Batch, PreparedImages, image_loader
from whycluster.data.shards import Entry, Shards

SECONDS = 1.0  # of work in a shard, about; a process that is killed loses this much
THREADS = 2  # that write: they wait for the disk most of the time
UNDER_WAY = 3  # most batches that are still being written while the next one is computed
CPU_BATCH = 4  # images computed at once on a CPU, where networks are fastest if the allocator reuses their memory
# Seconds to load an image. Below, processes that decode slow down a network on the CPU by more than they save.
QUICK = 0.005


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

    def predict_dataloader(self) -> DataLoader[Batch]:
        rank, world_size, done = self.trainer.global_rank, self.trainer.world_size, self.shards.done()
        workers = self.num_workers
        if workers is None and self.trainer.strategy.root_device.type == "cpu":
            workers = 0 if min(timeit.repeat(lambda: self.images[0], number=1, repeat=3)) < QUICK else None
        return image_loader(self.images, self.batch_size, workers, rank, world_size, done)

    def parts(self, images: Tensor) -> tuple[Tensor, ...]:
        """Splits a batch `(N, …)` into the parts that are computed at once."""
        return torch.split(images, CPU_BATCH if images.device.type == "cpu" else max(1, len(images)))


class ShardWriter(BasePredictionWriter):
    """A callback that writes predictions to shards in its own threads while the next batches are computed.

    Args:
        shards: to write to.
    """

    def __init__(self, shards: Shards) -> None:
        super().__init__(write_interval="batch")
        self.shards = shards
        self._threads = ThreadPoolExecutor(THREADS)
        self._under_way: deque[Future[Entry]] = deque()
        self._ready: list[Entry] = []
        self._written = time.monotonic()

    @abstractmethod
    def entry(self, prediction: Any, batch: Batch) -> Entry:
        """Returns what to write of a batch to a shard, after writing its other files; called in a thread."""

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.strategy.barrier()  # no process adds shards before all have read which exist

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        if not batch.rows:  # of a process that got no images
            return
        self._under_way.append(self._threads.submit(self._written_entry, prediction, batch))
        while len(self._under_way) > UNDER_WAY or (self._under_way and self._under_way[0].done()):
            self._finish_oldest()
        if time.monotonic() - self._written > SECONDS:
            self._flush()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        while self._under_way:
            self._finish_oldest()
        self._flush()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        with suppress(OSError):  # if files cannot be written, the exception says so already
            self.on_predict_end(trainer, pl_module)

    def _written_entry(self, prediction: Any, batch: Batch) -> Entry:
        rows = batch.rows
        return {"first": rows[0], "end": rows[-1] + 1, "skipped": batch.skipped, **self.entry(prediction, batch)}

    def _finish_oldest(self) -> None:
        """Waits for the oldest batch; if an interrupt loses it, it is computed again on resuming."""
        self._ready.append(self._under_way.popleft().result())

    def _flush(self) -> None:
        """Writes the finished batches as one shard, or as several where batches between them were done before."""
        ready, self._ready = self._ready, []
        while ready:
            n = 1
            while n < len(ready) and ready[n]["first"] == ready[n - 1]["end"]:
                n += 1
            self.shards.write(ready[:n])
            del ready[:n]
        self._written = time.monotonic()
