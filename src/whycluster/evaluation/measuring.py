"""One method on a sample of images: its heatmaps, and what flipping and masks say of them."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from whycluster.evaluation.fills import Fill
from whycluster.evaluation.flipping import flip_counts, flipping_curve, patch_means, ranks
from whycluster.evaluation.masks import hits, mass_inside, rank_accuracy
from whycluster.evaluation.methods import Method
from whycluster.explain import ClusterModel

GRID = 14  # regions in a row
MEASURES = ("discriminant", "probability", "assigned")  # of the cluster asked for; the last: whether it is the decision


class Curves(NamedTuple):
    """What flipping did to each image; the last dimension is `MEASURES`.

    Attributes:
        most: scores with the most relevant patches gone first, `(N, T, 3)`.
        least: with the least relevant ones.
    """

    most: Tensor
    least: Tensor


class InMasks(NamedTuple):
    """Heatmaps beside masks, of the `M` images that have one; see `masks`.

    Attributes:
        mass: share of the positive relevance inside, `(M,)`.
        rank: rank accuracy, `(M,)`.
        hit: whether the densest region lies inside, `(M,)`.
    """

    mass: Tensor
    rank: Tensor
    hit: Tensor


class Measured(NamedTuple):
    """One method on all images.

    Attributes:
        passes: through the network, an image.
        seconds: an image.
        curves: of each fill.
        in_masks: `None` where there are no masks.
    """

    passes: int
    seconds: float
    curves: Mapping[str, Curves]
    in_masks: InMasks | None


class Flips(NamedTuple):
    """How images are flipped.

    Attributes:
        patch: side, in pixels.
        counts: patches gone at each point of a curve.
        fills: by name.
    """

    patch: int
    counts: list[int]
    fills: Mapping[str, Fill]

    @classmethod
    def of(cls, size: tuple[int, int], patch: int, fraction: float, steps: int, fills: Mapping[str, Fill]) -> "Flips":
        """For images of a size."""
        return cls(patch, flip_counts(n_patches(size, patch), fraction, steps), fills)


def region(images: Tensor) -> int:
    """Side of a region of images `(N, 3, H, W)`, in pixels: of patches, and of what is looked at for density."""
    return max(1, min(images.shape[2:]) // GRID)


def n_patches(size: tuple[int, int], patch: int) -> int:
    """Of an image of this height and width."""
    return -(-size[0] // patch) * -(-size[1] // patch)


def measure(
    method: Method,
    model: ClusterModel,
    images: Tensor,
    clusters: Tensor,
    flips: Flips,
    masks: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 16,
    advance: Callable[[int], None] = lambda done: None,
) -> Measured:
    """Explains images with a method, and measures what comes of it.

    Args:
        method: the method.
        model: whose assignments are explained.
        images: `(N, 3, H, W)`, from 0 to 1.
        clusters: to explain, `(N,)`.
        flips: how to flip.
        masks: `(N, H, W)` bool; empty where the truth is not known.
        seed: same seed, same draws.
        batch_size: images at once.
        advance: is told how many images are done.
    """
    generator = torch.Generator().manual_seed(seed)
    heatmaps, seconds = [], 0.0
    parts: dict[str, list[Curves]] = {name: [] for name in flips.fills}
    device = model.head.centre.device
    for some in _batches(len(images), batch_size):
        batch, asked = images[some].to(device), clusters[some].to(device)
        _wait(device)
        started = time.perf_counter()
        maps = method.explain(batch, asked, generator)
        _wait(device)
        seconds += time.perf_counter() - started
        heatmaps.append(maps.cpu())
        for name, curves in _flipped(model, batch, asked, maps, flips, generator):
            parts[name].append(Curves(*(curve.cpu() for curve in curves)))
        advance(some.stop)
    joined = {name: Curves(*(torch.cat(column) for column in zip(*each, strict=True))) for name, each in parts.items()}
    inside = None if masks is None else _beside_masks(torch.cat(heatmaps), masks.cpu(), region(images))
    return Measured(method.passes, seconds / len(images), joined, inside)


def _wait(device: torch.device) -> None:
    """Until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def assigned(model: ClusterModel, images: Tensor, batch_size: int = 16) -> Tensor:
    """The cluster of each image, `(N,)`, on the CPU."""
    device = model.head.centre.device
    with torch.no_grad():
        return torch.cat([model(images[some].to(device)).argmax(1).cpu() for some in _batches(len(images), batch_size)])


@torch.no_grad()
def scores(model: ClusterModel, images: Tensor, clusters: Tensor) -> Tensor:
    """`MEASURES` of images, `(N, 3)`."""
    features = model.backbone(images)
    discriminants, probabilities = model.head(features), model.head.probability(features)
    own = [values.gather(1, clusters[:, None])[:, 0] for values in (discriminants, probabilities)]
    return torch.stack([*own, (discriminants.argmax(1) == clusters).to(own[0])], 1)


def _flipped(
    model: ClusterModel, images: Tensor, clusters: Tensor, heatmaps: Tensor, flips: Flips, generator: torch.Generator
) -> Iterator[tuple[str, Curves]]:
    """The curves of a batch, for each fill."""
    patches = patch_means(heatmaps, flips.patch)
    places = ranks(patches.flatten(1), generator).view(patches.shape)
    last = patches[0].numel() - 1

    def score(images: Tensor) -> Tensor:
        return scores(model, images, clusters)

    for name, fill in flips.fills.items():
        orders = (places, last - places)
        yield name, Curves(*(flipping_curve(score, images, by, flips.patch, flips.counts, fill) for by in orders))


def _beside_masks(heatmaps: Tensor, masks: Tensor, window: int) -> InMasks | None:
    known = masks.any(2).any(1)
    if not known.any():
        return None
    maps, masks = heatmaps[known], masks[known]
    return InMasks(mass_inside(maps, masks), rank_accuracy(maps, masks), hits(maps, masks, window).double())


def _batches(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
