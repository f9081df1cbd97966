"""Do explanations depend on what they explain? On the weights they should; on noise nobody sees they should not.

Questions to the same images: of a network whose weights are shuffled, top layer first (Adebayo et al. 2018), beside how
alike heatmaps of different images are; of other clusters; of images with a little noise (Yeh et al. 2019).
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from whycluster.evaluation.statistics import interval, rank_correlation
from whycluster.explain import Explainer, Target
from whycluster.lrp import LRP

NOISE = 0.02  # of white: the most by which a value of a pixel is changed
DRAWS = 4  # of noise; the worst of them counts
STAGES = 5  # of randomisation, besides that of the clustering alone
SHUFFLES = 3  # of the weights; what is left is averaged over them
OTHERS = 5  # images that each is compared with
PAIRS = 3  # competitors, the nearest, that are asked about one by one


class Randomised(NamedTuple):
    """What is left of explanations.

    Attributes:
        layers: shuffled layers with weights, from the top; 0: only the features that the clustering reads.
        correlation: rank correlation of each heatmap with the one before, the mean over shuffles, `(N,)`; NaN where
            there is none left.
        size: the same without its sign, `(N,)`. The pattern of an image may stay and change its sign.
    """

    layers: int
    correlation: Tensor
    size: Tensor


def randomisation(
    explainer: Explainer, images: Tensor, clusters: Tensor, stages: int, generator: torch.Generator
) -> Iterator[Randomised]:
    """Explains with ever more of the weights shuffled, top layer first: of the clustering, then of the network.

    Weights keep their values and lose their places, so that activations stay as large as they were. Some shuffles are
    averaged.

    Args:
        explainer: is left as it is.
        images: `(N, 3, H, W)`, from 0 to 1.
        clusters: to explain, `(N,)`.
        stages: into how many the layers of the network are divided.
        generator: of the shuffles.
    """
    before = _heatmaps(explainer, explainer.lrp, images, clusters)
    # Of each shuffle: the order of features, the network, and its layers with weights, from the top.
    shuffled: list[tuple[Tensor, nn.Module, list[nn.Module]]] = []
    for _ in range(SHUFFLES):
        network = copy.deepcopy(explainer.lrp.network)
        layers = [
            module
            for module in network.get_submodule("backbone").modules()
            if any(True for _ in module.parameters(recurse=False))
        ][::-1]
        order = torch.randperm(explainer.model.head.n_features, generator=generator).to(images.device)
        shuffled.append((order, network, layers))
    done = 0
    for count in sorted({round(len(layers) * stage / stages) for stage in range(stages + 1)}):
        alike = []
        for order, network, layers in shuffled:
            for layer in layers[done:count]:
                shuffle(layer, generator)
            after = _heatmaps(explainer, explainer.lrp.of(network), images, clusters, order)
            alike.append(rank_correlation(before, after))
        done = count
        yield Randomised(done, torch.stack(alike).mean(0), torch.stack(alike).abs().mean(0))


def shuffle(layer: nn.Module, generator: torch.Generator) -> None:
    """Exchanges the entries of each of its parameters and statistics at random."""
    own = (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))
    with torch.no_grad():
        for _, values in own:
            order = torch.randperm(values.numel(), generator=generator).to(values.device)
            values.copy_(values.flatten()[order].view(values.shape))


def _heatmaps(explainer: Explainer, lrp: LRP, images: Tensor, clusters: Tensor, order: Tensor | None = None) -> Tensor:
    """Heatmaps `(N, H, W)` of a network, its features handed to the head in another order."""
    cache = lrp.forward(explainer.model.backbone.normalise(images))
    features, discriminants = cache.output
    if order is not None:
        features = features[:, order]
    head = explainer.model.head.attribute(features, clusters, None, explainer.head_rule, explainer.beta)
    relevance = head.relevance
    if order is not None:
        relevance = torch.empty_like(relevance).index_copy_(1, order, relevance)
    entering = relevance.to(features), torch.zeros_like(discriminants)
    return cache.propagate(entering, retain_graph=False).relevance.sum(1)


def unrelated(explainer: Explainer, images: Tensor, clusters: Tensor) -> Tensor:
    """How alike heatmaps of different images are, of which nothing has to be: rank correlations without sign, `(N,)`.

    That much is chance, as a heatmap has few regions: what is left after `randomisation` is to be compared with it. NaN
    for a single image. Arguments as above.
    """
    heatmaps = _heatmaps(explainer, explainer.lrp, images, clusters)
    if len(heatmaps) < 2:
        return torch.full((len(heatmaps),), torch.nan, dtype=torch.float64)
    shifts = range(1, min(len(heatmaps), OTHERS + 1))
    return torch.stack([rank_correlation(heatmaps, heatmaps.roll(shift, 0)).abs() for shift in shifts]).mean(0)


class Sensitivity(NamedTuple):
    """How much explanations change with a little noise, at worst; `(N,)` each.

    Attributes:
        change: of the heatmap, as a share of its length.
        correlation: rank correlation with the heatmap before.
    """

    change: Tensor
    correlation: Tensor


def sensitivity(explainer: Explainer, images: Tensor, clusters: Tensor, generator: torch.Generator) -> Sensitivity:
    """Explains with noise of at most `NOISE` on each value; arguments as above."""
    before = _heatmaps(explainer, explainer.lrp, images, clusters)
    length = before.flatten(1).norm(dim=1)
    changes, correlations = [], []
    for _ in range(DRAWS):
        noise = (2 * torch.rand(images.shape, generator=generator).to(images) - 1) * NOISE
        after = _heatmaps(explainer, explainer.lrp, (images + noise).clamp(0, 1), clusters)
        changes.append((after - before).flatten(1).norm(dim=1) / length)
        correlations.append(rank_correlation(before, after))
    return Sensitivity(torch.stack(changes).amax(0), torch.stack(correlations).amin(0))


class Discriminativity(NamedTuple):
    """Rank correlation of heatmaps of one image for different questions, `(N,)` each; NaN where there is one only.

    Attributes:
        runner_up: of the assigned cluster and of the runner-up.
        pairs: of the assigned cluster against one competitor and against another, the mean over the nearest ones.
    """

    runner_up: Tensor
    pairs: Tensor


def discriminativity(explainer: Explainer, images: Tensor) -> Discriminativity:
    """Whether different questions get different answers; images `(N, 3, H, W)`, from 0 to 1."""
    model = explainer.model
    with torch.no_grad():
        nearest = model(images).argsort(stable=True, dim=1, descending=True)  # (N, K)
    assigned, *others = nearest[:, : 1 + PAIRS].T
    pairs = [Target("pair", assigned, other) for other in others] if len(others) > 1 else []
    asked = [Target("assigned", assigned), Target("runner_up", others[0]), *pairs]
    own, second, *against = [explanation.heatmap for explanation in explainer.explain_targets(images, asked)]
    alike = [rank_correlation(one, other) for at, one in enumerate(against) for other in against[:at]]
    mean = torch.stack(alike).mean(0) if alike else torch.full((len(images),), torch.nan)
    return Discriminativity(rank_correlation(own, second), mean)


def receipts(explainer: Explainer, batches: Sequence[Tensor]) -> dict[str, float]:
    """Where the discriminants of images went, all together, as shares of them; and the worst imbalance of an image."""
    parts = [explainer.explain_targets(images, [Target("assigned")])[0].receipt for images in batches]
    total, features, pixels, absorbed = (torch.cat(column).double() for column in zip(*parts, strict=True))
    return {
        "features": float(features.sum() / total.sum()),
        "pixels": float(pixels.sum() / total.sum()),
        "absorbed": float(absorbed.sum() / total.sum()),
        "imbalance": float(((total - pixels - absorbed) / total).abs().max()),
    }


def checked(explainer: Explainer, images: Tensor, clusters: Tensor, seed: int, batch_size: int) -> dict[str, Any]:
    """All that this file asks, as plain values.

    Args:
        explainer: what is to be judged.
        images: `(N, 3, H, W)`, from 0 to 1.
        clusters: to explain, `(N,)`.
        seed: of all that is drawn; the same weights are shuffled for all images.
        batch_size: images at once.
    """
    device = explainer.model.head.centre.device
    parts = [some.to(device) for some in torch.split(images, batch_size)]
    batches = list(zip(parts, (some.to(device) for some in torch.split(clusters, batch_size)), strict=True))
    shuffled = [list(randomisation(explainer, *batch, STAGES, _generator(seed))) for batch in batches]
    return {
        "images": len(images),
        "randomised": [
            {"layers": stages[0].layers, **_plain([stage[1:] for stage in stages], ("correlation", "size"))}
            for stages in zip(*shuffled, strict=True)
        ],
        "unrelated": interval(torch.cat([unrelated(explainer, *batch) for batch in batches]))._asdict(),
        "discriminativity": _plain([discriminativity(explainer, some) for some in parts], Discriminativity._fields),
        "sensitivity": _plain(
            [sensitivity(explainer, *batch, _generator(seed)) for batch in batches], Sensitivity._fields
        ),
        "receipts": receipts(explainer, parts),
    }


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _plain(parts: Sequence[tuple[Tensor, ...]], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Columns of several batches as means with their intervals, by name."""
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return {name: interval(column)._asdict() for name, column in zip(names, columns, strict=True)}
