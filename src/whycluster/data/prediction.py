"""What the passes over a collection have in common: images shared among processes, and notes of what is done."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import BasePredictionWriter
from torch.utils.data import DataLoader

from whycluster.data.images import Batch, PreparedImages, image_loader
from whycluster.data.progress import Progress, Stopwatch


class ImagePass(pl.LightningModule):
    """Predicts something of images; several processes share them, each taken once.

    Args:
        images: the images.
        batch_size: how many at once.
        num_workers: processes that decode.
        done: images that are not wanted again, `(N,)` bool.
    """

    def __init__(
        self, images: PreparedImages, batch_size: int, num_workers: int, done: np.ndarray | None = None
    ) -> None:
        super().__init__()
        self.images = images
        self.batch_size, self.num_workers, self.done = batch_size, num_workers, done

    def predict_dataloader(self) -> DataLoader[Any]:
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        return image_loader(self.images, self.batch_size, self.num_workers, rank, world_size, self.done)


class PassWriter(BasePredictionWriter):
    """Keeps what is predicted, batch by batch, and takes note of it.

    Args:
        progress: what is done.

    Attributes:
        watch: which part of the work takes how long, from the start of it.
    """

    def __init__(self, progress: Progress) -> None:
        super().__init__(write_interval="batch")
        self.progress = progress

    @abstractmethod
    def write(self, prediction: Any, batch: Batch) -> None:
        """Keeps what was predicted of a batch."""

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.strategy.barrier("progress")  # what was done is known to all before anybody adds to it
        self.progress.begin(trainer.global_rank)
        self.watch = Stopwatch()

    def on_predict_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.watch.lap("waiting for images")

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
        self.write(prediction, batch)
