"""An explain run: a model and images `->` heatmaps, tables, and a gallery in TensorBoard."""

from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger

from whycluster.data import Collection, Folder, PreparedImages, Progress, open_collection
from whycluster.errors import UserError, whole_number
from whycluster.evaluation import Evaluator
from whycluster.explain import ClusterModel, Explainer, Target, parse_target
from whycluster.explain.predict import ExplanationModule
from whycluster.files import write_json
from whycluster.heads import Beta
from whycluster.lrp import Attention, Residual
from whycluster.output.console import say, short
from whycluster.output.explanations import (
    KINDS,
    ExplanationWriter,
    assignment_rows,
    counted,
    deepest,
    receipt_rows,
)
from whycluster.output.tables import ASSIGNMENTS, RECEIPTS, write_skipped, write_table
from whycluster.runs.evaluating import EVALUATION, evaluate_sample
from whycluster.runs.folders import CHECKPOINT, Run, digest, find_checkpoint, working_on
from whycluster.runs.ranks import gathered, is_first
from whycluster.runs.settings import decoding_workers, full_precision, images_per_second

METRICS = "metrics.json"
TABLES = ("assignments.csv", "receipts.csv", "skipped.csv")
RESULTS = (*TABLES, METRICS, EVALUATION, "heatmaps", "relevance", "tensorboard")


def explain(
    checkpoint: str,
    images: str | None,
    trainer: Callable[..., pl.Trainer],
    logger: Callable[..., TensorBoardLogger],
    folder: str,
    target: str | int = "assigned",
    composite: str = "epsilon_gamma_box",
    head_rule: str = "auto",
    beta: Beta = "auto",
    residual: Residual | Literal["auto"] = "auto",
    attention: Attention = "attn",
    check: bool = False,
    evaluate: bool = False,
    evaluation: Evaluator | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    num_workers: int | None = None,
    overwrite: bool = False,
    resume: bool = False,
) -> int:
    """Explains images and writes the run folder.

    Args:
        checkpoint: a model file, a run folder, or `latest`.
        images: a folder or a file; `None`: what the model was trained on.
        trainer: makes a Lightning trainer from `logger` and `callbacks`.
        logger: makes the TensorBoard logger.
        folder: the run folder.
        target: `assigned`, `runner_up`, `all`, a cluster number, or a pair `c:k`.
        composite: the rules for the network, by name.
        head_rule: `auto`, `zero` or `midpoint`.
        beta: `auto`: the model's own; or a number.
        residual: how residual sums share out, `ratio`, `norm`, or `auto` (see `Explainer`).
        attention: how relevance passes attention, `attn` or `cp` (see `LRP`).
        check: print which rule each node of the network gets, and explain nothing.
        evaluate: measure the explanations of assigned clusters, too.
        evaluation: how; `None`: as `Evaluator` does by default.
        limit: explain the first so many images only.
        batch_size: images at once.
        num_workers: processes that decode; `None`: as many as fit.
        overwrite: whether results in the folder may be replaced.
        resume: whether to go on with a run that was stopped; one that is finished stays as it is.

    Returns:
        How many images were explained.

    Raises:
        UserError: for settings that do not work, for a folder that is not free, and if no image can be read.
    """
    run = Run(Path(folder), RESULTS, resume, overwrite)
    whole_number("batch_size", batch_size, 1)
    if resume and checkpoint == "latest":  # by now, that may be another run
        checkpoint = run.asked().get(CHECKPOINT, checkpoint)
    file = find_checkpoint(checkpoint)
    model = ClusterModel.load(file)
    targets = parse_target(target, model.n_clusters)
    explainer = Explainer(model, composite, head_rule, beta, residual, attention)  # type: ignore[arg-type]  # it checks
    if check:
        say(f"{short(file.absolute())}, composite {composite}, residual sums by {explainer.residual}")
        for line in explainer.describe().splitlines():
            say(line)
        return 0
    evaluator = evaluation or Evaluator()
    if evaluate:
        evaluator.methods(explainer)  # what is missing for it should show before hours of work
    collection = _collection(model, images)
    prepared = PreparedImages(collection, model.backbone.preprocessing, _first(len(collection.paths), limit))
    full_precision()
    request = {
        "command": "explain",
        "model": digest([file]),
        "data": collection.source,
        "images": f"{len(collection.paths)} files named {digest(collection.paths)}",
        "targets": [target.name for target in targets],
        "composite": composite,
        "head_rule": head_rule,
        "beta": str(beta),
        "residual": residual,
        "attention": attention,
        "limit": limit,
        "batch_size": batch_size,
        "evaluation": vars(evaluator) if evaluate else None,
        CHECKPOINT: str(file.absolute()),
    }
    if run.is_finished(request):
        run.tidy()
        say(f"the run in {short(run.folder)} is finished already")
        return 0
    with working_on(run, request):
        progress = Progress(run.state, "explained", len(prepared))
        if is_first():
            run.clear(spared=list(KINDS) if progress.done.any() else [])
            unlisted = f" ({len(collection.skipped)} more could not be listed)" if collection.skipped else ""
            say(f"explaining {len(prepared)} images{unlisted} with {short(file.absolute())}")
        explaining = _explain(explainer, targets, prepared, run, progress, trainer, batch_size, num_workers)
        if not explaining.is_global_zero:
            return 0
        metrics = _write_tables(run.folder, prepared, targets, progress)
        board = logger()
        deepest(progress, prepared, targets, run.folder).write(board.experiment)
        board.experiment.flush()
        if evaluate:
            model.to(explaining.strategy.root_device)
            quiet = explaining.progress_bar_callback is None
            evaluate_sample(explainer, evaluator, prepared, run.folder, Path(board.log_dir), batch_size, quiet)
    _report(run.folder, metrics)
    return int(metrics["n_images"])


