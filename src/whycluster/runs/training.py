"""A train run: images `->` features `->` clusters `->` a model file, tables, figures and TensorBoard."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.cluster import KMeans as ScikitKMeans

from whycluster.backbones import Backbone
from whycluster.clustering import FeatureExtractor, FeatureStore, FeatureWriter
from whycluster.clustering.metrics import SILHOUETTE_ROWS, label_agreement, silhouette
from whycluster.data import Collection, PreparedImages, UnreadableImageError, has_labels
from whycluster.explain import ClusterModel
from whycluster.explain.model import FILE_NAME
from whycluster.files import write_json
from whycluster.output.console import say
from whycluster.output.export import check_export, export_clusters
from whycluster.output.heatmaps import enlarged, side_by_side
from whycluster.output.tables import ASSIGNMENTS, write_skipped, write_table
from whycluster.output.tensorboard import GALLERY, write_cluster_sizes, write_embedding, write_gallery
from whycluster.runs.fitting import Fitted, KMeansHead, disagreements
from whycluster.runs.folders import claim
from whycluster.runs.ranks import gathered
from whycluster.runs.settings import decoding_workers, whole_number

RESULTS = (FILE_NAME, "assignments.csv", "metrics.json", "skipped.csv", "features.npy", "clusters", "tensorboard")
EMBEDDED = 2000  # images in TensorBoard's projector: it shows no more with grace


class Assigned(NamedTuple):
    """Where every readable image belongs; arrays `(N,)` in the order of the feature file."""

    rows: np.ndarray  # number in the collection
    cluster: np.ndarray
    discriminant: np.ndarray
    probability: np.ndarray
    runner_up: np.ndarray
    distance: np.ndarray  # squared, to the centroid


def train(
    data: Collection,
    backbone: Backbone,
    head: KMeansHead,
    trainer: Callable[..., pl.Trainer],
    logger: Callable[..., TensorBoardLogger],
    folder: str,
    seed: int = 0,
    batch_size: int = 32,
    num_workers: int | None = None,
    export: str = "none",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Clusters a collection and writes the run folder.

    Args:
        data: the images.
        backbone: images to features.
        head: the clustering.
        trainer: makes a Lightning trainer from `logger` and `callbacks`.
        logger: makes the TensorBoard logger.
        folder: the run folder.
        seed: same seed, same machine: same result.
        batch_size: images at once.
        num_workers: processes that decode; `None`: as many as fit.
        export: `links` or `copies` lays the images of each cluster into `clusters/<k>/`; `none` does not.
        overwrite: whether results in the folder may be replaced.

    Returns:
        What `metrics.json` says; empty in all processes but the first.

    Raises:
        ValueError: for settings that do not work, and if no image can be read.
    """
    run = Path(folder)
    check_export(export)
    whole_number("batch_size", batch_size, 1)
    claim(run, RESULTS, overwrite)
    _check_size(head.n_clusters, len(data.paths))
    started = time.monotonic()
    features, rows, skipped = _extract(data, backbone, trainer, run, batch_size, num_workers)
    extracted = time.monotonic()
    _check_size(head.n_clusters, len(rows))
    board = logger()
    fitting = trainer(logger=board, callbacks=[], max_epochs=head.max_iter + 1)  # one more, to measure the result
    fitted = head.fit(features, fitting, seed)
    if not fitting.is_global_zero:
        return {}
    clustered = time.monotonic()

    model = ClusterModel(backbone.cpu(), fitted.head, data.source, seed)
    assigned, wrong = _assign(model, features, rows)
    metrics = _metrics(data, features, head, fitted, assigned, seed)
    metrics |= {
        "disagreements": wrong,
        "n_skipped": len(skipped),
        "seconds_extraction": round(extracted - started, 3),
        "seconds_clustering": round(clustered - extracted, 3),
        "images_per_second": round(len(data.paths) / (extracted - started), 2),
    }
    write_table(run / "assignments.csv", ASSIGNMENTS, zip(*_columns(data, assigned), strict=True))
    write_skipped(run / "skipped.csv", skipped)
    export_clusters(run / "clusters", data, zip(assigned.rows, assigned.cluster, strict=True), export)
    _show(board, data, features, assigned, metrics, backbone, head, seed)
    write_json(run / "metrics.json", metrics)
    model.save(run / FILE_NAME)  # last: a run folder with a model is a finished one
    _report(run, metrics)
    return metrics


def _check_size(n_clusters: int, n_images: int) -> None:
    """More clusters than images is an error before the work as well as after it."""
    if n_images < n_clusters:
        raise ValueError(f"head.n_clusters={n_clusters} should be <= the number of readable images, {n_images}.")


def _extract(
    data: Collection,
    backbone: Backbone,
    trainer: Callable[..., pl.Trainer],
    run: Path,
    batch_size: int,
    num_workers: int | None,
) -> tuple[FeatureStore, np.ndarray, dict[str, str]]:
    """Features of the images that can be read, the numbers of these, and why the others cannot."""
    images = PreparedImages(data, backbone.preprocessing)
    workers = decoding_workers(num_workers, len(images), batch_size)
    writer = FeatureWriter(run / "features.npy", len(images), backbone.n_features)
    extraction = trainer(logger=False, callbacks=[writer])
    extraction.predict(FeatureExtractor(backbone, images, batch_size, workers), return_predictions=False)
    unread = {index: reason for part in gathered(extraction, writer.skipped) for index, reason in part.items()}
    if len(unread) == len(images):
        index, reason = next(iter(unread.items()))
        raise ValueError(f"none of the {len(images)} files can be read as an image; {data.paths[index]!r}: {reason}.")
    rows = np.setdiff1d(np.arange(len(images)), list(unread))
    if extraction.is_global_zero:
        FeatureStore(writer.path).keep(rows)
    extraction.strategy.barrier("kept")
    return FeatureStore(writer.path), rows, data.skipped | {data.paths[i]: reason for i, reason in unread.items()}


