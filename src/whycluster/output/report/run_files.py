"""What the page reads in the folder of an explain run: its tables, and its clusters."""

import json
import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whycluster.errors import UserError
from whycluster.explain import Target
from whycluster.output.cluster_tables import CLUSTERS, METRICS
from whycluster.output.explanations import file_of
from whycluster.output.moves import MOVES
from whycluster.output.report.labels import unlike_most
from whycluster.output.tables import path_in, read_table, text_in

CARRIERS = 8  # images of a cluster that the page shows of those that may carry an artefact
UNLIKE_MOST = 8  # images of a cluster that the page shows of those whose label is not that of most
CLOSE = 0.05  # of the median discriminant: below, a share of it says nothing
NUMBERS = {"cluster": int, "runner_up": int, "discriminant": float, "probability": float}  # columns of images
TARGET = re.compile(r"assigned|runner_up|\d+(:\d+)?", re.ASCII)  # names of those that are explained
NEEDED = (CLUSTERS, "assignments.csv", "receipts.csv", "heatmaps", "relevance")


@dataclass
class RunFiles:
    """The tables of a run, a row for each image in the order of the page: by cluster, then the surest first.

    Attributes:
        folder: of the run.
        clusters: the content of `clusters.json`.
        paths: of the images, as their collection names them.
        labels: known classes; empty strings where there are none.
        cluster: the cluster of each image, `(N,)`.
        runner_up: the second nearest, `(N,)`.
        discriminant: of the cluster, `(N,)`.
        probability: of the cluster, `(N,)`.
        targets: names of what the run explains.
        target: which of them is shown of each image, `(N,)`.
        held: which share of the discriminant explained arrived at the pixels, `(N,)`; NaN where that is nearly 0.
        row: which row of `assignments.csv` each image is, `(N,)`.
        moves: the content of `moves.json`; `None`: there is none.
        metrics: the content of `metrics.json`; empty: there is none.
    """

    folder: Path
    clusters: list[dict[str, Any]]
    paths: list[str]
    labels: list[str]
    cluster: np.ndarray
    runner_up: np.ndarray
    discriminant: np.ndarray
    probability: np.ndarray
    targets: list[str]
    target: np.ndarray
    held: np.ndarray
    row: np.ndarray
    moves: dict[str, Any] | None
    metrics: dict[str, Any]

    def file(self, kind: str, row: int) -> Path:
        """Returns the file of an image in `heatmaps` or `relevance`."""
        return file_of(self.folder, kind, Target(self.targets[self.target[row]]), len(self.targets), self.paths[row])

    def members(self, cluster: int) -> np.ndarray:
        """Returns the rows of the images of a cluster, the surest first."""
        return np.arange(*np.searchsorted(self.cluster, [cluster, cluster + 1]))

    def unlike_most(self, cluster: int) -> list[int]:
        """Returns the rows of images whose label is not that of most of the cluster, the rarest label first."""
        rows = self.members(cluster)
        return rows[unlike_most([self.labels[row] for row in rows])].tolist()  # type: ignore[no-any-return]

    def subset(self, rows: np.ndarray) -> "RunFiles":
        """Returns the same with some of the images, in the order given."""
        columns = ("cluster", "runner_up", "discriminant", "probability", "target", "held", "row")
        return RunFiles(
            self.folder,
            self.clusters,
            [self.paths[row] for row in rows],
            [self.labels[row] for row in rows],
            **{name: getattr(self, name)[rows] for name in columns},
            targets=self.targets,
            moves=self.moves,
            metrics=self.metrics,
        )


