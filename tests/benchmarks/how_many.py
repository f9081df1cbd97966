"""How many clusters do several methods choose, where the number of groups is known? What `head.n_clusters=auto` is by.

    WHYCLUSTER_ASSETS=… PYTHONPATH=tests python tests/benchmarks/how_many.py [photos digits …]

A row for each collection whose name holds one of the words, in Markdown: the number that each method chooses from 2 to
20; at the end, the mean of |K - true|. All methods judge the same fits of k-means to the principal components; `*`
marks collections of which `choose_n_clusters` says that their features do not tell.

Silhouette (Rousseeuw 1987), in the features and in the components; the same of those that are stable only; ours:
silhouette above that of rows without groups, of those that are stable. VRC: Caliński and Harabasz 1974. DB: Davies and
Bouldin 1979. Gap: Tibshirani, Walther, Hastie 2001, with uniform rows in the box of the components, the first number
within one standard error of the next. PS: Tibshirani and Walther 2005, the largest number of strength 0.8. ARI: that
of largest stability (Ben-Hur, Elisseeff, Guyon 2002), and the largest number of stability 0.8.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from defaults import resnet56
from sklearn.cluster import KMeans
from sklearn.datasets import load_wine, make_blobs
from sklearn.decomposition import PCA
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_score

from whycluster.backbones import Backbone, build_backbone
from whycluster.clustering.how_many import COMPONENTS, LEAST_STABILITY, N_INIT, HowMany, choose_n_clusters
from whycluster.data import Collection, Digits, Folder

NUMBERS = np.arange(2, 21)
HALVES, BOXES = 8, 3

Rows = tuple[np.ndarray, np.ndarray]  # features (N, D) float32 and labels (N,)


def features_of(backbone: Backbone, collection: Collection) -> Rows:
    images = torch.stack([backbone.preprocessing(collection.load(at)) for at in range(len(collection.paths))])
    with torch.no_grad():
        features = torch.cat([backbone(some) for some in images.split(8)])
    return features.numpy(), np.array(collection.labels)


def normalised(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def of_classes(rows: Rows, n: int) -> Rows:
    """The rows of the first so many classes."""
    chosen = np.isin(rows[1], np.unique(rows[1])[:n])
    return rows[0][chosen], rows[1][chosen]


def collections(assets: Path) -> Iterator[tuple[str, Rows]]:
    squeezenet = build_backbone("squeezenet1_0", str(assets / "squeezenet1_0.pt"))
    glyphnet = build_backbone("glyphnet", "DEFAULT", pool="flatten")
    made = {
        "digits": (features_of(glyphnet, Digits()), 4),
        "photos, SqueezeNet": (features_of(squeezenet, Folder(assets / "photos")), 3),
        "CIFAR-10, SqueezeNet": (features_of(squeezenet, Folder(assets / "cifar10")), 5),
        "CIFAR-10, ResNet-56": (features_of(resnet56(assets), Folder(assets / "cifar10")), 5),
    }
    for name, (rows, few) in made.items():
        for part, chosen in ((name, rows), (f"{few} of {name}", of_classes(rows, few))):
            yield f"{part}, raw", chosen
            yield f"{part}, L2", (normalised(chosen[0]), chosen[1])
    x, y = load_wine(return_X_y=True)
    yield "wine, standardised", (((x - x.mean(0)) / x.std(0)).astype(np.float32), y)
    for name, spread in (("blobs well apart", 1.0), ("blobs overlapping", 2.5)):
        for n in (3, 6, 15):
            x, y = make_blobs(1500, 16, centers=n, cluster_std=spread, center_box=(-4, 4), random_state=n)
            yield f"{name}, {n}", (x.astype(np.float32), y)


def prediction_strength(z: np.ndarray, n_clusters: int, random: np.random.RandomState) -> float:
    """How often two rows of one half that share a cluster do so by the other half's centroids; the worst cluster."""
    order = random.permutation(len(z))
    one, other = order[: len(z) // 2], order[len(z) // 2 :]
    own = KMeans(n_clusters, n_init=3, random_state=0).fit_predict(z[other])
    by_one = KMeans(n_clusters, n_init=3, random_state=0).fit(z[one]).predict(z[other])
    pairs = []
    for k in range(n_clusters):
        counts = np.bincount(by_one[own == k])
        if counts.sum() > 1:
            pairs.append((counts * (counts - 1)).sum() / (counts.sum() * (counts.sum() - 1)))
    return min(pairs)


def gaps(z: np.ndarray, inertias: np.ndarray, random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """The gap of each number, and its standard error."""
    boxes = [random.uniform(z.min(0), z.max(0), z.shape).astype(np.float32) for _ in range(BOXES)]
    logs = np.array([[np.log(KMeans(k, n_init=1, random_state=0).fit(box).inertia_) for box in boxes] for k in NUMBERS])
    return logs.mean(1) - np.log(inertias), logs.std(1) * np.sqrt(1 + 1 / BOXES)


def last(numbers: np.ndarray) -> int:
    return int(numbers[-1]) if len(numbers) else 2


def choices(x: np.ndarray) -> tuple[dict[str, int], HowMany]:
    """What each method chooses."""
    random = np.random.RandomState(0)
    z = PCA(min(COMPONENTS, *x.shape), random_state=0).fit_transform(x).astype(np.float32)
    fits = [KMeans(k, n_init=N_INIT, random_state=0).fit(z) for k in NUMBERS]
    labels = [fit.labels_ for fit in fits]
    ours = choose_n_clusters(x, NUMBERS.tolist())
    inner = np.array([one.silhouette for one in ours.curve])
    stability = np.array([one.stability for one in ours.curve])
    gap, error = gaps(z, np.array([fit.inertia_ for fit in fits]), random)
    within = np.flatnonzero(gap[:-1] >= gap[1:] - error[1:])
    strength = np.array([np.mean([prediction_strength(z, k, random) for _ in range(HALVES)]) for k in NUMBERS])
    of_stable = np.where(stability >= LEAST_STABILITY, inner, -1)
    best = {
        "silhouette": np.argmax([silhouette_score(x, found) for found in labels]),
        "in components": inner.argmax(),
        "if stable": of_stable.argmax(),
        "VRC": np.argmax([calinski_harabasz_score(z, found) for found in labels]),
        "DB": np.argmin([davies_bouldin_score(z, found) for found in labels]),
        "gap": within[0] if len(within) else len(NUMBERS) - 1,
        "ARI": stability.argmax(),
    }
    chosen = {"ours": ours.n_clusters, **{name: int(NUMBERS[at]) for name, at in best.items()}}
    chosen |= {"PS >= 0.8": last(NUMBERS[strength >= 0.8]), "ARI >= 0.8": last(NUMBERS[stability >= 0.8])}
    return chosen, ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", default=[""])
    words = parser.parse_args().words
    errors: dict[str, list[int]] = {}
    for name, (x, groups) in collections(Path(os.environ["WHYCLUSTER_ASSETS"])):
        if not any(word in name for word in words):
            continue
        chosen, ours = choices(x)
        true = len(np.unique(groups))
        if not errors:
            print("| collection | groups |", " | ".join(chosen), "|", flush=True)
            print("| --- " * (len(chosen) + 2) + "|", flush=True)
        for method, number in chosen.items():
            errors.setdefault(method, []).append(abs(number - true))
        cells = [f"{number}{'' if ours.sure or method != 'ours' else ' *'}" for method, number in chosen.items()]
        print("|", name, "|", true, "|", " | ".join(cells), "|", flush=True)
    means = " | ".join(f"{np.mean(found):.1f}" for found in errors.values())
    print("| mean of &#124;K - true&#124; | |", means, "|")


if __name__ == "__main__":
    main()