def _assign(model: ClusterModel, features: FeatureStore, rows: np.ndarray) -> tuple[Assigned, int]:
    """Where each row belongs, and on how many rows the neuralized head and k-means disagree."""
    parts, wrong = [], 0
    for batch in features.batches():
        assignment = model.assign(batch)
        own = model.head.centroids[assignment.cluster]
        distance = (batch - own).square().sum(1)
        parts.append([column.numpy() for column in (*assignment, distance)])
        wrong += disagreements(model.head, batch)
    return Assigned(rows, *(np.concatenate(column) for column in zip(*parts, strict=True))), wrong


def _metrics(
    data: Collection, features: FeatureStore, head: KMeansHead, fitted: Fitted, assigned: Assigned, seed: int
) -> dict[str, Any]:
    """How good the clustering is."""
    sample = _sample(len(assigned.rows), SILHOUETTE_ROWS, seed)
    metrics: dict[str, Any] = {
        "n_images": len(assigned.rows),
        "n_clusters": head.n_clusters,
        "cluster_sizes": np.bincount(assigned.cluster, minlength=head.n_clusters).tolist(),
        "beta": float(fitted.head.beta),
        "n_iter": fitted.n_iter,
        "inertia": fitted.inertia,
        "silhouette": silhouette(features.rows(sample), assigned.cluster[sample]),
    }
    labels = [data.labels[row] for row in assigned.rows]
    if has_labels(labels):
        metrics |= label_agreement(assigned.cluster, labels)
        raw = data.raw_features()
        if raw is not None:
            plain = ScikitKMeans(head.n_clusters, n_init=head.n_init, random_state=seed).fit_predict(raw[assigned.rows])
            metrics["raw_pixels"] = label_agreement(plain, labels)
    return metrics


def _sample(n_rows: int, size: int, seed: int) -> np.ndarray:
    """Numbers of some rows, ascending."""
    chosen = np.random.RandomState(seed).choice(n_rows, min(n_rows, size), replace=False)
    return np.sort(chosen)


def _columns(data: Collection, assigned: Assigned) -> list[list[Any]]:
    """The columns of `assignments.csv`."""
    named = [data.paths[row] for row in assigned.rows], [data.labels[row] for row in assigned.rows]
    numbers = (assigned.cluster, assigned.discriminant, assigned.probability, assigned.runner_up)
    return [named[0], *(column.tolist() for column in numbers), named[1]]


def _show(
    board: TensorBoardLogger,
    data: Collection,
    features: FeatureStore,
    assigned: Assigned,
    metrics: dict[str, Any],
    backbone: Backbone,
    head: KMeansHead,
    seed: int,
) -> None:
    """TensorBoard: sizes, central images, the embedding, and hyper-parameters with the metrics."""
    write_cluster_sizes(board.experiment, metrics["cluster_sizes"])
    for cluster in range(head.n_clusters):
        members = np.flatnonzero(assigned.cluster == cluster)
        central = members[np.argsort(assigned.distance[members], kind="stable")][:GALLERY]
        tiles = [
            side_by_side([enlarged(_photo(data, backbone, assigned.rows[row]))], data.paths[assigned.rows[row]])
            for row in central
        ]
        write_gallery(board.experiment, cluster, tiles)
    sample = _sample(len(assigned.rows), EMBEDDED, seed)
    rows = assigned.rows[sample]
    table = [
        [data.paths[row], str(assigned.cluster[at]), data.labels[row]] for at, row in zip(sample, rows, strict=True)
    ]
    photos = [Image.fromarray(_photo(data, backbone, row)) for row in rows]
    write_embedding(board.experiment, features.rows(sample), photos, table, ["path", "cluster", "label"])
    settings = {
        "backbone": {key: backbone.origin[key] for key in ("name", "weights", "layer", "pool")},
        "head": head.settings(),
        "data": data.source,
        "seed": seed,
    }
    figures = {f"metrics/{name}": value for name, value in metrics.items() if isinstance(value, int | float)}
    board.log_hyperparams(settings, figures)
    board.experiment.flush()


def _photo(data: Collection, backbone: Backbone, row: int) -> np.ndarray:
    """An image as the network saw it, `(H, W, 3)` uint8; grey if it cannot be read any more."""
    try:
        pixels: np.ndarray = backbone.preprocessing(data.load(row)).permute(1, 2, 0).numpy()
        return pixels
    except UnreadableImageError:
        side = backbone.preprocessing.crop
        return torch.full((side, side, 3), 128, dtype=torch.uint8).numpy()


def _report(run: Path, metrics: dict[str, Any]) -> None:
    """What a person wants to know at the end."""
    agreement = f", NMI {metrics['nmi']:.2f} with the labels" if "nmi" in metrics else ""
    baseline = f" (raw pixels: {metrics['raw_pixels']['nmi']:.2f})" if "raw_pixels" in metrics else ""
    skipped = f"; {metrics['n_skipped']} skipped, see skipped.csv" if metrics["n_skipped"] else ""
    say(f"{metrics['n_images']} images in {metrics['n_clusters']} clusters{agreement}{baseline}{skipped}")
    say(f"model and tables: {run}")
    say(f"look at the clusters: tensorboard --logdir {run}")
    say(f"explain them: python explain.py checkpoint={run}")
