"""The first part of a train run: images `->` features on disk, going on behind those that are done."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl

from whycluster.backbones import Backbone
from whycluster.clustering.extraction import FeatureExtractor, FeatureWriter
from whycluster.clustering.features import FeatureStore
from whycluster.data import Collection, PreparedImages, Progress
from whycluster.errors import UserError
from whycluster.output.console import say
from whycluster.runs.folders import Run
from whycluster.runs.ranks import gathered, is_first
from whycluster.runs.settings import decoding_workers

FEATURES = "features.npy"


class Extraction(NamedTuple):
    """What the backbone said of a collection.

    Attributes:
        features: of the images that can be read, in order.
        rows: numbers of these images, `(N,)`, ascending.
        skipped: path `->` reason, of all that cannot be used.
        seconds: that parts of the work took.
    """

    features: FeatureStore
    rows: np.ndarray
    skipped: dict[str, str]
    seconds: dict[str, float]


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
        batch_size: images at once.
        num_workers: processes that decode; `None`: as many as fit.

    Raises:
        UserError: if no image can be read, or the trainer stops early.
    """
    images, kept = PreparedImages(data, backbone.preprocessing), run.state / FEATURES
    progress = Progress(run.state, "extracted", len(images))
    going = not kept.exists()
    if going:
        if progress.done.any() and is_first():
            say(f"going on: {np.count_nonzero(progress.done)} of {len(images)} images were done")
        left = len(images) - int(np.count_nonzero(progress.done))
        workers = decoding_workers(num_workers, left, batch_size)
        writer = FeatureWriter(run.state / f"all_{FEATURES}", backbone.n_features, progress)
        extraction = trainer(logger=False, callbacks=[writer])
        extractor = FeatureExtractor(backbone, images, batch_size, workers, progress.done)
        extraction.predict(extractor, return_predictions=False)
        if sum(gathered(extraction, progress.written)) < left:
            raise UserError("the trainer stopped before all images were read; leave out what limits its batches.")
    unread = progress.skipped()
    if len(unread) == len(images):
        progress.forget()
        writer.path.unlink(missing_ok=True)
        index, reason = next(iter(unread.items()))
        raise UserError(f"none of the {len(images)} files can be read as an image; {data.paths[index]!r}: {reason}.")
    rows = np.setdiff1d(np.arange(len(images)), list(unread))
    if going:
        if extraction.is_global_zero:
            FeatureStore(writer.path).keep(rows, kept)
        extraction.strategy.barrier("kept")
    skipped = data.skipped | {data.paths[index]: reason for index, reason in unread.items()}
    return Extraction(FeatureStore(kept), rows, skipped, progress.times())
