"""A train run: images `->` features `->` clusters `->` a model file, tables, figures and TensorBoard."""

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.cluster import KMeans as ScikitKMeans

from whycluster.backbones import Backbone
from whycluster.clustering.description import describe_clusters
from whycluster.clustering.feature_steps import FeatureSettings
from whycluster.clustering.features import FeatureStore, sample_rows
from whycluster.clustering.metrics import SILHOUETTE_ROWS, label_agreement, silhouette
from whycluster.data import Collection, PreparedImages, describe_labels, has_labels
from whycluster.data.fingerprints import digest, fingerprint
from whycluster.errors import UserError
from whycluster.explain import ClusterModel
from whycluster.explain.model import FILE_NAME
from whycluster.files import write_json
from whycluster.lrp import LRP, EpsilonPlus
from whycluster.output.cluster_tables import CLUSTERS, show_trust
from whycluster.output.clusters import EMBEDDED, show_clusters, show_embedding
from whycluster.output.console import override, say, short, typed
from whycluster.output.export import check_export, export_clusters
from whycluster.output.tables import ASSIGNMENTS, TableRow, write_skipped, write_table
from whycluster.runs.extracting import FEATURES, Extraction, extract
from whycluster.runs.fitting import Clustering, Fitted, Fitting, ToCluster
from whycluster.runs.folders import Run
from whycluster.runs.ranks import is_first, leave_group
from whycluster.runs.trainers import check_loading

NAMED = 10  # images that a report gives by name
RESULTS = (FILE_NAME, "assignments.csv", CLUSTERS, "metrics.json", "skipped.csv", FEATURES, "clusters", "tensorboard")


class Assigned(NamedTuple):
    """Where every readable image belongs; arrays `(N,)` in the order of the feature file."""

    cluster: np.ndarray
    discriminant: np.ndarray
    probability: np.ndarray
    runner_up: np.ndarray
    distance: np.ndarray  # squared, to the cluster


