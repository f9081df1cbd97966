"""An explain run: a model and images `->` heatmaps, tables, and a gallery in TensorBoard."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger

from whycluster.data import Collection, Folder, PreparedImages, Shards, open_collection
from whycluster.data.fingerprints import digest, fingerprint
from whycluster.errors import UserError, true_or_false, whole_number
from whycluster.evaluation import Evaluator
from whycluster.explain import ClusterModel, Explainer, Target, parse_target
from whycluster.explain.predict import ExplanationModule
from whycluster.files import write_json
from whycluster.heads import Beta
from whycluster.lrp import Attention, Residual
from whycluster.output.cluster_tables import CLUSTERS, METRICS, about_table
from whycluster.output.concepts import CONCEPT_PICTURES, CONCEPT_RELEVANCE, show_concepts
from whycluster.output.console import say, short, show
from whycluster.output.explanations import (
    ExplanationWriter,
    assignment_rows,
    counted,
    deepest,
    receipt_rows,
)
from whycluster.output.moves import MOVES, clusters_in, write_moves
from whycluster.output.report import FOLDER as SHEETS
from whycluster.output.report import PAGE, write_report
from whycluster.output.tables import ASSIGNMENTS, RECEIPTS, write_skipped, write_table
from whycluster.runs.choosing_rules import AUTO, RuleChooser, rules_asked_for
from whycluster.runs.describing import describe
from whycluster.runs.evaluate_sample import EVALUATION, evaluate_sample
from whycluster.runs.folders import Run, asked, find_checkpoint
from whycluster.runs.ranks import is_first, leave_group
from whycluster.runs.reporting import check_report, write_again
from whycluster.runs.trainers import check_loading, run_pass

TABLES = ("assignments.csv", "receipts.csv", "skipped.csv")
ABOUT_CLUSTERS = (CLUSTERS, CONCEPT_PICTURES, CONCEPT_RELEVANCE, PAGE, SHEETS)
RESULTS = (*TABLES, METRICS, EVALUATION, *ABOUT_CLUSTERS, MOVES, "heatmaps", "relevance", "tensorboard")


def explain(
    checkpoint: str,
    images: str | None,
    trainer: Callable[..., pl.Trainer],
    logger: Callable[..., TensorBoardLogger],
    folder: Path,
    request: Mapping[str, Any],
    target: str | int = "assigned",
    composite: str = "epsilon_gamma_box",
    head_rule: str = "auto",
    beta: Beta = "auto",
    residual: Residual | Literal["auto"] = "auto",
    attention: Attention = "attn",
    gamma: float | None = None,
    rules_sample: int = 16,
    check: bool = False,
    evaluate: bool = False,
    evaluation: Evaluator | None = None,
    report: bool | str = True,
    compare: str | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    num_workers: int | None = None,
    resume: bool = False,
) -> int:
    """Explains images and writes the run folder.

    Args:
        checkpoint: a model file, a run folder, or `latest`.
        images: a folder or a file; `None`: what the model was trained on.
        trainer: makes a Lightning trainer from `logger` and `callbacks`.
        logger: makes the TensorBoard logger of a folder.
        folder: the run folder.
        request: all settings as plain values, by name; a run that was stopped goes on with the same ones only.
        target: `assigned`, `runner_up`, `all`, a cluster number, or a pair `c:k`.
        composite: the rules for the network, by name; `auto`: those that suit it best, by measurement.
        head_rule: `auto`, `zero` or `midpoint`.
        beta: `auto`: the model's own; or a number.
        residual: how residual sums share out, `ratio`, `norm`, or `auto` (see `Explainer`).
        attention: how relevance passes attention, `attn` or `cp` (see `LRP`).
        gamma: of convolutions in `epsilon_gamma_box` (see `Explainer`).
        rules_sample: images that `composite=auto` measures on, at least 2.
        check: print which rule each node of the network gets, and explain nothing.
        evaluate: measure the explanations of assigned clusters, too.
        evaluation: how; `None`: as `Evaluator` does by default.
        report: whether to write the page of the run; `only`: write that of the finished run in `folder`, and explain
            nothing.
        compare: the folder of another run; it is told how images moved from its clusters to these.
        limit: explain the first so many images only.
        batch_size: images loaded at once.
        num_workers: processes that decode; `None`: as many as fit.
        resume: whether to go on with a run that was stopped; one that is finished stays as it is.

    Returns:
        How many images were explained.

    Raises:
        UserError: for settings that do not work, for a folder that is not free, and if no image can be read.
    """
    if report == "only":
        return write_again(folder)
    check_loading(trainer, batch_size, num_workers)
    check_report(report)
    for name, value in {"check": check, "evaluate": evaluate}.items():
        true_or_false(name, value)
    if resume and checkpoint == "latest":  # by now, that may be another run
        checkpoint = asked(folder).get("checkpoint", checkpoint)
    file = find_checkpoint(checkpoint)
    model = ClusterModel.load(file)
    targets = parse_target(target, model.n_clusters)
    make = partial(Explainer, model, head_rule=head_rule, beta=beta, residual=residual)  # type: ignore[arg-type]
    explainer = make(**rules_asked_for(composite, gamma, attention)._asdict())  # it checks the names
    if check:
        if composite == AUTO:
            raise UserError(
                "check=true shows rules that are known before the run; give composite= a name, and not auto."
            )
        say(f"{short(file.absolute())}, composite {composite}, residual sums by {explainer.residual}")
        for line in explainer.describe().splitlines():
            say(line)
        return 0
    evaluator = evaluation or Evaluator()
    if evaluate:
        evaluator.methods(explainer)  # what is missing for it should show before hours of work
    evaluator.check_patch(model)
    whole_number("rules_sample", rules_sample, 2)
    before = None if compare is None else clusters_in(Path(str(compare)).expanduser())
    collection = _collection(model, images)
    prepared = PreparedImages(collection, model.backbone.preprocessing, _first(len(collection.paths), limit))
    content = {
        "model": digest([file]),
        "content": fingerprint(collection, prepared.rows, times=True),
        "checkpoint": str(file.absolute()),
        "evaluation": request.get("evaluation") if evaluate or composite == AUTO else None,
    }
    run = Run(folder, RESULTS, {"command": "explain", **request, **content}, resume)
    if run.is_finished():
        if is_first():
            say(f"the run in {short(run.folder)} is finished already")
        return 0
    with run.working():
        shards = Shards(run.state / "explanations", len(prepared))
        if is_first():
            unlisted = f" ({len(collection.skipped)} more could not be listed)" if collection.skipped else ""
            say(f"explaining {len(prepared)} images{unlisted} with {short(file.absolute())}")
        callbacks: list[pl.Callback] = [ExplanationWriter(run.folder, collection, targets, shards)]
        chooser = RuleChooser(prepared, evaluator, rules_sample, batch_size, run.state, make)
        if composite == AUTO:
            callbacks.append(chooser)
        explaining = trainer(logger=False, callbacks=callbacks, precision="32-true")  # or receipts would not balance
        module = ExplanationModule(explainer, targets, prepared, shards, batch_size, num_workers)
        figures = run_pass(explaining, module)
        explainer = module.explainer
        leave_group()
        if not is_first():
            return 0
        metrics = _write_tables(run.folder, prepared, targets, shards) | figures | chooser.figures
        model.to(explaining.strategy.root_device)
        say("describing the clusters")
        started = time.monotonic()
        clusters = describe(explainer, prepared, shards, run, file)
        metrics |= {"backbone": model.backbone.origin["name"], "n_clusters": model.n_clusters, "composite": composite}
        metrics["describing_seconds"] = round(time.monotonic() - started, 3)
        moved = None if before is None else write_moves(run.folder, str(compare), before)
        write_json(run.folder / METRICS, metrics)
        board = logger(save_dir=run.folder, name="tensorboard", version="")
        deepest(shards, prepared, targets, run.folder).write(board.experiment)
        show_concepts(board.experiment, run.folder, clusters)
        board.experiment.flush()
        if evaluate:
            quiet = explaining.progress_bar_callback is None
            evaluate_sample(explainer, evaluator, prepared, run.folder, Path(board.log_dir), batch_size, quiet)
        if report:
            say("writing the page")
            write_report(run.folder)
    _report(run.folder, metrics, clusters)
    if moved is not None:
        say(
            f"of {moved.images} images that {compare} has, too, {moved.moved} moved to another cluster "
            f"(adjusted Rand index {moved.ari:.2f}): {short(run.folder / MOVES)}"
        )
    return int(metrics["n_images"])


def _write_tables(folder: Path, images: PreparedImages, targets: Sequence[Target], shards: Shards) -> dict[str, Any]:
    """Writes the tables, and returns figures for `metrics.json`."""
    collection, explained = images.collection, counted(shards)
    skipped = {collection.paths[number]: reason for number, reason in shards.skipped().items()}
    write_table(folder / "assignments.csv", ASSIGNMENTS, assignment_rows(shards, collection))
    write_table(folder / "receipts.csv", RECEIPTS, receipt_rows(shards, collection, targets))
    write_skipped(folder / "skipped.csv", collection.skipped | skipped)
    return {
        "n_images": explained.images,
        "n_skipped": len(collection.skipped) + len(skipped),
        "n_heatmaps": explained.images * len(targets),
        "n_weak": explained.weak,
    }


def _collection(model: ClusterModel, images: str | None) -> Collection:
    if images is not None:
        return Folder(images)
    if model.source is None:
        raise UserError("this model does not say what it was trained on; give images=/path/to/photos.")
    try:
        collection = open_collection(model.source)
    except UserError as error:
        raise UserError(f"of what the model was trained on, {error} Give images=/path/to/photos.") from error
    found = fingerprint(collection, range(len(collection.paths)))
    if model.images and model.images != found and is_first():
        say(
            f"note: {model.source.get('root')} no longer holds the images that the model was trained on: names or "
            f"sizes differ ({model.images['count']} files then, {found['count']} now)"
        )
    return collection


def _first(n_images: int, limit: int | None) -> Sequence[int]:
    return range(n_images if limit is None else min(whole_number("limit", limit, 1), n_images))


def _report(folder: Path, metrics: Mapping[str, Any], clusters: Sequence[Mapping[str, Any]]) -> None:
    """What a person wants to know at the end."""
    skipped, weak = metrics["n_skipped"], metrics["n_weak"]
    say(f"{metrics['n_images']} images explained{f'; {skipped} skipped, see skipped.csv' if skipped else ''}")
    if weak:
        say(
            f"in {weak} of {metrics['n_heatmaps']} heatmaps the pixels hold less than half of the discriminant; biases "
            "and stabilisers absorbed the rest, see receipts.csv"
        )
    if len(clusters) < metrics["n_clusters"]:
        say(f"these images lie in {len(clusters)} of the {metrics['n_clusters']} clusters of the model")
    show(about_table(clusters))
    if (folder / PAGE).exists():
        say(f"open in a browser: {short(folder / PAGE)}")
    say(f"heatmaps: {short(folder / 'heatmaps')}")
    say(f"clusters: {short(folder / CLUSTERS)}, with pictures in {short(folder / CONCEPT_PICTURES)}")
    say(f"galleries: tensorboard --logdir {quote(str(short(folder)))}")
