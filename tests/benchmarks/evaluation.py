"""Do explanations find what decides? Ours and all baselines on photos, and on scenes whose truth is known.

    WHYCLUSTER_ASSETS=… PYTHONPATH=tests python tests/benchmarks/evaluation.py [photos scenes marks] [--images 64]

SqueezeNet with weights for ImageNet. Photos: k-means, K=5. Scenes and marks: the means of their groups; measured on the
images that are in their own group, as what put the others elsewhere is not known.
"""

import argparse
import os
import time
from pathlib import Path

import torch
from defaults import features_of, loaded
from rich.console import Console
from sklearn.cluster import KMeans

from whycluster.backbones import build_backbone
from whycluster.data import Folder, Scenes
from whycluster.evaluation import OURS, Evaluator
from whycluster.evaluation.measurement import assigned_clusters
from whycluster.evaluation.statistics import interval
from whycluster.explain import ClusterModel, Explainer
from whycluster.heads import neuralize
from whycluster.output.evaluation_report import evaluation_sentences, evaluation_table


def report(model: ClusterModel, images: torch.Tensor, masks: torch.Tensor | None, steps: int) -> None:
    """Prints what an evaluation says."""
    began = time.monotonic()
    evaluation = Evaluator(steps=steps).evaluate(Explainer(model), images, masks)
    Console(width=200).print(evaluation_table(evaluation))
    print("\n".join(evaluation_sentences(evaluation)))
    if evaluation.mask_area is not None:
        area = float(evaluation.mask_area.mean())
        for name, measured in evaluation.methods.items():
            mass = [figure / area for figure in interval(measured.mask_agreement.mass)]
            print(f"{name}: mass in masks, as a multiple of their area: {mass[0]:.2f} ({mass[1]:.2f} to {mass[2]:.2f})")
    else:
        ours = [evaluation.srg(OURS, fill) for fill in evaluation.settings["fills"]]
        print(f"{OURS}: {ours}")
    print(f"{time.monotonic() - began:.0f} s for {len(images)} images\n", flush=True)


def main() -> None:
    """Prints a table for each collection."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", default=["photos", "scenes", "marks"])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    assets = Path(os.environ["WHYCLUSTER_ASSETS"])
    backbone = build_backbone("squeezenet1_0", str(assets / "squeezenet1_0.pt"))
    generator = torch.Generator().manual_seed(0)
    for case in options.cases:
        collection = Folder(assets / "photos") if case == "photos" else Scenes("mark" if case == "marks" else "digit")
        images = loaded(collection, backbone)
        features = features_of(backbone, images)
        if isinstance(collection, Folder):
            head = neuralize(KMeans(5, n_init=10, random_state=0).fit(features.numpy()), features)
            some = torch.randperm(len(images), generator=generator)[: options.images]
            print(case)
            report(ClusterModel(backbone, head), images[some], None, options.steps)
            continue
        groups = torch.tensor([collection.groups.index(label) for label in collection.labels])
        means = torch.stack([features[groups == group].mean(0) for group in range(len(collection.groups))])
        model = ClusterModel(backbone, neuralize(means, features))
        right = assigned_clusters(model, images) == groups
        print(f"{case}: {float(right.double().mean()):.0%} of {len(images)} images are in their own group")
        known = [at for at in right.nonzero()[:, 0].tolist() if collection.mask(at) is not None]
        some = [known[at] for at in torch.randperm(len(known), generator=generator)[: options.images]]
        masks = torch.stack([backbone.preprocessing(collection.mask(at).convert("RGB"))[0] > 127 for at in some])
        report(model, images[some], masks, options.steps)


if __name__ == "__main__":
    main()
