"""Does the search for shortcuts find clusters that are held together by an artefact, and no others?

    WHYCLUSTER_ASSETS=… PYTHONPATH=tests python tests/benchmarks/shortcuts.py OUT.jsonl [--seeds 0 1] [--clean 20]
    … tests/benchmarks/shortcuts.py OUT.jsonl --table

Photographs (SqueezeNet, K=5, L2), some of which carry an artefact (see `planting.py`), drawn without regard to what
they show. A line of JSON for each run is added to the file, and runs that it holds are not made again; features
are kept in a folder beside it.

The truth: an artefact holds a cluster if at least 60 % of its images carry it, and at least halfway from the prevalence
to all of them, and if at least half of these images belong elsewhere once the same image without the artefact is given.
A cluster is judged by at most `SAMPLED` of its images. Retrieval is that of the images that carry the artefact among
all sampled ones, of any cluster, by how much they look like the typical ones of the suspected region.
"""

import argparse
import json
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from planting import ARTEFACTS, planted
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, roc_auc_score
from torch.nn.functional import adaptive_avg_pool2d
from torchvision.transforms.functional import pil_to_tensor

from whycluster.backbones import Backbone, build_backbone
from whycluster.clustering.feature_steps import FeatureSettings, FeatureSteps
from whycluster.clustering.features import FeatureStore
from whycluster.data import Collection, Folder, PreparedImages
from whycluster.explain import ClusterModel, Explainer
from whycluster.explain.image_properties import OF_FILE, pixel_properties, thumbnails
from whycluster.explain.relevance_places import relevance_shares
from whycluster.explain.shortcuts import Sample, Shortcut, find_shortcuts
from whycluster.explain.suspected_regions import most_suspect
from whycluster.explain.targets import Target
from whycluster.heads import neuralize

N_CLUSTERS = 5
SAMPLED = 12  # images of a cluster
PREVALENCES = (0.1, 0.3, 0.5)
CLEAN = 0.8  # of the photographs, in a run without artefacts
ASSETS = Path(os.environ["WHYCLUSTER_ASSETS"])


class Given(NamedTuple):
    """Images of a run, and their features."""

    photos: np.ndarray  # (N, 224, 224, 3)
    features: np.ndarray  # (N, D)


class Pictures(Collection):
    """Images that lie in memory."""

    def __init__(self, photos: np.ndarray) -> None:
        self.photos, self.paths = photos, [str(number) for number in range(len(photos))]

    def load(self, index: int) -> Image.Image:
        return Image.fromarray(self.photos[index])


@cache
def squeezenet() -> Backbone:
    return build_backbone("squeezenet1_0", str(ASSETS / "squeezenet1_0.pt"))


