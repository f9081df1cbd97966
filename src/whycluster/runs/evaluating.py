"""The evaluation of an explain run: a sample of its images, the methods side by side, and what is written of it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from torch import Tensor

from whycluster.data import Collection, PreparedImages
from whycluster.errors import UserError
from whycluster.evaluation import Evaluation, Evaluator
from whycluster.evaluation.measuring import assigned
from whycluster.explain import ClusterModel, Explainer
from whycluster.files import write_json
from whycluster.output.console import say, show
from whycluster.output.evaluations import evaluation_sentences, evaluation_table, write_evaluation

EVALUATION = "evaluation.json"


def evaluate_sample(
    explainer: Explainer,
    evaluator: Evaluator,
    images: PreparedImages,
    run: Path,
    tensorboard: Path,
    batch_size: int,
    quiet: bool,
) -> Evaluation:
    """Evaluates on a sample of images and writes `evaluation.json` and curves.

    Args:
        explainer: what is to be judged, its model on the device to work on.
        evaluator: how.
        images: to draw the sample from.
        run: the run folder.
        tensorboard: its folder for TensorBoard.
        batch_size: images at once.
        quiet: whether to show no progress.

    Raises:
        UserError: if none of the images can be read.
    """
    rows, photos = _sample(images, evaluator)
    masks = _masks(explainer.model, images.collection, rows, photos)
    columns = (
        TextColumn("evaluating: {task.description:>20}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=quiet) as bar:
        task = bar.add_task("", total=1.0)
        evaluation = evaluator.evaluate(
            explainer,
            photos,
            masks,
            lambda what, done: bar.update(task, description=what, completed=done),
            batch_size,
        )
    plain = evaluation.to_plain()
    plain["images"] = [images.collection.paths[row] for row in rows]
    write_json(run / EVALUATION, _without_nan(plain))
    write_evaluation(tensorboard, evaluation)
    show(evaluation_table(evaluation))
    for sentence in evaluation_sentences(evaluation):
        say(sentence)
    return evaluation


def _sample(images: PreparedImages, evaluator: Evaluator) -> tuple[list[int], Tensor]:
    """Numbers of some images that can be read, ascending, and the images, `(N, 3, H, W)` uint8."""
    wanted = len(images) if evaluator.sample is None else evaluator.sample
    found: dict[int, Tensor] = {}
    for place in np.random.RandomState(evaluator.seed).permutation(len(images)).tolist():
        if len(found) == wanted:
            break
        row, image = images[place]
        if isinstance(image, Tensor):
            found[row] = image
    if not found:
        raise UserError("none of the images can be read, and there is nothing to evaluate on.")
    rows = sorted(found)
    return rows, torch.stack([found[row] for row in rows])


def _masks(model: ClusterModel, collection: Collection, rows: list[int], photos: Tensor) -> Tensor | None:
    """Masks `(N, H, W)` of images that are in their own group, empty for others: what put those elsewhere is not known.

    `None` where the clusters are no known groups, or there are no masks.
    """
    if model.groups is None:
        return None
    masks = photos.new_zeros(len(rows), *photos.shape[2:], dtype=torch.bool)
    for at, (row, cluster) in enumerate(zip(rows, assigned(model, photos).tolist(), strict=True)):
        mask = collection.mask(row)
        if mask is not None and model.groups[cluster] == collection.labels[row]:
            masks[at] = model.backbone.preprocessing(mask.convert("RGB"))[0] > 127
    return masks if masks.any() else None


def _without_nan(value: Any) -> Any:
    """The same values, `None` where there is no number: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
