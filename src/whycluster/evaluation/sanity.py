"""Sanity checks: explanations should depend on the weights and on the cluster explained, and not on invisible noise.

Weights are shuffled layer by layer from the top (Adebayo et al. 2018, arXiv 1810.03292), with the correlation between
heatmaps of different images as the chance level; other clusters are explained; a little noise is added (Yeh et al.
2019, arXiv 1901.09392).
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from whycluster.evaluation.statistics import interval, rank_correlation
from whycluster.explain import Explainer, Target
from whycluster.lrp import LRP

SENSITIVITY_NOISE = 0.02  # largest change of a pixel's value, as a fraction of white
SENSITIVITY_SAMPLES = 4  # of noise; the worst one counts
STAGES = 5  # of randomization, besides that of the clustering alone
SHUFFLES = 3  # of the weights; correlations are averaged over them
OTHER_IMAGES = 5  # that each image is compared with
COMPETITORS = 3  # the nearest ones, each of which is explained against


def randomization(
    explainer: Explainer, images: Tensor, clusters: Tensor, stages: int, generator: torch.Generator
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Explains with more and more weights shuffled, from the top: first those of the clustering, then of the network.

    Shuffling keeps the distribution of each tensor's values, so that activations keep their scale.

    Args:
        explainer: left unchanged.
        images: `(N, 3, H, W)`, from 0 to 1.
        clusters: to explain, `(N,)`.
        stages: number of steps in which the layers of the network are shuffled.
        generator: of the shuffles.

    Yields:
        The number of shuffled layers with weights, from the top; 0: only the features that the clustering reads. And
        two figures of each heatmap, `(N,)`, averaged over shuffles: its rank `correlation` with the original one, NaN
        where the heatmap is constant, and its `size`, the absolute value, as a pattern may stay and change its sign.
    """
    before = _heatmaps(explainer, explainer.network, images, clusters)
    # For each shuffle: the order of features, the network, and its layers with weights, from the top.
    shuffled: list[tuple[Tensor, nn.Module, list[nn.Module]]] = []
    for _ in range(SHUFFLES):
        network = copy.deepcopy(explainer.network.network)
        layers = [module for module in network.modules() if any(True for _ in module.parameters(recurse=False))][::-1]
        order = torch.randperm(explainer.model.head.n_features, generator=generator).to(images.device)
        shuffled.append((order, network, layers))
    done = 0
    for count in sorted({round(len(layers) * stage / stages) for stage in range(stages + 1)}):
        correlations = []
        for order, network, layers in shuffled:
            for layer in layers[done:count]:
                shuffle(layer, generator)
            after = _heatmaps(explainer, explainer.network.of(network), images, clusters, order)
            correlations.append(rank_correlation(before, after))
        done = count
        every = torch.stack(correlations)
        yield done, {"correlation": every.mean(0), "size": every.abs().mean(0)}


def shuffle(layer: nn.Module, generator: torch.Generator) -> None:
    """Permutes the entries of each parameter and buffer of the layer, in place."""
    own = (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))
    with torch.no_grad():
        for _, values in own:
            order = torch.randperm(values.numel(), generator=generator).to(values.device)
            values.copy_(values.flatten()[order].view(values.shape))


def _heatmaps(explainer: Explainer, lrp: LRP, images: Tensor, clusters: Tensor, order: Tensor | None = None) -> Tensor:
    """Heatmaps `(N, H, W)` of the network in `lrp`; the head reads its features in the given order, `(D,)`."""
    cache = lrp.forward(explainer.model.backbone.normalise(images))
    clustering = explainer.clustering.forward(cache.output)
    features, discriminants = clustering.output
    if order is not None:
        features = features[:, order]
    head = explainer.model.head.attribute(features, clusters, None, explainer.head_rule, explainer.beta)
    relevance = head.relevance
    if order is not None:
        relevance = torch.empty_like(relevance).index_copy_(1, order, relevance)
    entering = relevance.to(features), torch.zeros_like(discriminants)
    at_features = clustering.propagate(entering, retain_graph=False).relevance
    return cache.propagate(at_features, retain_graph=False).relevance.sum(1)


def unrelated(explainer: Explainer, images: Tensor, clusters: Tensor) -> Tensor:
    """Mean absolute rank correlation of each heatmap with those of other images, `(N,)`; NaN for a single image.

    This is the chance level of `size` above: it is not 0, as a heatmap has few regions. Arguments as above.
    """
    heatmaps = _heatmaps(explainer, explainer.network, images, clusters)
    if len(heatmaps) < 2:
        return torch.full((len(heatmaps),), torch.nan, dtype=torch.float64)
    shifts = range(1, min(len(heatmaps), OTHER_IMAGES + 1))
    return torch.stack([rank_correlation(heatmaps, heatmaps.roll(shift, 0)).abs() for shift in shifts]).mean(0)


