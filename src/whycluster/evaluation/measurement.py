"""Measurement of one explanation method on images: its flipping curves, its agreement with masks, and its time."""

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from whycluster.evaluation.flipping import Flipping, flipping_curve, patch_means, ranks, region_side
from whycluster.evaluation.masks import hits, mass_inside, rank_accuracy
from whycluster.evaluation.methods import Method
from whycluster.evaluation.results import FlippingCurves, MaskAgreement, MethodResults
from whycluster.explain import ClusterModel


def measure_method(
    method: Method,
    model: ClusterModel,
    images: Tensor,
    clusters: Tensor,
    flipping: Flipping,
    masks: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 16,
    advance: Callable[[int], None] = lambda done: None,
) -> MethodResults:
    """Explains images with a method, and measures the explanations.

    Args:
        method: the method.
        model: whose assignments are explained.
        images: `(N, 3, H, W)`, from 0 to 1.
        clusters: to explain, `(N,)`.
        flipping: the settings.
        masks: `(N, H, W)` bool; empty where the truth is not known.
        seed: of the method's noise and of the order of equally relevant patches.
        batch_size: images at once.
        advance: called with the number of images done after each batch.
    """
    generator = torch.Generator().manual_seed(seed)
    heatmaps, seconds, done = [], 0.0, 0
    parts: dict[str, list[FlippingCurves]] = {name: [] for name in flipping.fills}
    device = model.head.centre.device
    for batch, explained in zip(torch.split(images, batch_size), torch.split(clusters, batch_size), strict=True):
        batch, explained = batch.to(device), explained.to(device)
        _synchronize(device)
        started = time.perf_counter()
        maps = method.explain(batch, explained, generator)
        _synchronize(device)
        seconds += time.perf_counter() - started
        heatmaps.append(maps.cpu())
        for name, curves in _curves(model, batch, explained, maps, flipping, generator):
            parts[name].append(FlippingCurves(*(curve.cpu() for curve in curves)))
        done += len(batch)
        advance(done)
    joined = {
        name: FlippingCurves(*(torch.cat(column) for column in zip(*each, strict=True))) for name, each in parts.items()
    }
    agreement = None if masks is None else _mask_agreement(torch.cat(heatmaps), masks.cpu(), region_side(images))
    return MethodResults(method.passes, seconds / len(images), joined, agreement)


def assigned_clusters(model: ClusterModel, images: Tensor, batch_size: int = 16) -> Tensor:
    """The cluster of each image, `(N,)`, on the CPU."""
    device = model.head.centre.device
    with torch.no_grad():
        return torch.cat([model(batch.to(device)).argmax(1).cpu() for batch in torch.split(images, batch_size)])


@torch.no_grad()
def cluster_scores(model: ClusterModel, images: Tensor, clusters: Tensor) -> Tensor:
    """`SCORES` of images for the given clusters, `(N, 3)`."""
    features = model.features(images)
    discriminants, probabilities = model.head(features), model.head.probability(features)
    own = [values.gather(1, clusters[:, None])[:, 0] for values in (discriminants, probabilities)]
    return torch.stack([*own, (discriminants.argmax(1) == clusters).to(own[0])], 1)


def _curves(
    model: ClusterModel,
    images: Tensor,
    clusters: Tensor,
    heatmaps: Tensor,
    flipping: Flipping,
    generator: torch.Generator,
) -> Iterator[tuple[str, FlippingCurves]]:
    """The curves of a batch, for each fill."""
    patches = patch_means(heatmaps, flipping.patch)
    by_most = ranks(patches.flatten(1), generator).view(patches.shape)
    by_least = patches[0].numel() - 1 - by_most

    def score(images: Tensor) -> Tensor:
        return cluster_scores(model, images, clusters)

    for name, fill in flipping.fills.items():
        settings = flipping.patch, flipping.counts, fill
        yield name, FlippingCurves(*(flipping_curve(score, images, by, *settings) for by in (by_most, by_least)))


def _mask_agreement(heatmaps: Tensor, masks: Tensor, window: int) -> MaskAgreement | None:
    known = masks.any(2).any(1)
    if not known.any():
        return None
    maps, masks = heatmaps[known], masks[known]
    return MaskAgreement(mass_inside(maps, masks), rank_accuracy(maps, masks), hits(maps, masks, window).double())


def _synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was asked for, so that its time is measured."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
