"""What the script of the page reads: everything that is known of a run, as plain values."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whycluster.clustering.stability import DOUBTFUL, REFITS, STABLE
from whycluster.explain.clusters import FEWEST_COMPARED, UNLIKE, spaced
from whycluster.output.cluster_tables import is_flagged
from whycluster.output.concepts import CONCEPT_RELEVANCE
from whycluster.output.heatmaps import GAP
from whycluster.output.report import sentences
from whycluster.output.report.first_looks import first_looks
from whycluster.output.report.image_concepts import concepts_of_images, departures, relevance_of_run
from whycluster.output.report.labels import labels_in
from whycluster.output.report.pictures import Pictures, region_slots
from whycluster.output.report.run_files import CARRIERS, UNLIKE_MOST, RunFiles, shown_channels
from whycluster.output.report.sheets import COLUMNS

DIGITS = 5  # significant ones, of numbers in the page
COMPARED = 1000  # images of a cluster that its outliers are compared with


def content(run: RunFiles, files: RunFiles, pictures: Pictures, urls: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Collects what the page shows.

    Args:
        run: all images of the run, which figures are of.
        files: the images that the page shows.
        pictures: of its images and concepts.
        urls: kind of sheets `->` where each one is.

    Returns:
        `n_images`; `n_clusters` of the model; `made`, by which model and rules; `first`, what to look at first;
        `images`, columns with an entry for each image; `clusters`; `sheets`; `targets`, what the heatmaps explain;
        `missing`, the number of images without a picture; `moves`, from the clusters of another run; `limits`, numbers
        that the script has in common with this package. Images are numbers of rows, pictures of slots.
    """
    relevance = relevance_of_run(run.folder / CONCEPT_RELEVANCE, len(run.paths))
    unlike = {cluster["cluster"]: run.unlike_most(cluster["cluster"]) for cluster in run.clusters}
    row_of = {path: row for row, path in enumerate(files.paths)}
    found = {
        "n_images": len(run.paths),
        "n_clusters": run.metrics.get("n_clusters"),
        "made": sentences.made(run.metrics),
        "first": first_looks(run.clusters, run.cluster, run.runner_up, run.labels, sum(map(len, unlike.values()))),
        "moves": run.moves,
        "columns": COLUMNS,
        "sheets": {kind: {"side": sheets.side, "urls": list(urls[kind])} for kind, sheets in pictures.sheets.items()},
        "targets": run.targets,
        "missing": pictures.missing,
        "images": _images(files, pictures, relevance),
        "clusters": [
            {
                **_cluster(cluster, run, pictures, row_of),
                "departures": _departures(run, cluster, relevance),
                "unlike": _unlike(run, cluster["cluster"], unlike[cluster["cluster"]], row_of),
            }
            for cluster in run.clusters
        ],
        "limits": _limits(run),
    }
    rounded: dict[str, Any] = _rounded(found)
    return rounded


def _limits(run: RunFiles) -> dict[str, Any]:
    """Returns the numbers that the script has in common with this package, and those that others are compared with."""
    distances = [contrast["distance"] for cluster in run.clusters for contrast in cluster["contrasts"]]
    return {
        "refits": REFITS,
        "stable": STABLE,
        "doubtful": DOUBTFUL,
        "fewest": FEWEST_COMPARED,
        "unlike": UNLIKE,
        "weak": sentences.WEAK,
        "held": sentences.HELD,
        "in_full": sentences.IN_FULL,
        "gap": GAP,
        "lead": float(np.median(run.discriminant)) if len(run.paths) else None,
        "distance": float(np.median(distances)) if distances else None,
    }


def _images(files: RunFiles, pictures: Pictures, relevance: np.ndarray | None) -> dict[str, Any]:
    names = ("cluster", "runner_up", "discriminant", "probability", "held", "target")
    columns: dict[str, Any] = {name: getattr(files, name).tolist() for name in names}
    columns["channels"], columns["shares"] = None, None
    if relevance is not None:
        columns["channels"], columns["shares"] = concepts_of_images(relevance, files.row)
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
    rows = run.members(number)
    word, badge, trust = sentences.stability(cluster["stability"])
    channels = [
        {
            **{name: value for name, value in channel.items() if name != "regions"},
            "images": _rows([region["path"] for region in channel["regions"]], row_of),
            "crops": region_slots(pictures, number, channel),
        }
        for channel in shown_channels(cluster)
    ]
    n_concepts = len(cluster["concepts"])
    return {
        **{name: cluster[name] for name in ("cluster", "size")},
        "word": word,
        "badge": badge,
        "trust": trust,
        "about": sentences.about(cluster, len(run.paths)),
        "labels": labels_in([run.labels[row] for row in rows]),
        "receipts": sentences.receipts(run.held[rows]),
        "border": sentences.places(cluster["places"]),
        "places": pictures.places.get(number, -1),
        "prototypes": _rows(cluster["prototypes"], row_of),
        "borderline": _rows([one["path"] for one in cluster["borderline"]], row_of),
        "outliers": _rows([one["path"] for one in cluster["outliers"]], row_of),
        "scores": [one["score"] for one in cluster["outliers"]],
        "concepts": channels[:n_concepts],
        "examples": channels[n_concepts:],
        "contrasts": cluster["contrasts"],
        "shortcut": _shortcut(cluster, row_of),
    }


def _departures(run: RunFiles, cluster: Mapping[str, Any], relevance: np.ndarray | None) -> list[dict[str, Any]]:
    """Says of each outlier of a cluster in which concepts it differs; nothing where that is not known."""
    members = run.members(cluster["cluster"])
    named = [one["path"] for one in cluster["outliers"]]
    row_of = {run.paths[member]: run.row[member] for member in members} if named else {}
    if relevance is None or not named or not row_of.keys() >= set(named):
        return []
    rows = [row_of[path] for path in named]
    found = departures(relevance[rows], relevance[run.row[spaced(members, COMPARED)]])
    return [{"text": sentences.departures(one), "channels": [each.channel for each in one]} for one in found]


def _unlike(run: RunFiles, cluster: int, rows: list[int], row_of: Mapping[str, int]) -> dict[str, Any]:
    """Returns the images of a cluster that have another label than most: how many, some, and how frequent theirs is."""
    counts = Counter(run.labels[row] for row in run.members(cluster) if run.labels[row])
    few = rows[:UNLIKE_MOST]
    return {
        "n": len(rows),
        "most": counts.most_common(1)[0][0] if rows else "",
        "images": _rows([run.paths[row] for row in few], row_of),
        "counts": [counts[run.labels[row]] for row in few],
    }


def _shortcut(cluster: Mapping[str, Any], row_of: Mapping[str, int]) -> dict[str, Any] | None:
    """Returns what the page says of a cluster that a shortcut may hold together; `None` of any other."""
    if not is_flagged(cluster):
        return None
    found = cluster["shortcut"]
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
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value
