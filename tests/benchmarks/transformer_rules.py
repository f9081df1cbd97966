"""Which rules explain a really trained vision transformer best? What its defaults are chosen by.

    WHYCLUSTER_ASSETS=… PYTHONPATH=tests python tests/benchmarks/transformer_rules.py [--images 32]
        [--steps 6] [--patch 14] [--keep folder] [--pictures folder] [methods …]

Photos are clustered by the class token of a DINOv2 ViT-S/14 (k-means, K=4), and each is explained by each method; a
method is named by a pattern (`cp*box`). Patches are then flipped to the mean colour, up to half of the image.

A line for each method: SRG of the discriminant, and as a multiple of that of occlusion, with 95 % intervals; the share
of the discriminant that pixels hold (10 %, 50 % and 90 % of images); how much of the relevance, without signs, is in
the 1 % of patches that have most of it (median); and the time of the processor for an explanation, in forward passes.
With `--keep`, heatmaps and curves are written to a folder, batch by batch; a later run of the same settings reads them.
"""

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_args

import timm
import torch
from PIL import Image
from sklearn.cluster import KMeans
from torch import Tensor

from whycluster.backbones import Backbone
from whycluster.backbones.preprocessing import Preprocessing
from whycluster.data import Folder
from whycluster.evaluation.evaluator import Evaluator
from whycluster.evaluation.flipping import Flipping, area, patch_means
from whycluster.evaluation.measurement import assigned_clusters, cluster_scores, measure_method
from whycluster.evaluation.methods import Method, baseline, explainer_method
from whycluster.evaluation.statistics import Interval, interval
from whycluster.explain import ClusterModel, Explainer
from whycluster.heads import RuleName, neuralize
from whycluster.lrp import Attention, Composite, Epsilon, EpsilonGammaBox, Gamma
from whycluster.lrp.composites import RESIDUALS, Row
from whycluster.output.heatmaps import heatmap_picture

