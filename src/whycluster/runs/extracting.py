"""The first part of a train run: images `->` features on disk, going on behind those that are done."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from whycluster.backbones import Backbone
from whycluster.clustering.extraction import FeatureExtractor, FeatureWriter, features_in
from whycluster.clustering.feature_steps import FeatureSettings, FeatureSteps
from whycluster.clustering.features import FeatureStore, batch_rows, blocks
from whycluster.data import Collection, PreparedImages, Shards
from whycluster.files import write_tensors
from whycluster.runs.folders import Run
from whycluster.runs.ranks import by_first
from whycluster.runs.trainers import run_pass

FEATURES, STEPS = "features.npy", "steps.pt"


class Extraction(NamedTuple):
    """What is clustered: the features of a collection.

    Attributes:
        features: of the images that can be read, in order, after the steps.
        steps: what they have passed.
        rows: numbers of these images, `(N,)`, ascending.
        skipped: path `->` reason, of all that cannot be used.
        figures: for `metrics.json`: how long it took, and how fast it went.
    """

    features: FeatureStore
    steps: FeatureSteps
    rows: np.ndarray
    skipped: dict[str, str]
    figures: dict[str, float]


def extract(
    data: Collection,
    backbone: Backbone,
    settings: FeatureSettings,
    trainer: Callable[..., pl.Trainer],
    run: Run,
    batch_size: int,
    num_workers: int | None,
) -> Extraction:
    """Extracts the features of all images that are not done, fits the steps to those of all, and takes them.

    Args:
        data: the images.
        backbone: images to features.
        settings: which steps features take.
        trainer: makes a Lightning trainer from `logger` and `callbacks`.
        run: keeps what is done.
        batch_size: images loaded at once.
        num_workers: processes that decode; `None`: as many as fit.

    Raises:
        UserError: if no image can be read, the trainer stops early, or the steps cannot be fitted.
    """
    images, file = PreparedImages(data, backbone.preprocessing), run.state / FEATURES
    shards = Shards(run.state / "features", len(images))

    def write(rows: np.ndarray) -> None:
        if not (file.exists() and file.with_name(STEPS).exists()):  # a run that ends moves the features
            _take_steps(shards, len(rows), settings, backbone, file)

    rows, unread, figures = compute_features(backbone, images, shards, trainer, batch_size, num_workers, write)
    steps = FeatureSteps(**torch.load(file.with_name(STEPS), weights_only=True))
    skipped = data.skipped | {data.paths[number]: reason for number, reason in unread.items()}
    return Extraction(FeatureStore(file), steps, rows, skipped, figures)


def compute_features(
    embed: nn.Module,
    images: PreparedImages,
    shards: Shards,
    trainer: Callable[..., pl.Trainer],
    batch_size: int,
    num_workers: int | None,
    write: Callable[[np.ndarray], None],
) -> tuple[np.ndarray, dict[int, str], dict[str, float]]:
    """Computes the features of all images that are not done, by all processes, and lets the first one write the rest.

    Args:
        embed: images to features.
        images: all of them.
        shards: where features go.
        trainer: makes a Lightning trainer; this and what follows as in `extract`.
        batch_size: images loaded at once.
        num_workers: processes that decode.
        write: makes files of the shards, given the numbers of the images that can be read, `(N,)`, ascending.

    Returns:
        These numbers; number `->` reason, of the images that cannot be read; and figures of the pass.

    Raises:
        UserError: as `run_pass` and `write` do, in all processes.
    """
    extractor = FeatureExtractor(embed, images, shards, batch_size, num_workers)
    figures = run_pass(trainer(logger=False, callbacks=[FeatureWriter(shards)]), extractor)
    unread = shards.skipped()
    rows = np.setdiff1d(np.arange(len(images)), list(unread))
    by_first(lambda: write(rows))
    return rows, unread, figures


def _take_steps(shards: Shards, n_rows: int, settings: FeatureSettings, backbone: Backbone, file: Path) -> None:
    """Fits the steps to the features in shards, and writes them and what they make of the features."""

    def parts() -> Iterator[Tensor]:
        """Reads the features in blocks whose size does not depend on that of the shards."""
        return blocks(features_in(shards), batch_rows(backbone.n_features))

    steps = settings.fit(parts(), backbone.widths, backbone.network.channels)
    write_tensors(file.with_name(STEPS), steps.content())
    FeatureStore.write(file, map(steps, parts()), n_rows, steps.n_features)
