"""The second part of an explain run: explanations of images `->` what each cluster is about."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whycluster.clustering.extraction import features_in
from whycluster.clustering.features import FeatureStore
from whycluster.data import PreparedImages, Shards
from whycluster.explain import Explainer
from whycluster.explain.clusters import ClusterDescription, Membership, concept_relevance, describe_clusters, spaced
from whycluster.explain.concepts import concept_heatmaps_of
from whycluster.explain.image_properties import file_properties
from whycluster.explain.shortcuts import Sample, Shortcut, find_shortcuts
from whycluster.files import write_json
from whycluster.output.cluster_tables import CLUSTERS
from whycluster.output.concepts import CONCEPT_RELEVANCE, Region, region_of, write_concept
from whycluster.output.console import say
from whycluster.output.explanations import GRID, assignments
from whycluster.runs.folders import Run

SAMPLED = 4000  # images by which clusters are searched for shortcuts, of all clusters together
MOST_SAMPLED, FEWEST_SAMPLED = 300, 30  # of one cluster
FROM_TRAINING = ("stability", "verdict", "silhouette")  # of a cluster


def describe(
    explainer: Explainer, images: PreparedImages, shards: Shards, run: Run, trained: Path
) -> list[dict[str, Any]]:
    """Describes the clusters of the images that were explained, and writes `clusters.json` and pictures of concepts.

    Args:
        explainer: says by which rules.
        images: all images of the run.
        shards: what is known of each of them.
        run: whose folder is written to.
        trained: the model file; what its run says of the clusters is taken over.

    Returns:
        The content of `clusters.json`.
    """
    rows, where = assignments(shards)  # numbers of the images in the collection, and their assignments
    features = FeatureStore.write(
        run.state / "features.npy", features_in(shards), len(rows), explainer.model.backbone.n_features
    )
    concepts = FeatureStore.write(
        run.folder / CONCEPT_RELEVANCE,
        concept_relevance(explainer, features, where["cluster"]),
        len(rows),
        explainer.model.backbone.n_channels,
    )
    assigned = Membership(where["cluster"], where["discriminant"], where["runner_up"])
    found = describe_clusters(explainer, features, concepts, assigned)
    readable = PreparedImages(images.collection, images.prepare, rows.tolist())
    regions = _regions(explainer, readable, assigned.cluster, found, run.folder)
    paths = [images.collection.paths[row] for row in rows]
    known = _known_from_training(trained)
    places = _places(shards, assigned.cluster, explainer.model.n_clusters)
    sample = _sample(shards, images, rows, assigned.cluster)
    shortcuts: dict[int, Shortcut] = {}
    if sample is not None:
        say("looking for shortcuts")
        shortcuts = find_shortcuts(explainer, readable, features, sample)
    clusters = [
        {
            **_plain(one, paths, assigned, regions, known),
            "places": None if places is None else places[one.cluster],
            "shortcut": _plain_shortcut(shortcuts.get(one.cluster), paths),
        }
        for one in found
    ]
    write_json(run.folder / CLUSTERS, clusters)
    return clusters


def _regions(
    explainer: Explainer, images: PreparedImages, clusters: np.ndarray, found: list[ClusterDescription], folder: Path
) -> dict[tuple[int, int], list[Region]]:
    """Computes the regions in which channels are shown, `(cluster, channel)` `->` regions, and writes them."""
    wanted: dict[int, list[int]] = {}
    for one in found:
        for channel, rows in one.regions.items():
            for row in rows:
                wanted.setdefault(row, []).append(channel)
    cut = {
        (each.row, each.channel): region_of(each) for each in concept_heatmaps_of(explainer, images, clusters, wanted)
    }
    regions = {}
    for one in found:
        shares: Mapping[int, float] = dict(one.concepts)
        for channel, rows in one.regions.items():
            key = one.cluster, channel
            regions[key] = [cut[row, channel] for row in rows if (row, channel) in cut]
            if regions[key]:
                write_concept(folder, *key, shares.get(channel), regions[key])
    return regions


def _known_from_training(model: Path) -> Mapping[int, Mapping[str, Any]]:
    """Returns what the train run of a model says of each cluster; nothing where the model lies elsewhere."""
    file = model.with_name(CLUSTERS)
    if not file.is_file():
        return {}
    return {row["cluster"]: row for row in json.loads(file.read_text(encoding="utf-8"))}


def _places(shards: Shards, clusters: np.ndarray, n_clusters: int) -> list[list[list[float]]] | None:
    """Computes the mean heatmap of each cluster, as shares of the sum of its absolute values; `None` if unknown."""
    sums, first = torch.zeros(n_clusters, GRID, GRID, dtype=torch.float64), 0
    for shard in shards:
        own = torch.from_numpy(clusters[first : first + len(shard["images"])])
        if len(own) and "places" not in shard:
            return None
        if len(own):
            sums.index_add_(0, own, shard["places"].double())
        first += len(own)
    shares: list[list[list[float]]] = (sums / sums.abs().sum((1, 2), keepdim=True).clamp(min=1e-300)).tolist()
    return shares


def _sample(shards: Shards, images: PreparedImages, rows: np.ndarray, clusters: np.ndarray) -> Sample | None:
    """Collects what is known of some images of each cluster, evenly spaced; `None` where assigned clusters were not
    explained.
    """
    numbers = np.unique(clusters)
    most = min(MOST_SAMPLED, max(FEWEST_SAMPLED, SAMPLED // len(numbers)))
    chosen = np.sort(np.concatenate([spaced(np.flatnonzero(clusters == cluster), most) for cluster in numbers]))
    known: dict[str, list[torch.Tensor]] = {"properties": [], "places": [], "thumbnails": []}
    first = 0
    for shard in shards:
        end = first + len(shard["images"])
        own = torch.from_numpy(chosen[(chosen >= first) & (chosen < end)] - first)
        if len(own) and not known.keys() <= shard.keys():
            return None
        for name, parts in known.items() if len(own) else ():
            parts.append(shard[name][own])
        first = end
    found = {name: torch.cat(parts).numpy() for name, parts in known.items()}
    of_files = [file_properties(images.collection.file(int(row))) for row in rows[chosen]]
    properties = np.concatenate([found["properties"], np.array(of_files, np.float32)], 1)
    return Sample(chosen, clusters[chosen], properties, found["places"], found["thumbnails"])


def _plain_shortcut(shortcut: Shortcut | None, paths: list[str]) -> dict[str, Any] | None:
    """Returns the entry of a shortcut in `clusters.json`."""
    if shortcut is None:
        return None
    plain = shortcut._asdict()
    images = [paths[row] for row in plain.pop("rows")]
    return {**plain, "images": images, "concepts": [concept._asdict() for concept in shortcut.concepts]}


def _plain(
    one: ClusterDescription,
    paths: list[str],
    assigned: Membership,
    regions: Mapping[tuple[int, int], list[Region]],
    known: Mapping[int, Mapping[str, Any]],
) -> dict[str, Any]:
    """Returns an entry of `clusters.json`."""
    shown = {
        channel: [{"path": paths[region.row], "box": list(region.box)} for region in regions[one.cluster, channel]]
        for channel in one.regions
    }
    concepts = [{**concept._asdict(), "regions": shown.pop(concept.channel)} for concept in one.concepts]
    return {
        "cluster": one.cluster,
        "size": int((assigned.cluster == one.cluster).sum()),
        **{name: known.get(one.cluster, {}).get(name) for name in FROM_TRAINING},
        "margin": float(assigned.discriminant[assigned.cluster == one.cluster].mean()),
        "prototypes": [paths[row] for row in one.prototypes],
        "borderline": [
            {
                "path": paths[row],
                "rival": int(assigned.runner_up[row]),
                "discriminant": float(assigned.discriminant[row]),
            }
            for row in one.borderline
        ],
        "outliers": [{"path": paths[row], "score": score} for row, score in one.outliers],
        "concepts": concepts,
        "examples": [{"channel": channel, "regions": found} for channel, found in shown.items()],
        "contrasts": [
            {**contrast._asdict(), "concepts": [concept._asdict() for concept in contrast.concepts]}
            for contrast in one.contrasts
        ],
    }
