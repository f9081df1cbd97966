"""Images `->` features: a LightningModule that computes them, and a callback that writes them to shards."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from whycluster.data import Batch, PreparedImages, Shards
from whycluster.data.image_pass import CPU_BATCH, ImagePass, ShardWriter, computed_at_once
from whycluster.data.shards import Shard


class FeatureExtractor(ImagePass):
    """Computes features of images.

    Args:
        backbone: images `(n, 3, H, W)` uint8 `->` features `(n, D)`.
        images: the images; this and what follows as in `ImagePass`.
    """

    def __init__(
        self, backbone: nn.Module, images: PreparedImages, shards: Shards, batch_size: int, num_workers: int | None
    ) -> None:
        super().__init__(images, shards, batch_size, num_workers)
        self.backbone = backbone

    def predict_step(self, batch: Batch) -> Tensor:
        if not len(batch):
            return torch.empty(0)
        images, size = batch.images, CPU_BATCH
        if images.device.type == "cpu":  # filled up, so that equal images have equal features, whatever comes with them
            images = images[torch.arange(math.ceil(len(batch) / size) * size).clamp(max=len(batch) - 1)]
        return torch.cat([self.backbone(part) for part in computed_at_once(images)])[: len(batch)]


class FeatureWriter(ShardWriter):
    """Writes `features` of each batch to shards, `(n, D)` float32 of the images that could be read."""

    def results(self, prediction: Tensor, batch: Batch) -> Shard:
        return {"features": prediction.float().cpu()}


def features_in(shards: Shards) -> Iterator[Tensor]:
    """Returns the features in shards in the order of the images, `(n, D)` of those of a shard that could be read."""
    return (shard["features"] for shard in shards if len(shard["features"]))