def train(
    data: Collection,
    backbone: Backbone,
    head: Clustering,
    trainer: Callable[..., pl.Trainer],
    logger: Callable[..., TensorBoardLogger],
    folder: Path,
    request: Mapping[str, Any],
    features: FeatureSettings = FeatureSettings(),  # noqa: B008  # it is frozen
    seed: int = 0,
    batch_size: int = 32,
    num_workers: int | None = None,
    export: str = "none",
    resume: bool = False,
) -> dict[str, Any]:
    """Clusters a collection and writes the run folder.

    Args:
        data: the images.
        backbone: images to features.
        head: the clustering.
        trainer: makes a Lightning trainer from `logger` and `callbacks`.
        logger: makes the TensorBoard logger of a folder.
        folder: the run folder.
        request: all settings as plain values, by name; a run that was stopped goes on with the same ones only.
        features: which steps features take on the way from backbone to clustering.
        seed: same seed, same machine: same result.
        batch_size: images loaded at once.
        num_workers: processes that decode; `None`: as many as fit.
        export: `links` or `copies` lays the images of each cluster into `clusters/<k>/`; `none` does not.
        resume: whether to go on with a run that was stopped; one that is finished stays as it is.

    Returns:
        What `metrics.json` says; empty in all processes but the first.

    Raises:
        UserError: for settings that do not work, for a folder that is not free, and if no image can be read.
    """
    check_export(export)
    check_loading(trainer, batch_size, num_workers)
    head.check_input(backbone, features, data.labels, "files")
    features.check(len(data.paths), backbone.n_features)
    obstacle = _cannot_be_explained(backbone)
    if obstacle:
        warnings.warn(f"this network can be clustered, but not explained: {obstacle}", stacklevel=1)
    content = {
        "images": fingerprint(data, range(len(data.paths)), times=True),
        "weights": digest(backbone.state_dict().values()),
    }
    run = Run(folder, RESULTS, {"command": "train", **request, **content}, resume)
    if run.is_finished():
        if is_first():
            say(f"the run in {short(run.folder)} is finished already")
        metrics: dict[str, Any] = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
        return metrics
    with run.working():
        if is_first() and has_labels(data.labels):
            say(describe_labels(data))
        extracted = extract(data, backbone, features, trainer, run, batch_size, num_workers)
        labels = [data.labels[row] for row in extracted.rows]
        head.check_input(backbone, features, labels, "readable images")
        started = time.monotonic()
        board = logger(save_dir=run.folder, name="tensorboard", version="")
        readable = PreparedImages(data, backbone.preprocessing, extracted.rows.tolist())
        loading = batch_size, num_workers
        given = ToCluster(extracted.features, labels, readable, backbone, extracted.steps, *loading)
        fitted = head.fit(given, Fitting(trainer, board, run.state), seed)
        clustered = time.monotonic() - started
        leave_group()
        if not is_first():
            return {}
        if fitted.features is not None:
            extracted = extracted._replace(features=fitted.features)
        images = fingerprint(data, range(len(data.paths)))
        known = data.source, seed, None, fitted.groups, images
        model = ClusterModel(backbone.cpu(), fitted.head, *known, extracted.steps)
        assigned, wrong = _assign(model, fitted, extracted.features)
        metrics = _metrics(data, extracted, fitted, assigned.cluster, seed)
        columns = assigned.cluster, assigned.discriminant
        clusters = describe_clusters(extracted.features, *columns, metrics["n_clusters"], fitted.refit, seed)
        metrics |= {
            "disagreements": wrong,
            "n_skipped": len(extracted.skipped),
            "clustering_seconds": round(clustered, 3),
            **{f"extraction_{name}": figure for name, figure in extracted.figures.items()},
        }
        lost = _write(run.folder, data, extracted, assigned, export)
        chosen = {"backbone": backbone.origin, "features": asdict(features), "head": head.settings()}
        settings = {**chosen, "data": data.source, "seed": seed}
        _show(board, readable, extracted.features, assigned, metrics, settings)
        os.replace(extracted.features.path, run.folder / FEATURES)
        write_json(run.folder / "metrics.json", metrics)
        write_json(run.folder / CLUSTERS, clusters)
        model.save(run.folder / FILE_NAME)
    show_trust(metrics, clusters)
    _report(run.folder, metrics, lost, explainable=not obstacle)
    return metrics


def _cannot_be_explained(backbone: Backbone) -> str:
    """Why relevance cannot pass this network; empty if it can."""
    try:
        side = backbone.preprocessing.crop
        LRP(backbone.network, EpsilonPlus()).prepare(backbone.mean.new_zeros(1, 3, side, side))
    except UserError as error:
        return str(error)
    return ""


def _assign(model: ClusterModel, fitted: Fitted, features: FeatureStore) -> tuple[Assigned, int]:
    """Where each row belongs, and on how many rows the neuralized head and the clustering disagree."""
    parts, wrong = [], 0
    for batch in features.batches(model.head.width):
        assignment = model.assign(batch)
        cluster, distance = fitted.assign(batch)
        parts.append([column.numpy() for column in (*assignment, distance)])
        wrong += int(torch.count_nonzero(cluster != assignment.cluster))
    return Assigned(*(np.concatenate(column) for column in zip(*parts, strict=True))), wrong


