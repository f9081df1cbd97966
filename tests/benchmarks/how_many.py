"""How many clusters? The choices of several methods on collections whose number of groups is known.

WHYCLUSTER_ASSETS=… PYTHONPATH=tests python tests/benchmarks/how_many.py [--keep folder]
"""

import argparse
import os
from pathlib import Path
from collections.abc import Iterator

import numpy as np
import torch
from networks import ResNet56
from sklearn.datasets import load_wine, make_blobs

from whycluster.backbones import Backbone, build_backbone
from whycluster.backbones.preprocessing import Preprocessing
from whycluster.data import Collection, Digits, Folder

Rows = tuple[np.ndarray, np.ndarray]  # features (N, D) float32 and labels (N,)


def features_of(backbone: Backbone, collection: Collection) -> Rows:
    images = torch.stack([backbone.preprocessing(collection.load(at)) for at in range(len(collection.paths))])
    with torch.no_grad():
        features = torch.cat([backbone(some) for some in images.split(8)])
    return features.numpy(), np.array(collection.labels)


def resnet56(assets: Path) -> Backbone:
    network = ResNet56()
    network.load_state_dict(torch.load(assets / "resnet56_cifar10.pt", weights_only=True))
    return Backbone(network, Preprocessing(32, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "layer3")


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