def sensitivity(
    explainer: Explainer, images: Tensor, clusters: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Explains with uniform noise of at most `SENSITIVITY_NOISE` on each value; arguments as above.

    Returns:
        Of the noise with the largest effect, `(N,)` each: the `change`, the Euclidean norm of the change as a fraction
        of the norm of the heatmap; and the rank `correlation` with the heatmap without noise.
    """
    before = _heatmaps(explainer, explainer.network, images, clusters)
    length = before.flatten(1).norm(dim=1)
    changes, correlations = [], []
    for _ in range(SENSITIVITY_SAMPLES):
        noise = (2 * torch.rand(images.shape, generator=generator).to(images) - 1) * SENSITIVITY_NOISE
        after = _heatmaps(explainer, explainer.network, (images + noise).clamp(0, 1), clusters)
        changes.append((after - before).flatten(1).norm(dim=1) / length)
        correlations.append(rank_correlation(before, after))
    return {"change": torch.stack(changes).amax(0), "correlation": torch.stack(correlations).amin(0)}


def discriminativity(explainer: Explainer, images: Tensor) -> dict[str, Tensor]:
    """Explains several targets of each image; images `(N, 3, H, W)`, from 0 to 1.

    Returns:
        Rank correlations of heatmaps of one image, `(N,)` each: `runner_up`, between the assigned cluster and the
        runner-up; `pairs`, between the assigned cluster against one competitor and against another, averaged over pairs
        of the nearest competitors, NaN where there is only one.
    """
    model = explainer.model
    with torch.no_grad():
        nearest = model(images).argsort(stable=True, dim=1, descending=True)  # (N, K)
    assigned, *others = nearest[:, : 1 + COMPETITORS].T
    pairs = [Target("pair", assigned, other) for other in others] if len(others) > 1 else []
    targets = [Target("assigned", assigned), Target("runner_up", others[0]), *pairs]
    own, second, *against = [explanation.heatmap for explanation in explainer.explain_targets(images, targets)]
    correlations = [rank_correlation(one, other) for at, one in enumerate(against) for other in against[:at]]
    mean = torch.stack(correlations).mean(0) if correlations else torch.full((len(images),), torch.nan)
    return {"runner_up": rank_correlation(own, second), "pairs": mean}


def receipts(explainer: Explainer, batches: Sequence[Tensor]) -> dict[str, float]:
    """Receipts of all images together, as shares of the sum of their discriminants; and the largest imbalance."""
    parts = [explainer.explain_targets(images, [Target("assigned")])[0].receipt for images in batches]
    total, features, pixels, absorbed = (torch.cat(column).double() for column in zip(*parts, strict=True))
    return {
        "features": float(features.sum() / total.sum()),
        "pixels": float(pixels.sum() / total.sum()),
        "absorbed": float(absorbed.sum() / total.sum()),
        "imbalance": float(((total - pixels - absorbed) / total).abs().max()),
    }


def sanity_checks(explainer: Explainer, images: Tensor, clusters: Tensor, seed: int, batch_size: int) -> dict[str, Any]:
    """The results of all checks of this file, as JSON values.

    Args:
        explainer: whose explanations are checked.
        images: `(N, 3, H, W)`, from 0 to 1.
        clusters: to explain, `(N,)`.
        seed: of noise and shuffles; all batches meet the same shuffled weights.
        batch_size: images at once.
    """
    device = explainer.model.head.centre.device
    parts = [some.to(device) for some in torch.split(images, batch_size)]
    batches = list(zip(parts, (some.to(device) for some in torch.split(clusters, batch_size)), strict=True))
    shuffled = [list(randomization(explainer, *batch, STAGES, _generator(seed))) for batch in batches]
    return {
        "images": len(images),
        "randomised": [
            {"layers": stages[0][0], **_means([figures for _, figures in stages])}
            for stages in zip(*shuffled, strict=True)
        ],
        "unrelated": interval(torch.cat([unrelated(explainer, *batch) for batch in batches]))._asdict(),
        "discriminativity": _means([discriminativity(explainer, some) for some in parts]),
        "sensitivity": _means([sensitivity(explainer, *batch, _generator(seed)) for batch in batches]),
        "receipts": receipts(explainer, parts),
    }


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _means(parts: Sequence[dict[str, Tensor]]) -> dict[str, dict[str, float]]:
    """Means with their intervals of the figures of several batches, by name."""
    return {name: interval(torch.cat([part[name] for part in parts]))._asdict() for name in parts[0]}
