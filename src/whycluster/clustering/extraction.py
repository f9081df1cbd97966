"""Images `->` features: a LightningModule that computes them, and a callback that stores them by number."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import Tensor, nn
from torch.utils.data import DataLoader

from whycluster.clustering.features import FeatureStore
from whycluster.data import Batch, PreparedImages, image_loader


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
    """

    def __init__(self, backbone: nn.Module, images: PreparedImages, batch_size: int, num_workers: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.images = images
        self.batch_size, self.num_workers = batch_size, num_workers

    def predict_dataloader(self) -> DataLoader[Any]:
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        return image_loader(self.images, self.batch_size, self.num_workers, rank, world_size)

    def predict_step(self, batch: Batch) -> Extracted:
        features = self.backbone(batch.images) if len(batch) else torch.empty(0)
        return Extracted(batch.indices, features, batch.skipped)


class FeatureWriter(BasePredictionWriter):
    """Writes features to a file as they come, and remembers which images have none.

    Args:
        path: the `.npy` file; what is there is overwritten.
        n_rows: how many images there are.
        n_features: `D`.

    Attributes:
        skipped: number `->` reason, of this process.
        written: images of this process that have features.
    """

    def __init__(self, path: Path, n_rows: int, n_features: int) -> None:
        super().__init__(write_interval="batch")
        self.path, self.n_rows, self.n_features = path, n_rows, n_features
        self.skipped: dict[int, str] = {}
        self.written = 0

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            FeatureStore.create(self.path, self.n_rows, self.n_features)
        trainer.strategy.barrier("features")
        self._features = FeatureStore(self.path).open(writable=True)

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
        if len(prediction.indices):
            self._features[prediction.indices.numpy()] = prediction.features.float().cpu().numpy()
        self.written += len(prediction.indices)
        self.skipped |= prediction.skipped
