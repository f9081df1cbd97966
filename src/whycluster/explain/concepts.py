"""Concepts: the channels of the features that carry the relevance of a cluster, and where in images each is seen.

The relevance of a channel is conditional: what passes through this channel alone (Achtibat et al. 2023, From
attribution maps to human-understandable explanations through concept relevance propagation, arXiv 2206.03208). As
propagation is linear in the relevance, the conditional heatmaps of all channels add up to the heatmap.

`N` images, `C` channels, `D` features.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from whycluster.data import PreparedImages
from whycluster.data.image_pass import CPU_BATCH
from whycluster.explain.explainer import Explainer
from whycluster.explain.targets import Target

REGION = 1 / 3  # side of a region, as a fraction of the image's shorter side
BLUR = 1 / 24  # of that side: standard deviation of the blur before the place of a region is chosen


class Box(NamedTuple):
    """A square in an image, in pixels."""

    top: int
    left: int
    side: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """Cuts it out of `(H, W, ...)`."""
        return image[self.top : self.top + self.side, self.left : self.left + self.side]


def feature_relevance(explainer: Explainer, features: Tensor, target: Target) -> Tensor:
    """Computes the relevance of features `(N, D)` of the backbone, of the same shape, without a pass through it."""
    clustering = explainer.clustering.forward(features)
    entering, _, _ = explainer.entering(clustering, target)
    return clustering.propagate(entering, retain_graph=False).relevance


def concept_heatmaps(explainer: Explainer, images: Tensor, target: Target, channels: Tensor) -> Tensor:
    """Computes what passes through one channel alone, for several channels of each image.

    One backward pass serves a channel of every image, and all share one forward pass.

    Args:
        explainer: says by which rules.
        images: `(N, 3, H, W)`.
        target: what is explained.
        channels: of each image, `(N, n)`; below 0: none.

    Returns:
        `(N, n, H, W)`; zeros where there is no channel.
    """
    network = explainer.network.forward(explainer.model.backbone.normalise(images))
    relevance = feature_relevance(explainer, network.output, target)
    of_feature = explainer.model.backbone.network.channels.to(channels.device)
    heatmaps = []
    for number, channel in enumerate(channels.T, start=1):
        through = torch.where(of_feature == channel[:, None], relevance, 0)
        heatmaps.append(network.propagate(through, number < channels.shape[1]).relevance.sum(1))
    return torch.stack(heatmaps, 1)


class ConceptHeatmap(NamedTuple):
    """What passes through one channel alone, in one image."""

    row: int
    channel: int
    photo: np.ndarray  # as the network saw it, (H, W, 3) uint8
    heatmap: np.ndarray  # (H, W)


def concept_heatmaps_of(
    explainer: Explainer, images: PreparedImages, clusters: np.ndarray, wanted: Mapping[int, Sequence[int]]
) -> Iterator[ConceptHeatmap]:
    """Computes conditional heatmaps of some images of a collection; few at once, as all values are kept for several
    channels.

    Args:
        explainer: says by which rules.
        images: the images.
        clusters: to explain, of all of them, `(N,)`.
        wanted: row of an image `->` channels.

    Yields:
        A heatmap for each image and channel, in no order; none for an image that can no longer be read.
    """
    device = explainer.model.head.centre.device
    # Images of as many channels are computed together, as a batch takes a backward pass for each of the most channels.
    order = sorted(wanted, key=lambda row: (-len(wanted[row]), row))
    items = ((row, images[row][1]) for row in order)
    readable = ((row, image) for row, image in items if isinstance(image, Tensor))
    for some in _batched(readable, CPU_BATCH):
        rows, photos = [row for row, _ in some], torch.stack([photo for _, photo in some])
        channels = torch.full((len(rows), max(len(wanted[row]) for row in rows)), -1)
        for at, row in enumerate(rows):
            channels[at, : len(wanted[row])] = torch.tensor(list(wanted[row]))
        target = Target("assigned", torch.from_numpy(clusters[rows]))  # not computed anew, as there may be ties
        found = concept_heatmaps(explainer, photos.to(device), target, channels.to(device)).float().cpu()
        for at, row in enumerate(rows):
            for channel, heatmap in zip(wanted[row], found[at], strict=False):  # others have more channels
                yield ConceptHeatmap(row, channel, photos[at].permute(1, 2, 0).numpy(), heatmap.numpy())


def strongest_region(heatmap: np.ndarray) -> Box:
    """Finds the square where the positive relevance of a heatmap `(H, W)` is densest, after a blur.

    Example:
        >>> heatmap = np.zeros((30, 30))
        >>> heatmap[20, 3] = 1
        >>> strongest_region(heatmap)
        Box(top=15, left=0, side=10)
    """
    height, width = heatmap.shape
    side = max(1, round(REGION * min(height, width)))
    density = gaussian_filter(heatmap.clip(min=0), BLUR * min(height, width))
    row, column = np.unravel_index(density.argmax(), density.shape)
    top = min(max(int(row) - side // 2, 0), height - side)
    left = min(max(int(column) - side // 2, 0), width - side)
    return Box(top, left, side)


def _batched(items: Iterator[tuple[int, Tensor]], size: int) -> Iterator[list[tuple[int, Tensor]]]:
    """Splits items into lists of at most `size`."""
    while some := list(islice(items, size)):
        yield some
