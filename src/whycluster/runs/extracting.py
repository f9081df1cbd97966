"""The first part of a train run: images `->` features on disk, going on behind those that are done."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl

from whycluster.backbones import Backbone
from whycluster.clustering.extraction import FeatureExtractor, FeatureWriter
from whycluster.clustering.features import FeatureStore
from whycluster.data import Collection, PreparedImages, Shards
from whycluster.runs.folders import Run
from whycluster.runs.ranks import is_first
from whycluster.runs.trainers import run_pass

FEATURES = "features.npy"


class Extraction(NamedTuple):
    """What the backbone said of a collection.

    Attributes:
        features: of the images that can be read, in order.
        rows: numbers of these images, `(N,)`, ascending.
        skipped: path `->` reason, of all that cannot be used.
        figures: for `metrics.json`: how long it took, and how fast it went.
    """

    features: FeatureStore
    rows: np.ndarray
    skipped: dict[str, str]
    figures: dict[str, float]


def extract(
    data: Collection,
    backbone: Backbone,
    trainer: Callable[..., pl.Trainer],
    run: Run,
    batch_size: int,
    num_workers: int | None,
) -> Extraction:
    """Extracts the features of all images that are not done.

    Args:
        data: the images.
        backbone: images to features.
        trainer: makes a Lightning trainer from `logger` and `callbacks`.
        run: keeps what is done.
        batch_size: images loaded at once.
        num_workers: processes that decode; `None`: as many as fit.

    Raises:
        UserError: if no image can be read, or the trainer stops early.
    """
    images = PreparedImages(data, backbone.preprocessing)
    shards = Shards(run.state / "features", len(images))
    extraction = trainer(logger=False, callbacks=[FeatureWriter(shards)])
    figures = run_pass(extraction, FeatureExtractor(backbone, images, shards, batch_size, num_workers))
    unread = shards.skipped()
    rows = np.setdiff1d(np.arange(len(images)), list(unread))
    file = run.state / FEATURES
    if is_first() and not file.exists():
        parts = (shard["features"] for shard in shards if len(shard["features"]))
        FeatureStore.write(file, parts, len(rows), backbone.n_features)
    extraction.strategy.barrier()  # the others wait for the file
    skipped = data.skipped | {data.paths[number]: reason for number, reason in unread.items()}
    return Extraction(FeatureStore(file), rows, skipped, figures)