def read_run(folder: Path) -> RunFiles:
    """Reads the tables of an explain run.

    Raises:
        UserError: if a file is missing that the page needs.
    """
    missing = [name for name in NEEDED if not (folder / name).exists()]
    if missing:
        raise UserError(
            f"the page needs {', '.join(missing)} of an explain run, which {str(folder)!r} does not hold; "
            "name the folder of a finished one by hydra.run.dir=..."
        )
    clusters = json.loads((folder / CLUSTERS).read_text(encoding="utf-8"))
    paths, labels = [], []
    numbers = {name: array("d") for name in NUMBERS}  # and no dict for each of a million images
    for row in read_table(folder / "assignments.csv"):
        paths.append(_path(row["path"], folder))
        labels.append(text_in(row["label"]))
        for name, column in numbers.items():
            column.append(float(row[name]))
    columns: dict[str, Any] = {name: np.array(column).astype(NUMBERS[name]) for name, column in numbers.items()}
    targets, target, held = _receipts(folder / "receipts.csv", paths, columns["cluster"], columns["runner_up"])
    moves, metrics = (
        json.loads((folder / name).read_text(encoding="utf-8")) if (folder / name).exists() else None
        for name in (MOVES, METRICS)
    )
    shown: dict[str, Any] = {"targets": targets, "target": target, "held": held, "row": np.arange(len(paths))}
    found = RunFiles(folder, clusters, paths, labels, **columns, **shown, moves=moves, metrics=metrics or {})
    return found.subset(np.lexsort((-found.discriminant, found.cluster)))


def thinned(files: RunFiles, most: int) -> RunFiles:
    """Keeps about so many images: all that `clusters.json` names, those of rare labels, and an even sample of others.

    Args:
        files: of the run.
        most: images; more are only kept where `clusters.json` names more.
    """
    if len(files.paths) <= most:
        return files
    named = {path for cluster in files.clusters for path in named_images(cluster)}
    kept = np.array([path in named for path in files.paths])
    for cluster in files.clusters:
        kept[files.unlike_most(cluster["cluster"])[:UNLIKE_MOST]] = True
    others = np.flatnonzero(~kept)
    kept[others[np.linspace(0, len(others) - 1, max(0, most - int(kept.sum()))).round().astype(int)]] = True
    return files.subset(np.flatnonzero(kept))


def shown_channels(cluster: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the channels of an entry of `clusters.json` that have `regions`: its concepts first."""
    return [*cluster["concepts"], *cluster.get("examples", ())]


def named_images(cluster: dict[str, Any]) -> list[str]:
    """Returns the paths that an entry of `clusters.json` names."""
    one_each = [*cluster["borderline"], *cluster["outliers"]]
    regions = [region for channel in shown_channels(cluster) for region in channel["regions"]]
    carriers = (cluster.get("shortcut") or {}).get("images", [])[:CARRIERS]
    return [*cluster["prototypes"], *carriers, *(entry["path"] for entry in [*one_each, *regions])]


def _path(cell: str, folder: Path) -> str:
    """Returns the path in a cell; `UserError` if the files that it names would lie outside of the run."""
    path = path_in(cell)
    if path.startswith("/") or ".." in path.split("/"):
        raise UserError(
            f"{str(folder / 'assignments.csv')!r} names {path!r}, which is not below the folder of images; the file "
            "was changed."
        )
    return path


def _receipts(
    file: Path, paths: list[str], clusters: np.ndarray, runners_up: np.ndarray
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Reads targets, and of each image which of them is shown, and which share of its discriminant the pixels hold.

    Where a discriminant is so near to 0 that the share would say nothing, it is NaN.

    Of many targets the one is shown that says why an image is in its cluster: against its runner-up, if pairs were
    explained.
    """
    place = {path: row for row, path in enumerate(paths)}
    targets: dict[str, int] = {}
    shown, discriminants, pixels = np.full(len(paths), -1), np.zeros(len(paths)), np.zeros(len(paths))
    best = np.zeros(len(paths), int)
    for row in read_table(file):
        at, name = place.get(path_in(row["path"])), text_in(row["target"])
        if not TARGET.fullmatch(name):
            raise UserError(f"{str(file)!r} names the target {name!r}, which no run has; the file was changed.")
        number = targets.setdefault(name, len(targets))
        if at is None:
            continue
        explained, _, against = name.partition(":")
        is_own = explained == str(clusters[at])
        fits = 3 if is_own and against in ("", str(runners_up[at])) else 2 if is_own else 1
        if fits > best[at]:
            discriminants[at], pixels[at] = float(row["discriminant"]), float(row["pixels"])
            shown[at], best[at] = number, fits
    if (shown < 0).any():
        raise UserError(f"{str(file)!r} has no row for {paths[int(shown.argmin())]!r}; the run has to be made again.")
    sizes = np.abs(discriminants)
    close = sizes <= CLOSE * (np.median(sizes) if len(sizes) else 0)
    return list(targets), shown, np.where(close, np.nan, pixels) / np.where(close, 1, discriminants)
