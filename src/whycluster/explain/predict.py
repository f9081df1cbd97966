"""Explanations of a whole collection, batch by batch: the LightningModule that explain.py runs."""

from collections.abc import Sequence

from whycluster.data import Batch, PreparedImages, Shards
from whycluster.data.image_pass import ImagePass, computed_at_once
from whycluster.explain.explainer import Explainer, Explanation, joined
from whycluster.explain.targets import Target


class ExplanationModule(ImagePass):
    """Explains images: of each batch an explanation for each target; none where no image can be read.

    Args:
        explainer: its model is moved to the trainer's device.
        targets: what to explain of each image.
        images: the images; this and what follows as in `ImagePass`.
    """

    def __init__(
        self,
        explainer: Explainer,
        targets: Sequence[Target],
        images: PreparedImages,
        shards: Shards,
        batch_size: int,
        num_workers: int | None,
    ) -> None:
        super().__init__(images, shards, batch_size, num_workers)
        self.model = explainer.model
        self.explainer = explainer
        self.targets = targets

    def predict_step(self, batch: Batch) -> list[Explanation]:
        if not len(batch):
            return []
        parts = [self.explainer.explain_targets(part, self.targets) for part in computed_at_once(batch.images)]
        first, *others = zip(*parts, strict=True)
        # All targets have the same features: they are kept once.
        slim = ([part._replace(features=part.features[:, :0]) for part in target] for target in others)
        return [joined(first), *map(joined, slim)]
