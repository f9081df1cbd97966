"""How fast the commands are beside what they cannot do without: the bare network, and LRP alone.

    WHYCLUSTER_ASSETS=… python tests/benchmarks/commands.py [repeats of the photos] [rounds]

SqueezeNet with trained weights on a folder of photos. Decoding, resizing, drawing and writing come on top of the
network; the rounds take turns, and the printed ratios are medians.
"""

import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from whycluster import ClusterModel, Explainer, neuralize
from whycluster.backbones import build_backbone
from whycluster.clustering.feature_steps import FeatureSettings
from whycluster.data import Folder, PreparedImages, Shards
from whycluster.explain import parse_target
from whycluster.explain.predict import ExplanationModule
from whycluster.output.explanations import ExplanationWriter
from whycluster.runs import make_trainer
from whycluster.runs.extracting import extract
from whycluster.runs.folders import Run
from whycluster.runs.trainers import run_pass

BATCHES = (2, 4, 8, 16, 32)
BARE_SECONDS = 2.0  # for each of these


def trainer(**settings: object) -> object:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    return make_trainer("cpu", devices=1, use_distributed_sampler=False, **quiet, **settings)


def seconds_an_image(compute: Callable[[Tensor], object], photos: Tensor) -> float:
    """Of the best batch size."""
    best = float("inf")
    for size in BATCHES:
        batch, n_done = photos[:size], 0
        compute(batch)
        since = time.perf_counter()
        while time.perf_counter() - since < BARE_SECONDS:
            compute(batch)
            n_done += size
        best = min(best, (time.perf_counter() - since) / n_done)
    return best


def main(repeats: int = 4, rounds: int = 3) -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    assets = Path(os.environ["WHYCLUSTER_ASSETS"])
    backbone = build_backbone("squeezenet1_0", str(assets / "squeezenet1_0.pt"))
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "photos"
        for number in range(repeats):
            for photo in sorted((assets / "photos").rglob("*.jpg")):
                link = root / f"{number}" / photo.parent.name / photo.name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(photo)
        collection = Folder(root)
        prepared = PreparedImages(collection, backbone.preprocessing)
        photos = torch.stack([prepared[number][1] for number in range(0, len(prepared), len(prepared) // 32)][:32])
        with torch.inference_mode():
            features = backbone(photos)
        model = ClusterModel(backbone, neuralize(features[:8].clone()))
        explainer, targets = Explainer(model), parse_target("assigned", 8)

        def bare(batch: Tensor) -> None:
            with torch.inference_mode():
                backbone(batch)

        def ours_extracting(folder: Path) -> float:
            run = Run(folder, (), {}, False)
            figures = extract(collection, backbone, FeatureSettings(), trainer, run, 32, None).figures
            return 1 / figures["images_per_second"]

        def ours_explaining(folder: Path) -> float:
            shards = Shards(folder / "shards", len(prepared))
            writer = ExplanationWriter(folder, collection, targets, shards)
            module = ExplanationModule(explainer, targets, prepared, shards, 16, None)
            return 1 / run_pass(trainer(logger=False, callbacks=[writer]), module)["images_per_second"]

        rows = {
            "features; the bare network": (bare, ours_extracting),
            "heatmaps; LRP alone": (lambda batch: explainer.explain_targets(batch, targets), ours_explaining),
        }
        print(f"{len(prepared)} photos, {torch.get_num_threads()} threads; milliseconds an image")
        for name, (limit, ours) in rows.items():
            found = []
            for number in range(rounds):
                found.append((seconds_an_image(limit, photos), ours(Path(place) / f"{name} {number}")))
            limits, commands = zip(*found, strict=True)
            ratio = statistics.median(ours / limit for limit, ours in found)
            print(
                f"{name}: {1e3 * statistics.median(commands):.1f}; {1e3 * statistics.median(limits):.1f}; "
                f"ratio {ratio:.2f} ({', '.join(f'{ours / limit:.2f}' for limit, ours in found)})",
                flush=True,
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
