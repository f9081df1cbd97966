"""The concepts that carry single images, out of the relevance of all channels for all images of a run."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from whycluster.explain.clusters import directions

STRONGEST = 3  # concepts of an image
ROWS = 1024  # images of which relevance is in memory at once


class Departure(NamedTuple):
    """A channel in which an image differs from its cluster: its part of a direction of length 1, and the cluster's."""

    channel: int
    image: float
    cluster: float


def strongest_of_each(relevance: np.ndarray, most: int = STRONGEST) -> tuple[np.ndarray, np.ndarray]:
    """Finds the channels of largest relevance of each image, and their shares of its positive relevance.

    Args:
        relevance: of each channel, `(n, C)`.
        most: channels of an image.

    Returns:
        Channels and shares, `(n, most)` each, largest first; shares are 0 where nothing speaks for a channel.

    Example:
        >>> strongest_of_each(np.array([[1.0, -1.0, 4.0]]), 2)
        (array([[2, 0]]), array([[0.8, 0.2]]))
    """
    most = min(most, relevance.shape[1])
    some = np.argpartition(-relevance, most - 1, axis=1)[:, :most]  # and a whole row is not sorted
    order = np.argsort(-np.take_along_axis(relevance, some, axis=1), axis=1, kind="stable")
    channels = np.take_along_axis(some, order, axis=1)
    positive = np.clip(relevance, 0, None)
    total = positive.sum(1, keepdims=True, dtype=np.float64)
    return channels, np.take_along_axis(positive, channels, axis=1) / np.where(total == 0, 1, total)


def departures(relevance: np.ndarray, cluster: np.ndarray, most: int = STRONGEST) -> list[list[Departure]]:
    """Finds the channels in which images differ most from their cluster, by the directions of their relevance.

    Args:
        relevance: of each channel for each image, `(n, C)`.
        cluster: the same of images of the cluster, `(m, C)`.
        most: channels of an image.

    Returns:
        Of each image, the channels of the largest differences, largest first.
    """
    mean = directions(directions(cluster).mean(0, keepdims=True))[0]
    found = []
    for own in directions(relevance):
        order = np.argsort(-np.abs(own - mean), kind="stable")[:most]
        found.append([Departure(int(channel), float(own[channel]), float(mean[channel])) for channel in order])
    return found


def relevance_of_run(file: Path, n_images: int) -> np.ndarray | None:
    """Opens the relevance of each channel for each image of a run, `(n_images, C)`, and leaves it on the disk.

    Returns:
        `None` where the file is gone, or not of these images.
    """
    try:
        relevance: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return relevance if relevance.ndim == 2 and len(relevance) == n_images and relevance.shape[1] else None


def concepts_of_images(relevance: np.ndarray, rows: np.ndarray) -> tuple[list[list[int]], list[list[float]]]:
    """Returns channels and shares of some rows, as `strongest_of_each` does, of relevance that lies on the disk."""
    channels: list[list[int]] = []
    shares: list[list[float]] = []
    for first in range(0, len(rows), ROWS):
        found, parts = strongest_of_each(relevance[rows[first : first + ROWS]])
        channels += found.tolist()
        shares += parts.round(3).tolist()
    return channels, shares