def as_tensor(photos: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(photos).permute(0, 3, 1, 2).contiguous()


def features_of(photos: np.ndarray, kept: Path) -> np.ndarray:
    """Computes features, or reads those that are kept in a file."""
    if not kept.exists():
        with torch.no_grad():
            features = torch.cat([squeezenet()(part) for part in as_tensor(photos).split(4)])
        kept.parent.mkdir(exist_ok=True)
        np.save(kept, features.numpy())
    return np.load(kept)


class Photos:
    """The photographs, with each artefact and without.

    Args:
        kept: the folder of their features.
    """

    def __init__(self, kept: Path) -> None:
        self.kept = kept
        folder = Folder(ASSETS / "photos")
        photos = [squeezenet().preprocessing(folder.load(at)) for at in range(len(folder.paths))]
        clean = torch.stack(photos).permute(0, 2, 3, 1).contiguous().numpy()
        self.clean = Given(clean, features_of(clean, kept / "clean.npy"))

    def given(self, artefact: str) -> Given:
        photos = planted(self.clean.photos, artefact)
        return Given(photos, features_of(photos, self.kept / f"{artefact.replace('/', '_')}.npy"))


def clustered(features: np.ndarray, n_clusters: int, seed: int, steps: FeatureSteps) -> KMeans:
    return KMeans(n_clusters, n_init=10, random_state=seed).fit(steps(torch.from_numpy(features)).numpy())


def held_clusters(fit: KMeans, clean: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Whether the artefact holds each cluster, `(K,)`, by the features of the images without it."""
    held = []
    without = fit.predict(torch.nn.functional.normalize(torch.from_numpy(clean)).numpy())
    for k in range(fit.n_clusters):
        own = fit.labels_ == k
        leaving = (without[own & marked] != k).mean() if (own & marked).any() else 0
        held.append(marked[own].mean() >= max(0.6, (1 + marked.mean()) / 2) and leaving >= 0.5)
    return np.array(held)


def sampled(explainer: Explainer, photos: np.ndarray, labels: np.ndarray, seed: int) -> tuple[Sample, np.ndarray]:
    """A sample of each cluster, and the heatmaps, `(n, H, W)`."""
    random = np.random.RandomState(seed)
    some = [random.permutation(np.flatnonzero(labels == k))[:SAMPLED] for k in range(labels.max() + 1)]
    rows = np.sort(np.concatenate(some))
    images = as_tensor(photos[rows])
    found = [explainer.explain_targets(part, [Target("assigned")])[0].heatmap for part in images.split(4)]
    heatmaps = torch.cat(found)
    places = adaptive_avg_pool2d(heatmaps[:, None], 14)[:, 0].numpy()
    properties = np.pad(pixel_properties(images).numpy(), ((0, 0), (0, len(OF_FILE))))
    return Sample(rows, labels[rows], properties, places, thumbnails(images).numpy()), heatmaps.numpy()


def found_in(photos: np.ndarray, features: np.ndarray, fit: KMeans, seed: int) -> tuple[dict[int, Shortcut], Any, Any]:
    x = torch.from_numpy(features)
    steps = FeatureSteps(squeezenet().widths)
    centroids = torch.from_numpy(fit.cluster_centers_.astype(np.float32))
    explainer = Explainer(ClusterModel(squeezenet(), neuralize(centroids, steps(x)), steps=steps))
    sample, heatmaps = sampled(explainer, photos, fit.labels_, seed)
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore.write(Path(folder) / "features.npy", [x], *x.shape)
        images = PreparedImages(Pictures(photos), pil_to_tensor)
        return find_shortcuts(explainer, images, store, sample), sample, heatmaps


def agreement_without(features: np.ndarray, clean: np.ndarray, channels: list[int], seed: int) -> float:
    """Agreement of the clustering without some channels with that of the clean photographs, ARI."""
    widths = squeezenet().widths
    settings = FeatureSettings(drop=channels or None)
    again = clustered(features, N_CLUSTERS, seed, settings.fit([torch.from_numpy(features)], widths))
    reference = clustered(clean, N_CLUSTERS, seed, FeatureSteps(widths))
    return float(adjusted_rand_score(reference.labels_, again.labels_))


def run_planted(given: Photos, artefact: str, prevalence: float, seed: int) -> dict[str, Any]:
    """Plants, clusters and judges."""
    clean, full = given.clean, given.given(artefact)
    n = len(clean.photos)
    marked = np.isin(np.arange(n), np.random.RandomState(seed).choice(n, round(prevalence * n), replace=False))
    photos = np.where(marked[:, None, None, None], full.photos, clean.photos)
    features = np.where(marked[:, None], full.features, clean.features)
    fit = clustered(features, N_CLUSTERS, seed, FeatureSteps(squeezenet().widths))
    held = held_clusters(fit, clean.features, marked)
    shortcuts, sample, heatmaps = found_in(photos, features, fit, seed)
    mask = np.abs(full.photos.astype(int) - clean.photos).max(3) > 8
    clusters = []
    for k, shortcut in shortcuts.items():
        own = sample.rows[sample.clusters == k]
        entry = {**shortcut._asdict(), "held": bool(held[k]), "marked": float(marked[fit.labels_ == k].mean())}
        if held[k]:
            in_cluster = sample.clusters == k
            shares = relevance_shares(sample.places)
            suspect = most_suspect(shares, sample.pixels, np.flatnonzero(in_cluster), np.flatnonzero(~in_cluster))[0]
            entry["retrieval"] = float(roc_auc_score(marked[sample.rows], suspect.similarity))
        inside = [heatmaps[at].clip(min=0)[mask[row]].sum() / heatmaps[at].clip(min=0).sum()
                  for at, row in enumerate(sample.rows) if row in own and marked[row]]  # fmt: skip
        entry["inside"] = float(np.mean(inside)) if inside else None
        if held[k]:
            channels = [concept.channel for concept in shortcut.concepts]
            entry["ari"] = [agreement_without(features, clean.features, some, seed) for some in ([], channels)]
        clusters.append(entry)
    return {"artefact": artefact, "prevalence": prevalence, "seed": seed, "clusters": clusters}


def run_clean(given: Photos, seed: int) -> dict[str, Any]:
    """Judges clusters of a part of the photographs, without artefacts; K is 4 to 8."""
    clean = given.clean
    n = len(clean.photos)
    rows = np.sort(np.random.RandomState(seed).choice(n, round(CLEAN * n), replace=False))
    features = clean.features[rows]
    fit = clustered(features, 4 + seed % 5, seed, FeatureSteps(squeezenet().widths))
    shortcuts, _, _ = found_in(clean.photos[rows], features, fit, seed)
    return {"artefact": None, "seed": seed, "clusters": [one._asdict() for one in shortcuts.values()]}


def table(runs: list[dict[str, Any]]) -> None:
    """Prints what the runs say, in Markdown."""
    print("| artefact | prevalence | runs | clusters held | of these flagged | others flagged | AUROC of the score | "
          "AUROC of retrieval | relevance inside | ARI before, after dropping |\n|" + " --- |" * 10)  # fmt: skip
    keys = sorted({(run["artefact"], run["prevalence"]) for run in runs if run["artefact"]})
    names = [*[(artefact, prevalence) for artefact, prevalence in keys], ("logo, text, border", "≥ 0.3")]
    for artefact, prevalence in names:
        regional = artefact == "logo, text, border"
        chosen = [run for run in runs if run["artefact"] and (
            run["prevalence"] >= 0.3 and "," in run["artefact"] if regional
            else (run["artefact"], run["prevalence"]) == (artefact, prevalence))]  # fmt: skip
        clusters = [one for run in chosen for one in run["clusters"]]
        held = [one for one in clusters if one["held"]]
        others = [one for one in clusters if not one["held"]]
        truth = [one["held"] for one in clusters]
        auroc = f"{roc_auc_score(truth, [one['score'] for one in clusters]):.2f}" if held and others else ""
        retrieval = [one["retrieval"] for one in held if "retrieval" in one]
        inside = [one["inside"] for one in held if one["inside"] is not None]
        aris = np.array([one["ari"] for one in held])
        better = (
            f"{aris[:, 0].mean():.2f}, {aris[:, 1].mean():.2f}; higher in {(aris[:, 1] > aris[:, 0]).sum()}"
            if held
            else ""
        )
        print(f"| {artefact} | {prevalence} | {len(chosen)} | {len(held)} | {sum(o['flagged'] for o in held)} | "
              f"{sum(o['flagged'] for o in others)} of {len(others)} | {auroc} | "
              f"{f'{np.mean(retrieval):.2f} ({len(retrieval)})' if retrieval else ''} | "
              f"{f'{np.mean(inside):.0%}' if inside else ''} | {better} |")  # fmt: skip
    clean = [run for run in runs if not run["artefact"]]
    alarms = [one["warning"] for run in clean for one in run["clusters"] if one["flagged"]]
    n_clusters = sum(len(run["clusters"]) for run in clean)
    print(f"\n{len(clean)} runs without artefacts, {n_clusters} clusters: {len(alarms)} flagged")
    print(*alarms, sep="\n")


def main() -> None:
    """Makes the runs that are missing, or prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(5)))
    parser.add_argument("--artefacts", nargs="*", default=list(ARTEFACTS))
    parser.add_argument("--prevalences", type=float, nargs="*", default=list(PREVALENCES))
    parser.add_argument("--clean", type=int, nargs="*", default=[], help="seeds of runs without artefacts")
    options = parser.parse_args()
    lines = options.file.read_text().splitlines() if options.file.exists() else []
    runs = [json.loads(line) for line in lines]
    if options.table:
        return table(runs)
    done = {(run["artefact"], run.get("prevalence"), run["seed"]) for run in runs}
    wanted: list[tuple[Any, Any, int]] = [(None, None, seed) for seed in options.clean]
    for seed in options.seeds:
        wanted += [(artefact, prevalence, seed) for artefact in options.artefacts for prevalence in options.prevalences]
    given = Photos(options.file.with_suffix(".features"))
    for key in wanted:
        if key not in done:
            run = run_clean(given, key[2]) if key[0] is None else run_planted(given, *key)
            with open(options.file, "a") as file:
                file.write(json.dumps(run) + "\n")
    return None


if __name__ == "__main__":
    main()
