"""The evaluation within an explain run: draws a sample of the images, evaluates on it, and writes the results."""

from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from torch import Tensor

from whycluster.data import Collection, PreparedImages
from whycluster.errors import UserError
from whycluster.evaluation import Evaluation, Evaluator
from whycluster.evaluation.measurement import assigned_clusters
from whycluster.explain import ClusterModel, Explainer
from whycluster.files import write_json
from whycluster.output.console import say, show
from whycluster.output.evaluation_report import evaluation_sentences, evaluation_table, write_curves

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
    """Evaluates on a sample of images; writes `evaluation.json` and curves, and prints a table.

    Args:
        explainer: whose explanations are evaluated; its model is on the device to work on.
        evaluator: the settings.
        images: to draw the sample from.
        run: the run folder.
        tensorboard: its folder for TensorBoard.
        batch_size: images at once.
        quiet: whether to hide the progress bar.

    Raises:
        UserError: if none of the images can be read.
    """
    rows, photos = _drawn(images, evaluator.sample, _order(images, evaluator.seed))
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
    values = evaluation.to_json() | {"images": [images.collection.paths[row] for row in rows]}
    write_json(run / EVALUATION, values)
    write_curves(tensorboard, evaluation)
    show(evaluation_table(evaluation))
    for sentence in evaluation_sentences(evaluation):
        say(sentence)
    return evaluation


def sample_to_choose(images: PreparedImages, size: int, seed: int) -> Tensor:
    """Returns a random sample of the readable images, `(N, 3, H, W)` uint8; it shares as few as possible with the
    sample of the same seed that is evaluated on.

    Raises:
        UserError: if none of the images can be read.
    """
    return _drawn(images, size, _order(images, seed)[::-1])[1]


def _order(images: PreparedImages, seed: int) -> np.ndarray:
    """Returns the order in which images are drawn, `(N,)`."""
    return np.random.RandomState(seed).permutation(len(images))


def _drawn(images: PreparedImages, size: int | None, order: np.ndarray) -> tuple[list[int], Tensor]:
    """Row numbers of the first readable images of an order, ascending, and the images, `(N, 3, H, W)` uint8."""
    wanted = len(images) if size is None else size
    found: dict[int, Tensor] = {}
    for place in order.tolist():
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
    """Masks `(N, H, W)` of the images, empty for those that are not in their own group: their reason is not known.

    `None` if the clusters are not known groups, or there are no masks.
    """
    if model.groups is None:
        return None
    masks = photos.new_zeros(len(rows), *photos.shape[2:], dtype=torch.bool)
    for at, (row, cluster) in enumerate(zip(rows, assigned_clusters(model, photos).tolist(), strict=True)):
        mask = collection.mask(row)
        if mask is not None and model.groups[cluster] == collection.labels[row]:
            masks[at] = model.backbone.preprocessing(mask.convert("RGB"))[0] > 127
    return masks if masks.any() else None
