"""An explain run: a model and images `->` heatmaps, tables, and a gallery in TensorBoard."""

from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote
from typing import Literal

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger

from whycluster.data import Collection, Folder, PreparedImages, open_collection
from whycluster.evaluation import Evaluator
from whycluster.explain import ClusterModel, Explainer, parse_target
from whycluster.explain.predict import ExplanationModule
from whycluster.lrp import Residual
from whycluster.output.console import say, short
from whycluster.output.explanations import ExplanationWriter, part_of
from whycluster.output.tables import ASSIGNMENTS, RECEIPTS, join_parts, write_skipped
from whycluster.runs.evaluating import EVALUATION, evaluate_sample
from whycluster.runs.folders import check_free, clear, find_checkpoint
from whycluster.runs.ranks import gathered
from whycluster.runs.settings import decoding_workers, full_precision, whole_number

RESULTS = (EVALUATION, "assignments.csv", "receipts.csv", "skipped.csv", "heatmaps", "relevance", "tensorboard")


def explain(
    checkpoint: str,
    images: str | None,
    trainer: Callable[..., pl.Trainer],
    logger: Callable[..., TensorBoardLogger],
    folder: str,
    target: str | int = "assigned",
    composite: str = "epsilon_gamma_box",
    head_rule: str = "auto",
    beta: float | str | None = "auto",
    residual: Residual | Literal["auto"] = "auto",
    check: bool = False,
    evaluate: bool = False,
    evaluation: Evaluator | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    num_workers: int | None = None,
    overwrite: bool = False,
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
        check: print which rule each node of the network gets, and explain nothing.
        evaluate: measure the explanations of assigned clusters, too.
        evaluation: how; `None`: as `Evaluator` does by default.
        limit: explain the first so many images only.
        batch_size: images at once.
        num_workers: processes that decode; `None`: as many as fit.
        overwrite: whether results in the folder may be replaced.

    Returns:
        How many images were explained.

    Raises:
        ValueError: for settings that do not work, and if no image can be read.
    """
    run = Path(folder)
    whole_number("batch_size", batch_size, 1)
    file = find_checkpoint(checkpoint)
    model = ClusterModel.load(file)
    targets = parse_target(target, model.n_clusters)
    explainer = Explainer(model, composite, head_rule, _number(beta), residual)  # type: ignore[arg-type]  # it checks
    if check:
        say(f"{short(file.absolute())}, composite {composite}, residual sums by {explainer.residual}")
        say(explainer.lrp.describe())
        return 0
    evaluator = evaluation or Evaluator()
    if evaluate:
        evaluator.methods(explainer)  # what is missing for it should show before hours of work
    collection = _collection(model, images)
    prepared = PreparedImages(collection, model.backbone.preprocessing, _first(len(collection.paths), limit))
    check_free(run, RESULTS, overwrite)
    full_precision()
    workers = decoding_workers(num_workers, len(prepared), batch_size)
    writer = ExplanationWriter(run, collection, targets)
    explaining = trainer(logger=False, callbacks=[writer], precision="32-true")  # or receipts would not balance
    clear(run, RESULTS)
    if explaining.is_global_zero:
        say(f"explaining {len(prepared)} images with {short(file.absolute())}")
    module = ExplanationModule(explainer, targets, prepared, batch_size, workers)
    explaining.predict(module, return_predictions=False)

    kept = gathered(explaining, (writer.written, writer.weak, writer.skipped, writer.gallery.kept()))
    if not explaining.is_global_zero:
        return 0
    written, weak, unread, galleries = (list(column) for column in zip(*kept, strict=True))
    skipped = {collection.paths[index]: reason for part in unread for index, reason in part.items()}
    for table, columns in (("assignments", ASSIGNMENTS), ("receipts", RECEIPTS)):
        parts = [part_of(run, table, rank) for rank in range(explaining.world_size)]
        join_parts(run / f"{table}.csv", columns, parts)
    write_skipped(run / "skipped.csv", collection.skipped | skipped)
    if not sum(written):
        path, reason = next(iter(skipped.items()))
        raise ValueError(f"none of the {len(prepared)} files can be read as an image; {path!r}: {reason}.")
    writer.gallery.merge(galleries[1:])
    board = logger()
    writer.gallery.write(board.experiment)
    board.experiment.flush()
    if evaluate:
        model.to(explaining.strategy.root_device)
        quiet = explaining.progress_bar_callback is None
        evaluate_sample(explainer, evaluator, prepared, run, Path(board.log_dir), batch_size, quiet)
    _report(run, sum(written), sum(weak), len(targets), len(skipped) + len(collection.skipped))
    return sum(written)


def _number(beta: float | str | None) -> float | None:
    """`None` for `auto`."""
    if beta is None or beta == "auto":
        return None
    try:
        return float(beta)
    except ValueError:
        raise ValueError(f"beta={beta!r} should be auto or a number >= 0.") from None


def _collection(model: ClusterModel, images: str | None) -> Collection:
    if images is not None:
        return Folder(images)
    if model.source is None:
        raise ValueError("this model does not say what it was trained on; give images=/path/to/photos.")
    try:
        return open_collection(model.source)
    except ValueError as error:
        raise ValueError(f"of what the model was trained on, {error} Give images=/path/to/photos.") from error


def _first(n_images: int, limit: int | None) -> Sequence[int]:
    return range(n_images if limit is None else min(whole_number("limit", limit, 1), n_images))


def _report(run: Path, explained: int, weak: int, n_targets: int, skipped: int) -> None:
    """What a person wants to know at the end."""
    say(f"{explained} images explained{f'; {skipped} skipped, see skipped.csv' if skipped else ''}")
    if weak:
        say(
            f"in {weak} of {explained * n_targets} heatmaps the pixels hold less than half of the discriminant; "
            "biases and stabilisers absorbed the rest, see receipts.csv"
        )
    say(f"heatmaps: {short(run / 'heatmaps')}")
    say(f"galleries: tensorboard --logdir {quote(str(short(run)))}")