SIDE, SQUARE = 224, 28  # of images, and of what occlusion hides, in pixels
GAMMAS = (0.0, 0.05, 0.1, 0.25, 1.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ATTENTIONS: tuple[Attention, ...] = get_args(Attention)
EMBEDDING, MLP, ATTENTION = "*patch_embed.proj", "*.mlp.fc?", "*.attn.*"
PATCH, BATCH, PICTURED = 14, 16, 12


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
        whole = cluster_scores(model, images, clusters)[:, 0]
        heatmaps = images.new_zeros(len(images), SIDE, SIDE)
        for top in range(0, SIDE, SQUARE):
            for left in range(0, SIDE, SQUARE):
                square = ..., slice(top, top + SQUARE), slice(left, left + SQUARE)
                hidden = images.clone()
                hidden[square] = hidden.new_tensor(MEAN).view(3, 1, 1)
                fall = whole - cluster_scores(model, hidden, clusters)[:, 0]
                heatmaps[square] = fall.to(heatmaps)[:, None, None]
        return heatmaps

    return Method(explain, (SIDE // SQUARE) ** 2 + 1)


def methods(model: ClusterModel) -> Iterator[tuple[str, Callable[[], Method]]]:
    """By name; those of LRP: attention, residual sums, gamma of linear layers on tokens, what else is special."""
    yield "occlusion", lambda: occlusion(model)
    yield "random", lambda: baseline("random", model)
    yield "gradient x input", lambda: baseline("gradient_times_input", model)
    for attention, residual, gamma in itertools.product(ATTENTIONS, RESIDUALS, GAMMAS):
        base = EpsilonGammaBox(*model.backbone.bounds(), residual=residual, tokens=gamma).rows
        cases: dict[str, tuple[list[Row], RuleName]] = {
            "box": (base, "zero"),
            "epsilon": ([(EMBEDDING, Epsilon()), *base], "zero"),
            "gamma": ([(EMBEDDING, Gamma(gamma)), *base], "zero"),
            "only in MLPs": ([(ATTENTION, Epsilon()), *base], "zero"),
            "only in attention": ([(MLP, Epsilon()), *base], "zero"),
            "midpoint": (base, "midpoint"),
        }
        for case, (rows, rule) in cases.items():
            yield f"{attention} {residual} {gamma:g} {case}", partial(lrp, model, rows, rule, attention)


def lrp(model: ClusterModel, rows: list[Row], rule: RuleName, attention: Attention) -> Method:
    return explainer_method(Explainer(model, Composite(rows), rule, attention=attention))


class Found(NamedTuple):
    """What was found of one method.

    Attributes:
        heatmaps: `(N, H, W)`.
        most: scores with the most relevant patches gone first, `(N, T, 3)`.
        least: with the least relevant ones.
        passes: time for an explanation, in forward passes, of each batch.
    """

    heatmaps: Tensor
    most: Tensor
    least: Tensor
    passes: Tensor


def measured(
    method: Method, model: ClusterModel, images: Tensor, clusters: Tensor, flipping: Flipping, seed: int
) -> Found:
    """One method on a batch of images."""
    heatmaps: list[Tensor] = []
    taken = []

    def explain(images: Tensor, clusters: Tensor, generator: torch.Generator) -> Tensor:
        began = time.process_time()
        heatmaps.append(method.explain(images, clusters, generator))
        taken.append(time.process_time() - began)
        began = time.process_time()
        cluster_scores(model, images, clusters)
        taken.append(time.process_time() - began)
        return heatmaps[-1]

    curves = measure_method(Method(explain, method.passes), model, images, clusters, flipping, seed=seed).curves["mean"]
    return Found(torch.cat(heatmaps), *curves, torch.tensor([taken[0] / taken[1]]))


def table(found: dict[str, Found], counts: Sequence[int]) -> str:
    """A line for each method."""
    gaps = {name: (area(one.least, counts) - area(one.most, counts))[:, 0] for name, one in found.items()}
    lines = [
        "| method | images | SRG | beside occlusion's | pixels hold | in 1 % of patches | passes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in found.items():
        start, beside = one.most[:, 0, 0], ""
        if "occlusion" in gaps:
            n = min(len(gaps[name]), len(gaps["occlusion"]))
            beside = written(interval(gaps[name][:n], gaps["occlusion"][:n]))
        share = (one.heatmaps.double().sum((1, 2)) / start).quantile(start.new_tensor([0.1, 0.5, 0.9]).double())
        patches = patch_means(one.heatmaps, PATCH).flatten(1).abs().sort(descending=True).values
        peak = (patches[:, : round(0.01 * patches.shape[1])].sum(1) / patches.sum(1)).median()
        cells = [name, str(len(start)), written(interval(gaps[name], start)), beside]
        held = ", ".join(f"{value:.2f}" for value in share) if name.startswith(ATTENTIONS) else ""
        cells += [held, f"{peak:.2f}", f"{one.passes.median():.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def written(one: Interval) -> str:
    return f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("methods", nargs="*", default=["*"])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--patch", type=int, default=PATCH)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    model, images = clustered(Path(os.environ["WHYCLUSTER_ASSETS"]))
    flipping = Evaluator(patch=options.patch, steps=options.steps, fills=["mean"], baselines=[]).flipping(images)
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[: options.images]]
    clusters = assigned_clusters(model, images)
    built = {
        name: make() for name, make in methods(model) if any(fnmatch(name, pattern) for pattern in options.methods)
    }
    parts: dict[str, list[Found]] = {name: [] for name in built}
    for start in range(0, len(images), BATCH):
        some = slice(start, start + BATCH)
        for name, method in built.items():
            file = None if options.keep is None else options.keep / name / f"{start:03d}.pt"
            if file is not None and file.exists():
                parts[name].append(Found(*torch.load(file, weights_only=True)))
                continue
            parts[name].append(measured(method, model, images[some], clusters[some], flipping, seed=start))
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.save(tuple(parts[name][-1]), file)
            print(f"{name}, images from {start}", file=sys.stderr, flush=True)
    found = {name: Found(*map(torch.cat, zip(*each, strict=True))) for name, each in parts.items()}
    print(table(found, flipping.counts))
    if options.pictures is not None:
        options.pictures.mkdir(parents=True, exist_ok=True)
        for at, (image, cluster) in enumerate(zip(images[:PICTURED], clusters, strict=False)):
            photo = (image * 255).round().byte().permute(1, 2, 0).numpy()
            for name, one in found.items():
                picture = heatmap_picture(photo, one.heatmaps[at].numpy(), f"{name}, cluster {cluster}")
                Image.fromarray(picture).save(options.pictures / f"{at:03d} {name}.png")


if __name__ == "__main__":
    main()
