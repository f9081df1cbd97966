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
from whycluster.clustering.description import assess_clusters
from whycluster.clustering.feature_steps import FeatureSettings
from whycluster.clustering.features import FeatureStore, sample_rows
from whycluster.clustering.metrics import SILHOUETTE_ROWS, label_agreement, silhouette
from whycluster.data import Collection, Folder, PreparedImages, describe_labels, has_labels
from whycluster.data.fingerprints import digest, fingerprint
from whycluster.errors import UserError
from whycluster.explain import ClusterModel
from whycluster.explain.model import FILE_NAME
from whycluster.files import write_json
from whycluster.lrp import LRP, EpsilonPlus
from whycluster.output.cluster_tables import CLUSTERS, METRICS, show_trust
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
RESULTS = (FILE_NAME, "assignments.csv", CLUSTERS, METRICS, "skipped.csv", FEATURES, "clusters", "tensorboard")


class Assigned(NamedTuple):
    """Where every readable image belongs; arrays `(N,)` in the order of the feature file."""

    cluster: np.ndarray
    discriminant: np.ndarray
    probability: np.ndarray
    runner_up: np.ndarray
    distance: np.ndarray  # squared, to the cluster


class Clustered(NamedTuple):
    """A collection and its clusters.

    Attributes:
        data: all of the collection.
        given: what was clustered: images that could be read, and their labels.
        extracted: how features came about.
        fitted: the clustering.
        features: of these images, by the backbone as it is after the fit.
        model: backbone, steps and head.
        assigned: where each image belongs.
        disagreements: images that head and clustering assign differently.
    """

    data: Collection
    given: ToCluster
    extracted: Extraction
    fitted: Fitted
    features: FeatureStore
    model: ClusterModel
    assigned: Assigned
    disagreements: int


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
    features.check(len(data.paths), backbone.n_features, backbone.n_channels)
    explainable = _is_explainable(backbone)
    run = Run(folder, RESULTS, {"command": "train", **request, **_content(data, backbone)}, resume)
    if run.is_finished():
        return _finished(run.folder)
    with run.working():
        if is_first():
            if has_labels(data.labels):
                say(describe_labels(data))
            if isinstance(data, Folder) and backbone.origin.get("name") == "glyphnet":
                say("note: glyphnet knows strokes, and not photos; for photos set backbone=, such as squeezenet1_0")
        extracted = extract(data, backbone, features, trainer, run, batch_size, num_workers)
        given = _to_cluster(data, backbone, extracted, batch_size, num_workers)
        head.check_input(backbone, features, given.labels, "readable images")
        board = logger(save_dir=run.folder, name="tensorboard", version="")
        started = time.monotonic()
        fitted = head.fit(given, Fitting(trainer, board, run.state), seed)
        seconds = time.monotonic() - started
        leave_group()
        if not is_first():
            return {}
        found = _clustered(data, given, extracted, fitted, seed)
        metrics, clusters = _metrics(found, seconds, seed), _described(found, seed)
        chosen = {"backbone": backbone.origin, "features": asdict(features), "head": head.settings()}
        _show(board, found, metrics, {**chosen, "data": data.source, "seed": seed})
        lost = _write(run.folder, found, metrics, clusters, export)
    show_trust(metrics, clusters)
    _report(run.folder, metrics, lost, explainable)
    return metrics


def _is_explainable(backbone: Backbone) -> bool:
    """Tells whether relevance can pass this network, and warns if it cannot."""
    try:
        side = backbone.preprocessing.crop
        LRP(backbone.network, EpsilonPlus()).prepare(backbone.mean.new_zeros(1, 3, side, side))
    except UserError as error:
        warnings.warn(f"this network can be clustered, but not explained: {error}", stacklevel=2)
        return False
    return True


def _content(data: Collection, backbone: Backbone) -> dict[str, Any]:
    """What decides the results beside the settings: what is in the images, and the weights."""
    images = fingerprint(data, range(len(data.paths)), times=True)
    return {"images": images, "weights": digest(backbone.state_dict().values())}


def _finished(folder: Path) -> dict[str, Any]:
    """The metrics of a run that is finished already."""
    if is_first():
        say(f"the run in {short(folder)} is finished already")
    metrics: dict[str, Any] = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    return metrics


def _to_cluster(
    data: Collection, backbone: Backbone, extracted: Extraction, batch_size: int, num_workers: int | None
) -> ToCluster:
    """What the clustering is given: the images that could be read."""
    labels = [data.labels[row] for row in extracted.rows]
    images = PreparedImages(data, backbone.preprocessing, extracted.rows.tolist())
    return ToCluster(extracted.features, labels, images, backbone, extracted.steps, batch_size, num_workers)


