"""Which clustering agrees best with known groups? A table over several seeds.

    WHYCLUSTER_ASSETS=… PYTHONPATH=tests python tests/benchmarks/clusterings.py [--device cuda] [digits photos …]

The clusterings of the train command with their defaults, on features that are computed once for each collection and,
but for the first line, L2-normalised. Figures are means and standard deviations over seeds; `gain` is that of the
normalized mutual information over k-means on L2-normalised features, paired by seeds, with its standard error.
"""

import argparse
import copy
import logging
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from features import CASES
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning.loggers.logger import DummyLogger
from torch import Tensor

from whycluster.backbones import Backbone
from whycluster.clustering.feature_steps import FeatureSettings
from whycluster.clustering.features import FeatureStore
from whycluster.clustering.metrics import label_agreement
from whycluster.data import PreparedImages
from whycluster.runs import make_trainer
from whycluster.runs.command import CONF
from whycluster.runs.fitting import Clustering, Fitting, ToCluster, clusters_of

REFERENCE = "kmeans, l2"
METHODS = ("kmeans, none", REFERENCE, "spherical_kmeans, l2", "temi, l2", "dec, l2")
COLLECTIONS = ("digits", "photos", "CIFAR-10, SqueezeNet", "CIFAR-10, ResNet-56")


def clusters(
    head: Clustering, normalize: str, raw: Tensor, images: PreparedImages, backbone: Backbone, seed: int, device: str
) -> np.ndarray:
    """The cluster of each image, `(N,)`."""
    pl.seed_everything(seed, verbose=False)
    steps = FeatureSettings(normalize).fit([raw], backbone.widths)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False}

    def trainer(**settings: Any) -> pl.Trainer:
        return make_trainer(device, devices=1, **quiet, **settings)

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        store = FeatureStore.write(place / "features.npy", [steps(raw)], len(raw), steps.n_features)
        given = ToCluster(store, [], images, copy.deepcopy(backbone), steps)
        fitted = head.fit(given, Fitting(trainer, DummyLogger(), place), seed)
        return clusters_of(fitted.features or store, fitted.assign)


def spread(values: np.ndarray) -> str:
    """Mean and standard deviation."""
    return f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("collections", nargs="*", default=COLLECTIONS)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    print("| features | clustering | NMI | ARI | accuracy | gain in NMI | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in options.collections:
        collection, backbone, n_clusters = CASES[name](Path(os.environ["WHYCLUSTER_ASSETS"]))
        images = PreparedImages(collection, backbone.preprocessing)
        with torch.no_grad():
            raw = torch.cat([backbone(torch.stack([image])) for _, image in images])
        reference: np.ndarray | None = None
        for method in options.methods:
            kind, normalize = method.split(", ")
            begun = time.perf_counter()
            each = []
            for seed in range(options.seeds):
                head = instantiate(OmegaConf.load(CONF / "head" / f"{kind}.yaml"), n_clusters=n_clusters)
                found = clusters(head, normalize, raw, images, backbone, seed, options.device)
                each.append(label_agreement(found, list(collection.labels)))
                print(name, method, seed, each[-1], file=sys.stderr, flush=True)  # as a fit may take minutes
            seconds = (time.perf_counter() - begun) / options.seeds
            figures = np.array([list(one.values()) for one in each]).T
            reference = figures[0] if method == REFERENCE else reference
            gains = figures[0] - reference if reference is not None else np.full(2, np.nan)
            gain = f"{gains.mean():+.3f} ± {gains.std(ddof=1) / len(gains) ** 0.5:.3f}"
            print(f"| {' | '.join([name, method, *map(spread, figures), gain, f'{seconds:.1f}'])} |", flush=True)


if __name__ == "__main__":
    main()
