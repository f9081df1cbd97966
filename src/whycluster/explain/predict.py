"""Explanations of a whole collection, batch by batch: the LightningModule that explain.py runs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from whycluster.data import Batch, PreparedImages
from whycluster.data.prediction import ImagePass
from whycluster.explain.explainer import Explainer, Explanation
from whycluster.explain.targets import Target


class Explained(NamedTuple):
    """Images `(n, 3, H, W)` uint8 of these numbers, an explanation for each target, and why others have none."""

    indices: Tensor
    images: Tensor
    explanations: list[Explanation]
    skipped: dict[int, str]


class ExplanationModule(ImagePass):
    """Explains images.

    Args:
        explainer: whose model goes to the trainer's device.
        targets: what to explain of each image.
        images: the images; this and what follows as in `ImagePass`.
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
        super().__init__(images, batch_size, num_workers, done)
        self.model = explainer.model
        self.explainer = explainer
        self.targets = targets

    def predict_step(self, batch: Batch) -> Explained:
        explanations = self.explainer.explain_targets(batch.images, self.targets) if len(batch) else []
        return Explained(batch.indices, batch.images, explanations, batch.skipped)
