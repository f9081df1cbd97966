"""Which composite, head rule, beta and residual rule explain best? What the defaults are chosen by.

    WHYCLUSTER_ASSETS=… PYTHONPATH=tests python tests/benchmarks/defaults.py [--images 24] [photos cifar scenes digits]

A line for each combination and collection: SRG of the discriminant, the mean over two fills (mean colour and blur),
with a 95 % interval, and on scenes also the relevance inside the masks, as a multiple of their area. Photos and scenes:
SqueezeNet with weights for ImageNet; CIFAR-10: ResNet-56; digits: glyphnet. Ends with the mean ranks.
"""

import argparse
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from networks import ResNet56
from scipy.stats import rankdata
from sklearn.cluster import KMeans
from torch import Tensor

from whycluster.backbones import Backbone, build_backbone
from whycluster.backbones.preprocessing import Preprocessing
from whycluster.data import Collection, Digits, Folder
from whycluster.data.scenes import Scenes
from whycluster.evaluation.evaluator import Evaluator
from whycluster.evaluation.flipping import area
from whycluster.evaluation.measurement import assigned_clusters, measure_method
from whycluster.evaluation.methods import explainer_method
from whycluster.evaluation.statistics import interval
from whycluster.explain import ClusterModel, Explainer
from whycluster.heads import neuralize
from whycluster.lrp import Composite, EpsilonAlpha2Beta1, EpsilonGammaBox, EpsilonPlusFlat
from whycluster.lrp.composites import RESIDUALS

GAMMAS = (0.1, 0.25, 0.5, 1.0)


class Case(NamedTuple):
    """A model and images to explain."""

    model: ClusterModel
    images: Tensor
    masks: Tensor | None
    residuals: tuple[str, ...]


def composites(model: ClusterModel, residual: str) -> Iterator[tuple[str, Composite]]:
    low, high = model.backbone.bounds()
    for gamma in GAMMAS:
        yield f"gamma box {gamma}", EpsilonGammaBox(low, high, gamma=gamma, residual=residual)
    yield "plus flat", EpsilonPlusFlat(residual=residual)
    yield "alpha2 beta1", EpsilonAlpha2Beta1(residual=residual)


def loaded(collection: Collection, backbone: Backbone) -> Tensor:
    return torch.stack([backbone.preprocessing(collection.load(at)) for at in range(len(collection.paths))])


def features_of(backbone: Backbone, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([backbone(some) for some in images.split(32)]).double()


def clustered(backbone: Backbone, collection: Collection, n_clusters: int, n: int, residuals: tuple[str, ...]) -> Case:
    images = loaded(collection, backbone)
    features = features_of(backbone, images)
    head = neuralize(KMeans(n_clusters, n_init=10, random_state=0).fit(features.numpy()), features)
    some = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:n]
    return Case(ClusterModel(backbone, head), images[some], None, residuals)


def photos(assets: Path, n: int) -> Case:
    backbone = build_backbone("squeezenet1_0", str(assets / "squeezenet1_0.pt"))
    return clustered(backbone, Folder(assets / "photos"), 5, n, ("ratio",))


def resnet56(assets: Path) -> Backbone:
    network = ResNet56()
    network.load_state_dict(torch.load(assets / "resnet56_cifar10.pt", weights_only=True))
    return Backbone(network, Preprocessing(32, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "layer3")


def cifar(assets: Path, n: int) -> Case:
    return clustered(resnet56(assets), Folder(assets / "cifar10"), 10, 2 * n, tuple(RESIDUALS))


def digits(assets: Path, n: int) -> Case:
    return clustered(build_backbone("glyphnet", "DEFAULT", pool="flatten"), Digits(), 10, 4 * n, ("ratio",))


def scenes(assets: Path, n: int) -> Case:
    """Only images that are in their own group: what puts the others elsewhere is not the digit."""
    backbone = build_backbone("squeezenet1_0", str(assets / "squeezenet1_0.pt"))
    collection = Scenes()
    images = loaded(collection, backbone)
    features = features_of(backbone, images)
    groups = torch.tensor([collection.groups.index(label) for label in collection.labels])
    means = torch.stack([features[groups == group].mean(0) for group in range(len(collection.groups))])
    model = ClusterModel(backbone, neuralize(means, features))
    right = (assigned_clusters(model, images) == groups).nonzero()[:, 0]
    some = right[torch.randperm(len(right), generator=torch.Generator().manual_seed(0))[:n]]
    masks = [backbone.preprocessing(collection.mask(at).convert("RGB"))[0] > 127 for at in some.tolist()]
    return Case(model, images[some], torch.stack(masks), ("ratio",))


CASES = {"photos": photos, "cifar": cifar, "scenes": scenes, "digits": digits}


def table(name: str, case: Case) -> dict[tuple[str, ...], float]:
    """Prints the lines of a collection; returns the SRG of each combination."""
    evaluator = Evaluator(steps=7)
    images = (case.images.float() / 255).contiguous(memory_format=torch.channels_last)
    clusters, flipping = assigned_clusters(case.model, images), evaluator.flipping(images)
    found = {}
    for residual, rule, beta in itertools.product(case.residuals, ("zero", "midpoint"), (0.0, "auto", float("inf"))):
        for composite, rules in composites(case.model, residual):
            method = explainer_method(Explainer(case.model, rules, rule, beta))
            measured = measure_method(method, case.model, images, clusters, flipping, case.masks)
            gaps = [area(c.least, flipping.counts) - area(c.most, flipping.counts) for c in measured.curves.values()]
            start = measured.curves["mean"].most[:, 0, 0]
            srg = interval(torch.stack(gaps)[..., 0].mean(0), start)
            inside = ""
            if measured.mask_agreement is not None:
                inside = f"{measured.mask_agreement.mass.nanmean() / case.masks.float().mean():.2f}"
            key = (composite, rule, str(beta), residual)
            found[key] = srg.value
            print(
                f"| {name} | {' | '.join(key)} | {srg.value:.3f} | {srg.low:.3f} to {srg.high:.3f} | {inside} |",
                flush=True,
            )
    return found


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--images", type=int, default=24)
    options = parser.parse_args()
    assets = Path(os.environ["WHYCLUSTER_ASSETS"])
    print("| images | composite | head rule | beta | residual | SRG | 95 % | mass in masks / area |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    found = {name: table(name, CASES[name](assets, options.images)) for name in options.cases}
    ranks: dict[tuple[str, ...], list[float]] = {}
    for by_key in found.values():
        plain = {key: srg for key, srg in by_key.items() if key[3] == "ratio"}
        for key, rank in zip(plain, rankdata([-srg for srg in plain.values()]), strict=True):
            ranks.setdefault(key[:3], []).append(float(rank))
    print("\n| composite | head rule | beta | mean rank (residual sums by ratio) |\n| --- | --- | --- | --- |")
    for key, each in sorted(ranks.items(), key=lambda item: sum(item[1])):
        print(f"| {' | '.join(key)} | {sum(each) / len(each):.1f} |")


if __name__ == "__main__":
    main()