def _clustered(data: Collection, given: ToCluster, extracted: Extraction, fitted: Fitted, seed: int) -> Clustered:
    """Builds the model, and assigns all images."""
    features = extracted.features if fitted.features is None else fitted.features
    images = fingerprint(data, range(len(data.paths)))
    known = data.source, seed, None, fitted.groups, images
    model = ClusterModel(given.backbone.cpu(), fitted.head, *known, given.steps)
    return Clustered(data, given, extracted, fitted, features, model, *_assign(model, fitted, features))


def _assign(model: ClusterModel, fitted: Fitted, features: FeatureStore) -> tuple[Assigned, int]:
    """Where each row belongs, and on how many rows the neuralized head and the clustering disagree."""
    parts, wrong = [], 0
    for batch in features.batches(model.head.width):
        assignment = model.assign(batch)
        cluster, distance = fitted.assign(batch)
        parts.append([column.numpy() for column in (*assignment, distance)])
        wrong += int(torch.count_nonzero(cluster != assignment.cluster))
    return Assigned(*(np.concatenate(column) for column in zip(*parts, strict=True))), wrong


def _metrics(found: Clustered, seconds: float, seed: int) -> dict[str, Any]:
    """How good the clustering is, and how long it took."""
    clusters, n_clusters = found.assigned.cluster, found.model.n_clusters
    sample = sample_rows(len(clusters), SILHOUETTE_ROWS, seed)
    return {
        "n_images": len(clusters),
        "n_clusters": n_clusters,
        "cluster_sizes": np.bincount(clusters, minlength=n_clusters).tolist(),
        "beta": float(found.model.head.beta),
        **found.fitted.figures,
        "silhouette": silhouette(found.features.rows(sample), clusters[sample]),
        **_agreement(found, seed),
        "disagreements": found.disagreements,
        "n_skipped": len(found.extracted.skipped),
        "clustering_seconds": round(seconds, 3),
        **{f"extraction_{name}": figure for name, figure in found.extracted.figures.items()},
    }


def _agreement(found: Clustered, seed: int) -> dict[str, Any]:
    """How far the clusters agree with labels and with k-means on the same features, and what pixels alone reach."""
    clusters, labels, baseline = found.assigned.cluster, found.given.labels, found.fitted.baseline
    labelled = has_labels(labels)
    agreement: dict[str, Any] = {}
    if baseline is not None:
        agreement["kmeans"] = label_agreement(baseline, labels) if labelled else {}
        agreement["kmeans"]["ari_with_it"] = label_agreement(clusters, baseline.astype(str).tolist())["ari"]
    if labelled:
        agreement |= label_agreement(clusters, labels)
        raw = found.data.raw_features()
        if raw is not None:
            pixels = ScikitKMeans(found.model.n_clusters, n_init=10, random_state=seed)
            agreement["raw_pixels"] = label_agreement(pixels.fit_predict(raw[found.extracted.rows]), labels)
    return agreement


def _described(found: Clustered, seed: int) -> list[dict[str, Any]]:
    """What `clusters.json` says."""
    columns = found.assigned.cluster, found.assigned.discriminant
    return assess_clusters(found.features, *columns, found.model.n_clusters, found.fitted.refit, seed)


def _show(board: TensorBoardLogger, found: Clustered, metrics: dict[str, Any], settings: dict[str, Any]) -> None:
    """TensorBoard: sizes, central images, the embedding, and hyper-parameters with the metrics."""
    images, clusters = found.given.images, found.assigned.cluster
    show_clusters(board.experiment, images, clusters, found.assigned.distance, metrics["n_clusters"])
    sample = sample_rows(len(clusters), EMBEDDED, settings["seed"])
    show_embedding(board.experiment, images, clusters, sample, found.features.rows(sample))
    figures = {f"metrics/{name}": value for name, value in metrics.items() if isinstance(value, int | float)}
    board.log_hyperparams(settings, figures)
    board.experiment.flush()


def _write(
    folder: Path, found: Clustered, metrics: dict[str, Any], clusters: list[dict[str, Any]], export: str
) -> dict[str, str]:
    """All files, the model last; returns which images could not be laid out, and why."""
    write_table(folder / "assignments.csv", ASSIGNMENTS, _table(found))
    write_skipped(folder / "skipped.csv", found.extracted.skipped)
    members = zip(found.extracted.rows.tolist(), found.assigned.cluster.tolist(), strict=True)
    lost = export_clusters(folder / "clusters", found.data, members, export)
    os.replace(found.features.path, folder / FEATURES)
    write_json(folder / METRICS, metrics)
    write_json(folder / CLUSTERS, clusters)
    found.model.save(folder / FILE_NAME)
    return lost


def _table(found: Clustered) -> Iterator[TableRow]:
    """The rows of `assignments.csv`."""
    assigned, data = found.assigned, found.data
    numbers = (assigned.cluster, assigned.discriminant, assigned.probability, assigned.runner_up)
    for row, *cells in zip(found.extracted.rows, *(column.tolist() for column in numbers), strict=True):
        yield (data.paths[row], *cells, data.labels[row])


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
