"""Which clustering agrees best with known groups? A table over several seeds.

    WHYCLUSTER_ASSETS=… PYTHONPATH=tests python tests/benchmarks/clusterings.py /tmp/features [digits photos …]

Features are extracted once for each collection, and kept in the folder that is given. Figures are means and standard
deviations over seeds; `gain` is that of the NMI over k-means on L2-normalised features, paired by seeds, with its
standard error. The one default of each clustering serves all collections.
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from networks import ResNet56
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize

from whycluster import TemiClustering
from whycluster.backbones import Backbone, build_backbone
from whycluster.backbones.preprocessing import Preprocessing
from whycluster.clustering.metrics import label_agreement
from whycluster.data import Collection, Digits, Folder

REFERENCE = "k-means, L2"
N_INIT = 10


def squeezenet(assets: Path) -> Backbone:
    return build_backbone("squeezenet1_0", str(assets / "squeezenet1_0.pt"))


def resnet(assets: Path) -> Backbone:
    network = ResNet56()
    network.load_state_dict(torch.load(assets / "resnet56_cifar10.pt", weights_only=True))
    return Backbone(network, Preprocessing(32, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "layer3")


COLLECTIONS: dict[str, Callable[[Path], tuple[Collection, Backbone]]] = {
    "digits": lambda assets: (Digits(), build_backbone("glyphnet", "DEFAULT", pool="flatten")),
    "photos": lambda assets: (Folder(assets / "photos"), squeezenet(assets)),
    "CIFAR-10, SqueezeNet": lambda assets: (Folder(assets / "cifar10"), squeezenet(assets)),
    "CIFAR-10, ResNet-56": lambda assets: (Folder(assets / "cifar10"), resnet(assets)),
}


def spherical(x: np.ndarray, n_clusters: int, seed: int, n_init: int = N_INIT) -> np.ndarray:
    """Clusters unit rows by spherical k-means (Dhillon and Modha 2001): centroids have length 1."""
    best, labels = -np.inf, np.zeros(len(x), int)
    for restart in range(n_init):
        centroids = (
            KMeans(n_clusters, n_init=1, max_iter=1, random_state=n_init * seed + restart).fit(x).cluster_centers_
        )
        for _ in range(300):
            similar = x @ normalize(centroids).T
            moved = np.stack([x[similar.argmax(1) == k].sum(0) for k in range(n_clusters)])
            moved[~moved.any(1)] = centroids[~moved.any(1)]
            if np.allclose(normalize(moved), normalize(centroids)):
                break
            centroids = moved
        if similar.max(1).sum() > best:
            best, labels = similar.max(1).sum(), similar.argmax(1)
    return labels


METHODS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "k-means": lambda x, k, seed: KMeans(k, n_init=N_INIT, random_state=seed).fit_predict(x),
    REFERENCE: lambda x, k, seed: KMeans(k, n_init=N_INIT, random_state=seed).fit_predict(normalize(x)),
    "spherical k-means": lambda x, k, seed: spherical(normalize(x), k, seed),
    "temi": lambda x, k, seed: TemiClustering(k, random_state=seed).fit_predict(normalize(x)),
}


def extracted(name: str, folder: Path, assets: Path) -> tuple[np.ndarray, list[str]]:
    """Features `(N, D)` and labels of a collection, from the folder if they are there."""
    file = folder / f"{name}.npz"
    if not file.exists():
        collection, backbone = COLLECTIONS[name](assets)
        images = [backbone.preprocessing(collection.load(at)) for at in range(len(collection.paths))]
        with torch.no_grad():
            parts = [backbone(torch.stack(images[at : at + 32])) for at in range(0, len(images), 32)]
        np.savez(file, features=torch.cat(parts).numpy(), labels=collection.labels)
    content = np.load(file)
    return content["features"], content["labels"].tolist()


def spread(values: np.ndarray) -> str:
    """Mean and standard deviation."""
    return f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("collections", nargs="*", default=list(COLLECTIONS))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("| features | clustering | NMI | ARI | accuracy | gain in NMI | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in options.collections:
        x, labels = extracted(name, options.folder, Path(os.environ["WHYCLUSTER_ASSETS"]))
        found: dict[str, np.ndarray] = {}
        for method, cluster in METHODS.items():
            begun = time.perf_counter()
            each = [label_agreement(cluster(x, len(set(labels)), seed), labels) for seed in range(options.seeds)]
            seconds = (time.perf_counter() - begun) / options.seeds
            found[method] = np.array([list(figures.values()) for figures in each]).T

            gain = ""
            if method != REFERENCE and REFERENCE in found:
                gains = found[method][0] - found[REFERENCE][0]
                gain = f"{gains.mean():+.3f} ± {gains.std(ddof=1) / len(gains) ** 0.5:.3f}"
            cells = [name, method, *map(spread, found[method]), gain, f"{seconds:.1f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
