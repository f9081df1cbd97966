"""What the script of the page reads: everything that is known of a run, as plain values."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whycluster.clustering.stability import REFITS
from whycluster.explain.clusters import FEWEST_COMPARED, UNLIKE
from whycluster.output.heatmaps import GAP
from whycluster.output.report import sentences
from whycluster.output.report.pictures import Pictures, region_slots
from whycluster.output.report.run_files import CARRIERS, RunFiles
from whycluster.output.report.sheets import COLUMNS

DIGITS = 5  # significant ones, of numbers in the page


def content(run: RunFiles, files: RunFiles, pictures: Pictures, urls: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Collects what the page shows.

    Args:
        run: all images of the run, which figures are of.
        files: the images that the page shows.
        pictures: of its images and concepts.
        urls: kind of sheets `->` where each one is.

    Returns:
        `n_images`; `images`, columns with an entry for each image; `clusters`; `sheets`; `targets`, what the heatmaps
        explain; `missing`, the number of images without a picture; `moves`, from the clusters of another run;
        `limits`, numbers that the script has in common with this package. Images are numbers of rows, pictures of
        slots.
    """
    row_of = {path: row for row, path in enumerate(files.paths)}
    found = {
        "n_images": len(run.paths),
        "moves": run.moves,
        "columns": COLUMNS,
        "sheets": {kind: {"side": sheets.side, "urls": list(urls[kind])} for kind, sheets in pictures.sheets.items()},
        "targets": run.targets,
        "missing": pictures.missing,
        "images": _images(files, pictures),
        "clusters": [_cluster(cluster, run, pictures, row_of) for cluster in run.clusters],
        "limits": {"refits": REFITS, "fewest": FEWEST_COMPARED, "unlike": UNLIKE, "weak": sentences.WEAK, "gap": GAP},
    }
    rounded: dict[str, Any] = _rounded(found)
    return rounded


def _images(files: RunFiles, pictures: Pictures) -> dict[str, Any]:
    names = ("cluster", "runner_up", "discriminant", "probability", "held", "target")
    columns: dict[str, Any] = {name: getattr(files, name).tolist() for name in names}
    return {**columns, "path": files.paths, "label": files.labels, "slot": pictures.images, "file": _files(files)}


def _files(files: RunFiles) -> dict[int, str]:
    """Returns, relative to the page, the picture files whose names do not follow from the paths: row `->` file."""
    found = {}
    for row, path in enumerate(files.paths):
        file = files.file("heatmaps", row).relative_to(files.folder).as_posix()
        if file != f"heatmaps/{path}.png":
            found[row] = file
    return found


def _cluster(
    cluster: Mapping[str, Any], run: RunFiles, pictures: Pictures, row_of: Mapping[str, int]
) -> dict[str, Any]:
    number = cluster["cluster"]
    rows = np.flatnonzero(run.cluster == number)
    word, trust = sentences.stability(cluster["stability"])
    concepts = [
        {
            "channel": concept["channel"],
            "share": concept["share"],
            "images": _rows([region["path"] for region in concept["regions"]], row_of),
            "crops": region_slots(pictures, number, concept),
        }
        for concept in cluster["concepts"]
    ]
    return {
        **{name: cluster[name] for name in ("cluster", "size", "stability", "silhouette", "margin")},
        "word": word,
        "trust": trust,
        "about": sentences.about(cluster, len(run.paths)),
        "labels": sentences.labels_in([run.labels[row] for row in rows]),
        "receipts": sentences.receipts(run.held[rows]),
        "border": sentences.places(cluster["places"]),
        "places": pictures.places.get(number, -1),
        "prototypes": _rows(cluster["prototypes"], row_of),
        "borderline": _rows([one["path"] for one in cluster["borderline"]], row_of),
        "outliers": _rows([one["path"] for one in cluster["outliers"]], row_of),
        "scores": [one["score"] for one in cluster["outliers"]],
        "concepts": concepts,
        "contrasts": cluster["contrasts"],
        "shortcut": _shortcut(cluster.get("shortcut"), row_of),
    }


def _shortcut(found: Mapping[str, Any] | None, row_of: Mapping[str, int]) -> dict[str, Any] | None:
    """Returns what the page says of a cluster that a shortcut may hold together; `None` of any other."""
    if not found or not found["flagged"]:
        return None
    return {
        "warning": found["warning"],
        "evidence": found["evidence"],
        "images": _rows(found["images"][:CARRIERS], row_of),
        "channels": [concept["channel"] for concept in found["concepts"]],
    }


def _rows(paths: Sequence[str], row_of: Mapping[str, int]) -> list[int]:
    return [row_of.get(path, -1) for path in paths]


def _rounded(value: Any) -> Any:
    """Rounds all numbers, and replaces those that are not finite by `None`, as JSON has no NaN."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value