def _metrics(
    data: Collection, extracted: Extraction, fitted: Fitted, clusters: np.ndarray, seed: int
) -> dict[str, Any]:
    """How good the clustering is."""
    features, rows = extracted.features, extracted.rows
    sample = sample_rows(len(rows), SILHOUETTE_ROWS, seed)
    metrics: dict[str, Any] = {
        "n_images": len(rows),
        "n_clusters": fitted.head.n_clusters,
        "cluster_sizes": np.bincount(clusters, minlength=fitted.head.n_clusters).tolist(),
        "beta": float(fitted.head.beta),
        **fitted.figures,
        "silhouette": silhouette(features.rows(sample), clusters[sample]),
    }
    labels = [data.labels[row] for row in rows]
    if fitted.baseline is not None:
        metrics["kmeans"] = label_agreement(fitted.baseline, labels) if has_labels(labels) else {}
        metrics["kmeans"]["ari_with_it"] = label_agreement(clusters, fitted.baseline.astype(str).tolist())["ari"]
    if has_labels(labels):
        metrics |= label_agreement(clusters, labels)
        raw = data.raw_features()
        if raw is not None:
            plain = ScikitKMeans(fitted.head.n_clusters, n_init=10, random_state=seed).fit_predict(raw[rows])
            metrics["raw_pixels"] = label_agreement(plain, labels)
    return metrics


def _write(folder: Path, data: Collection, extracted: Extraction, assigned: Assigned, export: str) -> dict[str, str]:
    """Tables, and the images of each cluster; returns which of these could not be laid out, and why."""
    write_table(folder / "assignments.csv", ASSIGNMENTS, _table(data, extracted.rows, assigned))
    write_skipped(folder / "skipped.csv", extracted.skipped)
    members = zip(extracted.rows.tolist(), assigned.cluster.tolist(), strict=True)
    return export_clusters(folder / "clusters", data, members, export)


def _table(data: Collection, rows: np.ndarray, assigned: Assigned) -> Iterator[TableRow]:
    """The rows of `assignments.csv`."""
    numbers = (assigned.cluster, assigned.discriminant, assigned.probability, assigned.runner_up)
    for row, *cells in zip(rows, *(column.tolist() for column in numbers), strict=True):
        yield (data.paths[row], *cells, data.labels[row])


def _show(
    board: TensorBoardLogger,
    images: PreparedImages,
    features: FeatureStore,
    assigned: Assigned,
    metrics: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    """TensorBoard: sizes, central images, the embedding, and hyper-parameters with the metrics."""
    show_clusters(board.experiment, images, assigned.cluster, assigned.distance, metrics["n_clusters"])
    sample = sample_rows(len(assigned.cluster), EMBEDDED, settings["seed"])
    show_embedding(board.experiment, images, assigned.cluster, sample, features.rows(sample))
    figures = {f"metrics/{name}": value for name, value in metrics.items() if isinstance(value, int | float)}
    board.log_hyperparams(settings, figures)
    board.experiment.flush()


def _report(folder: Path, metrics: dict[str, Any], lost: dict[str, str], explainable: bool) -> None:
    """What a person wants to know at the end."""
    for path, reason in list(lost.items())[:NAMED]:
        say(f"not laid out: {path}: {reason}")
    if len(lost) > NAMED:
        say(f"not laid out: {len(lost) - NAMED} more")
    agreement = f", NMI {metrics['nmi']:.2f} with the labels" if "nmi" in metrics else ""
    kmeans = metrics.get("kmeans", {})
    peers = {"raw pixels": metrics.get("raw_pixels", {}), "k-means on the same features": kmeans}
    known = [f"{name}: {peer['nmi']:.2f}" for name, peer in peers.items() if "nmi" in peer]
    baseline = f" ({', '.join(known)})" if known else ""
    if kmeans and not agreement:
        agreement = f", ARI {kmeans['ari_with_it']:.2f} with k-means on the same features"
    skipped = f"; {metrics['n_skipped']} skipped, see skipped.csv" if metrics["n_skipped"] else ""
    say(f"{metrics['n_images']} images in {metrics['n_clusters']} clusters{agreement}{baseline}{skipped}")
    say(f"model and tables: {short(folder)}")
    say(f"look at the clusters: tensorboard --logdir {quote(str(short(folder)))}")
    if explainable:
        say(f"explain them: {typed('explain')} {override('checkpoint', short(folder))}")