def _explain(
    explainer: Explainer,
    targets: Sequence[Target],
    images: PreparedImages,
    run: Run,
    progress: Progress,
    trainer: Callable[..., pl.Trainer],
    batch_size: int,
    num_workers: int | None,
) -> pl.Trainer:
    """Explains all images that are not done, and returns the trainer that did."""
    done = int(np.count_nonzero(progress.done))
    workers = decoding_workers(num_workers, len(images) - done, batch_size)
    writer = ExplanationWriter(run.folder, images.collection, targets, progress)
    explaining = trainer(logger=False, callbacks=[writer], precision="32-true")  # or receipts would not balance
    module = ExplanationModule(explainer, targets, images, batch_size, workers, progress.done)
    if done and explaining.is_global_zero:
        say(f"going on: {done} of {len(images)} images were done")
    if done < len(images):
        explaining.predict(module, return_predictions=False)
        if sum(gathered(explaining, progress.written)) < len(images) - done:
            raise UserError("the trainer stopped before all images were explained; give limit=… for fewer.")
    return explaining


def _write_tables(
    folder: Path, images: PreparedImages, targets: Sequence[Target], progress: Progress
) -> dict[str, Any]:
    """Tables and `metrics.json`, of which the content is returned."""
    collection = images.collection
    skipped = {collection.paths[index]: reason for index, reason in progress.skipped().items()}
    explained = counted(progress)
    if not explained.images:
        progress.forget()
        path, reason = next(iter(skipped.items()))
        raise UserError(f"none of the {len(images)} files can be read as an image; {path!r}: {reason}.")
    write_table(folder / "assignments.csv", ASSIGNMENTS, assignment_rows(progress, collection))
    write_table(folder / "receipts.csv", RECEIPTS, receipt_rows(progress, collection, targets))
    write_skipped(folder / "skipped.csv", collection.skipped | skipped)
    times = progress.times()
    metrics = {
        "n_images": explained.images,
        "n_skipped": len(collection.skipped) + len(skipped),
        "n_heatmaps": explained.images * len(targets),
        "n_weak": explained.weak,
        "seconds": times,
        "images_per_second": images_per_second(len(images), times),
    }
    write_json(folder / METRICS, metrics)
    return metrics


def _collection(model: ClusterModel, images: str | None) -> Collection:
    if images is not None:
        return Folder(images)
    if model.source is None:
        raise UserError("this model does not say what it was trained on; give images=/path/to/photos.")
    try:
        return open_collection(model.source)
    except UserError as error:
        raise UserError(f"of what the model was trained on, {error} Give images=/path/to/photos.") from error


def _first(n_images: int, limit: int | None) -> Sequence[int]:
    return range(n_images if limit is None else min(whole_number("limit", limit, 1), n_images))


def _report(folder: Path, metrics: dict[str, Any]) -> None:
    """What a person wants to know at the end."""
    skipped, weak = metrics["n_skipped"], metrics["n_weak"]
    say(f"{metrics['n_images']} images explained{f'; {skipped} skipped, see skipped.csv' if skipped else ''}")
    if weak:
        say(
            f"in {weak} of {metrics['n_heatmaps']} heatmaps the pixels hold less than half of the discriminant; biases "
            "and stabilisers absorbed the rest, see receipts.csv"
        )
    say(f"heatmaps: {short(folder / 'heatmaps')}")
    say(f"galleries: tensorboard --logdir {quote(str(short(folder)))}")
