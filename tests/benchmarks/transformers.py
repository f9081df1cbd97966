"""Which rules explain a really trained vision transformer best? What its defaults are chosen by.

    WHYCLUSTER_ASSETS=… PYTHONPATH=tests python tests/benchmarks/transformers.py [--images 24] [--steps 8] [--patch 14]
        [--keep folder] [--pictures folder] [methods …]

Photos are clustered by the class token of a DINOv2 ViT-S/14 (k-means, K=4), and each is explained by each method; a
method is named by a pattern (`cp*box`). Patches are then flipped to the mean colour, up to half of the image.

A line for each method: SRG of the discriminant, and as a multiple of that of occlusion, with 95 % intervals; the share of the
discriminant the pixels hold (10 %, median, 90 % of images); how much of the relevance, without signs, is in the 1 % of
patches that have most of it (median); and the time for an explanation, in forward passes. With `--keep`, heatmaps and
curves are written to a folder, and a later run reads what is there.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import timm
import torch
from measure import seconds
from sklearn.cluster import KMeans
from torch import Tensor

from whycluster.backbones import Backbone
from whycluster.backbones.preprocessing import Preprocessing
from whycluster.data import Folder
from whycluster.evaluation.evaluator import Evaluator
from whycluster.evaluation.flipping import area, patch_means
from whycluster.evaluation.measuring import Flips, assigned, measure, scores
from whycluster.evaluation.methods import Method, baseline, of_explainer
from whycluster.evaluation.statistics import interval
from whycluster.explain import ClusterModel, Explainer
from whycluster.heads import neuralize
from whycluster.lrp import Composite, Epsilon, EpsilonGammaBox, Gamma
from whycluster.lrp.composites import RESIDUALS, Residual, Row
from whycluster.output.heatmaps import heatmap_picture

SIDE, SQUARE = 224, 28  # of images, and of what occlusion hides, in pixels
GAMMAS = (0.0, 0.05, 0.1, 0.25, 1.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MLP, ATTENTION = "*.mlp.fc*", "*.attn.*"
PICTURED = 12


def backbone_of(assets: Path) -> Backbone:
    """The vision transformer, whose weights are kept as integers and scales."""
    raw = torch.load(assets / "vit_small_patch14_int8.pt", weights_only=True)
    scales = {key.removesuffix(":scale"): raw[key].float() for key in raw if key.endswith(":scale")}
    network = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=SIDE)
    network.load_state_dict({key: raw[key].float() * scales.get(key, 1) for key in raw if ":" not in key})
    return Backbone(network, Preprocessing(SIDE, SIDE, MEAN, STD, "bicubic"), pool="cls")


def clustered(assets: Path) -> tuple[ClusterModel, Tensor]:
    """The model of all photos, and these, `(N, 3, H, W)` from 0 to 1."""
    backbone, collection = backbone_of(assets), Folder(assets / "photos")
    images = torch.stack([backbone.preprocessing(collection.load(at)) for at in range(len(collection.paths))])
    with torch.no_grad():
        features = torch.cat([backbone(some) for some in images.split(16)]).double()
    head = neuralize(KMeans(4, n_init=10, random_state=0).fit(features.numpy()), features)
    return ClusterModel(backbone, head), images.float() / 255


def occlusion(model: ClusterModel) -> Method:
    """How much the discriminant falls when a square is hidden under the mean colour."""

    def explain(images: Tensor, clusters: Tensor, generator: torch.Generator) -> Tensor:
        whole = scores(model, images, clusters)[:, 0]
        heatmaps = images.new_zeros(len(images), SIDE, SIDE)
        for top in range(0, SIDE, SQUARE):
            for left in range(0, SIDE, SQUARE):
                square = ..., slice(top, top + SQUARE), slice(left, left + SQUARE)
                hidden = images.clone()
                hidden[square] = hidden.new_tensor(MEAN).view(3, 1, 1)
                fall = whole - scores(model, hidden, clusters)[:, 0]
                heatmaps[square] = fall.to(heatmaps)[:, None, None]
        return heatmaps

    return Method(explain, (SIDE // SQUARE) ** 2 + 1)


def methods(model: ClusterModel) -> Iterator[tuple[str, Callable[[], Method]]]:
    """By name: attention, residual sums, gamma of linear layers on tokens, rule of the patch embedding."""
    bounds = model.backbone.bounds()

    def lrp(attention: Any, residual: Residual, gamma: float, rows: list[Row]) -> Callable[[], Method]:
        composite = Composite([*rows, *EpsilonGammaBox(*bounds, residual=residual, tokens=gamma).rows])
        return lambda: of_explainer(Explainer(model, composite, "zero", attention=attention))

    yield "occlusion", lambda: occlusion(model)
    yield "random", lambda: baseline("random", model)
    yield "gradient x input", lambda: baseline("gradient_times_input", model)
    for attention in ("cp", "attn"):
        for residual in RESIDUALS:
            for gamma in GAMMAS:
                name = f"{attention} {residual} {gamma:g}"
                yield f"{name} box", lrp(attention, residual, gamma, [])
                yield f"{name} epsilon", lrp(attention, residual, gamma, [("*patch_embed.proj", Epsilon())])
                if gamma:
                    yield f"{name} gamma", lrp(attention, residual, gamma, [("*patch_embed.proj", Gamma(gamma))])
                    yield f"{name} box, only in MLPs", lrp(attention, residual, gamma, [(ATTENTION, Epsilon())])
                    yield f"{name} box, only in attention", lrp(attention, residual, gamma, [(MLP, Epsilon())])


def measured(method: Method, model: ClusterModel, images: Tensor, clusters: Tensor, flips: Flips) -> dict[str, Any]:
    """Heatmaps `(N, H, W)`, curves `(N, T, 3)`, and passes by the time they take."""
    heatmaps: list[Tensor] = []

    def explain(images: Tensor, clusters: Tensor, generator: torch.Generator) -> Tensor:
        heatmaps.append(method.explain(images, clusters, generator))
        return heatmaps[-1]

    passes = float(method.passes)
    if passes == 2:  # forward and back; how long that takes, beside a pass forward
        some, asked, generator = images[:8], clusters[:8], torch.Generator()
        times = [
            (seconds(lambda: method.explain(some, asked, generator)), seconds(lambda: scores(model, some, asked)))
            for _ in range(3)
        ]
        there_and_back, there = map(min, zip(*times, strict=True))
        passes = there_and_back / there
    curves = measure(Method(explain, 0), model, images, clusters, flips).curves["mean"]
    return {"heatmaps": torch.cat(heatmaps), "most": curves.most, "least": curves.least, "passes": passes}


def line(name: str, found: dict[str, Any], occluded: Tensor | None, flips: Flips) -> tuple[str, Tensor]:
    """A line of the table, and the area between the curves of each image, `(N,)`."""
    start = found["most"][:, 0, 0]
    gap = (area(found["least"], flips.counts) - area(found["most"], flips.counts))[:, 0]
    srg, beside = interval(gap, start), "" if occluded is None else "{:.2f} ({:.2f} to {:.2f})"
    if occluded is not None:
        beside = beside.format(*interval(gap, occluded[: len(gap)]))
    share = found["heatmaps"].double().sum((1, 2)) / start
    held = ", ".join(f"{value:.2f}" for value in share.quantile(torch.tensor([0.1, 0.5, 0.9]).double()))
    patches = patch_means(found["heatmaps"], 14).flatten(1).abs().sort(descending=True).values
    peak = (patches[:, : patches.shape[1] // 100 + 1].sum(1) / patches.sum(1)).median()
    numbers = f"{srg.value:.3f} ({srg.low:.3f} to {srg.high:.3f}) | {beside}"
    return f"| {name} | {len(gap)} | {numbers} | {held} | {peak:.2f} | {found['passes']:.1f} |", gap


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("methods", nargs="*", default=["*"])
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--patch", type=int, default=14)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    model, images = clustered(Path(os.environ["WHYCLUSTER_ASSETS"]))
    mean = Evaluator(patch=options.patch, steps=options.steps, fills=["mean"], baselines=[]).flips(images)
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[: options.images]]
    clusters, occluded = assigned(model, images), None
    print("| method | images | SRG | beside occlusion's | pixels hold | in 1 % of patches | passes |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, make in methods(model):
        if not any(fnmatch(name, pattern) for pattern in options.methods):
            continue
        file = None if options.keep is None else options.keep / f"{name}.pt"
        if file is not None and file.exists():
            found = torch.load(file)
        else:
            print(name, file=sys.stderr, flush=True)
            found = measured(make(), model, images, clusters, mean)
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.save(found, file)
        text, gap = line(name, found, occluded, mean)
        occluded = gap if name == "occlusion" else occluded
        print(text, flush=True)
        if options.pictures is not None:
            options.pictures.mkdir(parents=True, exist_ok=True)
            for at in range(PICTURED):
                photo = (images[at] * 255).round().byte().permute(1, 2, 0).numpy()
                caption = f"{name}, cluster {clusters[at]}"
                picture = heatmap_picture(photo, found["heatmaps"][at].numpy(), caption)
                picture.save(options.pictures / f"{at:03d} {name}.png")


if __name__ == "__main__":
    main()
