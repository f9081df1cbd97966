"""Explanations of a whole collection, batch by batch: the LightningModule that explain.py runs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader

from whycluster.data import Batch, PreparedImages, image_loader
from whycluster.explain.explainer import Explainer, Explanation
from whycluster.explain.targets import Target


class Explained(NamedTuple):
    """Images `(n, 3, H, W)` uint8 of these numbers, an explanation for each target, and why others have none."""

    indices: Tensor
    images: Tensor
    explanations: list[Explanation]
    skipped: dict[int, str]


class ExplanationModule(pl.LightningModule):
    """Explains images; several processes share them, each taken once.

    Args:
        explainer: whose model goes to the trainer's device.
        targets: what to explain of each image.
        images: the images.
        batch_size: how many at once.
        num_workers: processes that decode.
        done: images that are not wanted again, `(N,)` bool.
    """

    def __init__(
        self,
        explainer: Explainer,
        targets: Sequence[Target],
        images: PreparedImages,
        batch_size: int,
        num_workers: int,
        done: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.model = explainer.model
        self.explainer = explainer
        self.targets = targets
        self.images = images
        self.batch_size, self.num_workers, self.done = batch_size, num_workers, done

    def predict_dataloader(self) -> DataLoader[Any]:
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        return image_loader(self.images, self.batch_size, self.num_workers, rank, world_size, self.done)

    def predict_step(self, batch: Batch) -> Explained:
        explanations = self.explainer.explain_targets(batch.images, self.targets) if len(batch) else []
        return Explained(batch.indices, batch.images, explanations, batch.skipped)
