"""Images `->` features: a LightningModule that computes them, and a callback that stores them by number."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import Tensor, nn
from torch.utils.data import DataLoader

from whycluster.clustering.features import FeatureStore
from whycluster.data import Batch, PreparedImages, Progress, Stopwatch, image_loader
from whycluster.files import to_disk


class Extracted(NamedTuple):
    """Features `(n, D)` of the images of these numbers, and why others have none."""

    indices: Tensor
    features: Tensor
    skipped: dict[int, str]


class FeatureExtractor(pl.LightningModule):
    """Features of images; several processes share the images, each taken once.

    Args:
        backbone: images `(n, 3, H, W)` uint8 `->` features `(n, D)`.
        images: the images.
        batch_size: how many at once.
        num_workers: processes that decode.
        done: images that are not wanted again, `(N,)` bool.
    """

    def __init__(
        self,
        backbone: nn.Module,
        images: PreparedImages,
        batch_size: int,
        num_workers: int,
        done: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.images = images
        self.batch_size, self.num_workers, self.done = batch_size, num_workers, done

    def predict_dataloader(self) -> DataLoader[Any]:
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        return image_loader(self.images, self.batch_size, self.num_workers, rank, world_size, self.done)

    def predict_step(self, batch: Batch) -> Extracted:
        features = self.backbone(batch.images) if len(batch) else torch.empty(0)
        return Extracted(batch.indices, features, batch.skipped)


class FeatureWriter(BasePredictionWriter):
    """Writes features to a file as they come, and takes note of it.

    Args:
        path: the `.npy` file; made if it is not there.
        n_features: `D`.
        progress: what is done.
    """

    def __init__(self, path: Path, n_features: int, progress: Progress) -> None:
        super().__init__(write_interval="batch")
        self.path, self.n_features, self.progress = path, n_features, progress

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.path.exists() and self.progress.done.any():
            raise ValueError(
                f"the features of images that are done, {str(self.path)!r}, are gone; begin anew with overwrite=true."
            )
        if trainer.is_global_zero and not self.path.exists():
            FeatureStore.create(self.path, len(self.progress.done), self.n_features)
        trainer.strategy.barrier("features")
        self._store = FeatureStore(self.path)
        self.progress.begin(trainer.global_rank)
        self._watch = Stopwatch()

    def on_predict_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._watch.lap("waiting for images")

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Extracted,
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        features = prediction.features.float().cpu().numpy()
        self._watch.lap("network")
        if len(prediction.indices):
            self._store.write(prediction.indices.numpy(), features)
        self._watch.lap("writing")
        rows = batch.rows
        if rows and self.progress.add(rows[0], len(rows), self._watch.taken(), skipped=prediction.skipped):
            self._note()
            self._watch.lap("writing")

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._note()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if hasattr(self, "_store"):
            self._note()

    def _note(self) -> None:
        to_disk(self.path)  # before the note of it
        self.progress.note()
