"""Images `->` features: a LightningModule that computes them, and a callback that stores them by number."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from whycluster.clustering.features import FeatureStore
from whycluster.data import Batch, PreparedImages, Progress
from whycluster.data.prediction import ImagePass, PassWriter
from whycluster.errors import UserError
from whycluster.files import to_disk


class Extracted(NamedTuple):
    """Features `(n, D)` of the images of these numbers, and why others have none."""

    indices: Tensor
    features: Tensor
    skipped: dict[int, str]


class FeatureExtractor(ImagePass):
    """Features of images.

    Args:
        backbone: images `(n, 3, H, W)` uint8 `->` features `(n, D)`.
        images: the images; this and what follows as in `ImagePass`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        images: PreparedImages,
        batch_size: int,
        num_workers: int,
        done: np.ndarray | None = None,
    ) -> None:
        super().__init__(images, batch_size, num_workers, done)
        self.backbone = backbone

    def predict_step(self, batch: Batch) -> Extracted:
        features = self.backbone(batch.images) if len(batch) else torch.empty(0)
        return Extracted(batch.indices, features, batch.skipped)


class FeatureWriter(PassWriter):
    """Writes features to a file as they come, and takes note of it.

    Args:
        path: the `.npy` file; made if it is not there.
        n_features: `D`.
        progress: what is done.
    """

    def __init__(self, path: Path, n_features: int, progress: Progress) -> None:
        super().__init__(progress)
        self.path, self.n_features = path, n_features
        self._store: FeatureStore | None = None

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.path.exists() and self.progress.done.any():
            raise UserError(
                f"the features of images that are done, {str(self.path)!r}, are gone; begin anew with overwrite=true."
            )
        if trainer.is_global_zero and not self.path.exists():
            FeatureStore.create(self.path, len(self.progress.done), self.n_features)
        super().on_predict_start(trainer, pl_module)  # where the others wait for the file
        self._store = FeatureStore(self.path)

    def write(self, prediction: Extracted, batch: Batch) -> None:
        assert self._store is not None  # for the type checker: prediction has started
        features = prediction.features.float().cpu().numpy()
        self.watch.lap("network")
        if len(prediction.indices):
            self._store.write(prediction.indices.numpy(), features)
        self.watch.lap("writing")
        rows = batch.rows
        if rows and self.progress.add(rows[0], len(rows), self.watch.taken(), skipped=prediction.skipped):
            self._note()
            self.watch.lap("writing")

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._note()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if self._store is not None:
            self._note()

    def _note(self) -> None:
        to_disk(self.path)  # before the note of it
        self.progress.note()
