"""Do images look the same at one place? What a logo, a caption or a frame does, and photographs do not.

`n` images of `T` by `T` pixels, `t` typical ones among them, grids of `P` by `P` cells. Distances and products are
summed up in cells first: so images are read once for a region and what is outside of it.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW = 5  # pixels, of the mean that is subtracted to see edges


class Likeness(NamedTuple):
    """How much images look like some typical ones, in each cell.

    Attributes:
        typical: rows of the typical images, `(t,)`.
        n_values: of the colours of an image in a cell.
        distances: squared, of colours to the median of the (other) typical images, `(P², n)`.
        squares: of edges, `(P², n)`.
        products: of edges with those of the typical images, `(P², n, t)`.
    """

    typical: np.ndarray
    n_values: int
    distances: np.ndarray
    squares: np.ndarray
    products: np.ndarray

    def similarities(self, region: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Computes how much images look in a region like the typical ones, `(n,)`.

        By colours it is `1 - |x - m|² / median |x_other - m|²` where `m` is the median of the (other) typical images;
        by edges, the cosine of the edges with the mean edges of the (other) typical images. The one that tells typical
        images from others better is returned. Both are 1 for images that are the same, and about 0 where they have
        nothing in common.

        Args:
            region: `(P, P)` bool.
            others: rows of images that are not typical.
        """
        inside = np.flatnonzero(region)
        found = [self._by_colours(inside, others), self._by_edges(inside)]
        return max(found, key=lambda one: sameness(one, self.typical, others))

    def _by_colours(self, cells: np.ndarray, others: np.ndarray) -> np.ndarray:
        distances = self.distances[cells].sum(0) / (len(cells) * self.n_values)
        scale = np.median(distances[others])
        return np.clip(1 - distances / scale, -1, 1) if scale else np.zeros_like(distances)

    def _by_edges(self, cells: np.ndarray) -> np.ndarray:
        norms = np.sqrt(self.squares[cells].sum(0)).clip(min=1 / 255)  # less than a step of one pixel is rounding
        cosines = self.products[cells].sum(0) / np.outer(norms, norms[self.typical])  # (n, t)
        among = cosines[self.typical]  # (t, t)
        total, own = among.sum(), among.diagonal()
        summed, squared = cosines.sum(1), np.full(len(norms), total)  # product with their sum, and its square
        summed[self.typical] -= own  # an image is not compared with itself
        squared[self.typical] += own - 2 * among.sum(1)
        similarities: np.ndarray = summed / np.sqrt(squared.clip(min=1e-12))
        return similarities


class Appearance:
    """What images look like: their colours, and their edges.

    Args:
        pixels: `(n, 3, T, T)` uint8.
        side: `P`, of which `T` is a multiple.
    """

    def __init__(self, pixels: np.ndarray, side: int) -> None:
        images = torch.from_numpy(pixels)
        grey = images.sum(1, keepdim=True, dtype=torch.int16).float() / (3 * 255)
        around = F.avg_pool2d(grey, WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False)
        self.colours, self.edges = _in_cells(images, side).float().div_(255), _in_cells(grey - around, side)
        self.squares = [
            torch.linalg.vector_norm(values, dim=2).square() for values in (self.colours, self.edges)
        ]  # (P², n) each

    def like(self, typical: np.ndarray) -> Likeness:
        """Compares all images with typical ones, given by their rows, two at least; each of these with the others."""
        own = self.colours[:, typical].transpose(0, 1)  # (t, P², values)
        middle, middles = median_and_without(own)
        # |x - m|² = |x|² - 2 x·m + |m|²: values are at most 1, so that float32 loses no more than 1e-6 of a value.
        products = (self.colours @ middle[..., None])[..., 0]
        distances = self.squares[0] - 2 * products + middle.square().sum(1, keepdim=True)
        distances[:, typical] = (own - middles).square().sum(2).T
        among_edges = self.edges @ self.edges[:, typical].transpose(1, 2)
        arrays = (values.numpy() for values in (distances, self.squares[1], among_edges))
        return Likeness(typical, self.colours.shape[2], *arrays)


def sameness(similarity: np.ndarray, typical: np.ndarray, others: np.ndarray) -> float:
    """Computes by how much typical images are more alike than others, by medians, from 0 to 1."""
    return float(np.clip(np.median(similarity[typical]) - np.median(similarity[others]).clip(min=0), 0, 1))


def median_and_without(values: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the median over the rows of `(t, …)`, and for each row that of the others, `(t, …)`; `t` is 2 at least.

    Example:
        >>> median_and_without(torch.tensor([1.0, 5.0, 2.0]))
        (tensor(2.), tensor([3.5000, 1.5000, 3.0000]))
    """
    ordered, n = values.sort(0).values, len(values)
    # Without a row, those above it move down by one.
    low, high = (
        torch.where(values <= ordered[at], ordered[at + 1], ordered[at]) for at in ((n - 2) // 2, (n - 1) // 2)
    )
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2, (low + high) / 2


def _in_cells(images: Tensor, side: int) -> Tensor:
    """Sorts the values of `(n, c, T, T)` by cells, `(P², n, values)`."""
    n, channels, _, width = images.shape
    size = width // side
    cells = images.view(n, channels, side, size, side, size).permute(2, 4, 0, 1, 3, 5)
    return cells.reshape(side**2, n, channels * size**2)
