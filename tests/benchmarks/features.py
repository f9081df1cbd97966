"""Which feature steps give clusters that agree with labels, and heatmaps that hold their decision? For the defaults.

    WHYCLUSTER_ASSETS=… PYTHONPATH=tests python tests/benchmarks/features.py [--images 32] [digits photos …]

A line for each collection and choice of steps: normalized mutual information of k-means with the labels, mean and
standard deviation over five seeds; of the first seed, SRG as a fraction of the discriminant with a 95 % interval (the
mean over two fills, 32 images), the share of all images whose pixels hold from 50 to 150 % of the discriminant, and of
those whose pixels hold less than nothing. Photos: SqueezeNet; CIFAR-10: SqueezeNet on enlarged images, and ResNet-56;
digits: glyphnet.
"""

import argparse
import os
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from defaults import loaded, resnet56
from sklearn.cluster import KMeans
from torch import Tensor

from whycluster.backbones import Backbone, build_backbone
from whycluster.clustering.feature_steps import FeatureSettings, FeatureSteps
from whycluster.clustering.metrics import label_agreement
from whycluster.data import Collection, Digits, Folder
from whycluster.evaluation.evaluator import Evaluator
from whycluster.evaluation.flipping import area
from whycluster.evaluation.measurement import assigned_clusters, measure_method
from whycluster.evaluation.methods import explainer_method
from whycluster.evaluation.statistics import interval
from whycluster.explain import ClusterModel, Explainer
from whycluster.heads import neuralize

SEEDS = 5
BATCH = 16
CHOICES = {
    "none": FeatureSettings("none"),
    "l2": FeatureSettings("l2"),
    "standardize": FeatureSettings("none", standardize=True),
    "standardize, l2": FeatureSettings("l2", standardize=True),
    "pca=50, l2": FeatureSettings("l2", pca=50),
    "pca=50, whiten, l2": FeatureSettings("l2", pca=50, whiten=True),
}


def squeezenet(assets: Path, **settings: object) -> Backbone:
    return build_backbone("squeezenet1_0", str(assets / "squeezenet1_0.pt"), **settings)


# Collection, backbone, and number of clusters.
CASES: dict[str, Callable[[Path], tuple[Collection, Backbone, int]]] = {
    "digits": lambda assets: (Digits(), build_backbone("glyphnet", "DEFAULT", pool="flatten"), 10),
    "photos": lambda assets: (Folder(assets / "photos"), squeezenet(assets), 5),
    "photos, two layers": lambda assets: (
        Folder(assets / "photos"),
        squeezenet(assets, layer=["features.9", "features.12"]),
        5,
    ),
    "CIFAR-10, SqueezeNet": lambda assets: (Folder(assets / "cifar10"), squeezenet(assets), 10),
    "CIFAR-10, ResNet-56": lambda assets: (Folder(assets / "cifar10"), resnet56(assets), 10),
}


def shares(explainer: Explainer, images: Tensor) -> Tensor:
    """The fraction of the discriminant that arrives at the pixels of each image, `(N,)`."""
    receipts = [explainer.explain(batch).receipt for batch in images.split(BATCH)]
    return torch.cat([receipt.pixels / receipt.discriminant for receipt in receipts])


def srg(explainer: Explainer, images: Tensor) -> str:
    """SRG as a fraction of the discriminant, with its interval."""
    model, evaluator = explainer.model, Evaluator(steps=7)
    clusters, flipping = assigned_clusters(model, images), evaluator.flipping(images)
    curves = measure_method(explainer_method(explainer), model, images, clusters, flipping).curves
    gaps = [area(one.least, flipping.counts) - area(one.most, flipping.counts) for one in curves.values()]
    found = interval(torch.stack(gaps)[..., 0].mean(0), curves["mean"].most[:, 0, 0])
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def lines(name: str, assets: Path, n_images: int) -> None:
    """Prints the lines of a collection."""
    collection, backbone, n_clusters = CASES[name](assets)
    images = loaded(collection, backbone)
    with torch.no_grad():
        raw = torch.cat([backbone(batch) for batch in images.split(BATCH)])
    some = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:n_images]
    for choice, settings in CHOICES.items():
        steps: FeatureSteps = settings.fit([raw], backbone.widths)
        features = steps(raw).double()
        fits = [KMeans(n_clusters, n_init=10, random_state=seed).fit(features.numpy()) for seed in range(SEEDS)]
        nmi = [label_agreement(fit.labels_, list(collection.labels))["nmi"] for fit in fits]
        explainer = Explainer(ClusterModel(backbone, neuralize(fits[0], features).float(), steps=steps))
        held = shares(explainer, images)
        print(
            f"| {name} | {choice} | {np.mean(nmi):.3f} ± {statistics.stdev(nmi):.3f} "
            f"| {srg(explainer, images[some].float() / 255)} "
            f"| {((held > 0.5) & (held < 1.5)).double().mean():.0%} | {(held < 0).double().mean():.0%} |",
            flush=True,
        )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--images", type=int, default=32)
    options = parser.parse_args()
    print("| collection | steps | NMI | SRG | 50 to 150 % | below 0 |\n| --- | --- | --- | --- | --- | --- |")
    for name in options.cases:
        lines(name, Path(os.environ["WHYCLUSTER_ASSETS"]), options.images)


if __name__ == "__main__":
    main()
