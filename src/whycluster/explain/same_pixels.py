"""Do images look the same at one place? What a logo, a caption or a frame does, and photographs do not.

`n` images, `(n, 3, T, T)`.
"""

import numpy as np
import torch
from torch.nn import functional as F

WINDOW = 5  # pixels, of the mean that is subtracted to see edges


def edges_of(pixels: np.ndarray) -> np.ndarray:
    """Computes what a pixel differs from the mean of those around it by, of grey values, `(n, 1, T, T)`."""
    grey = torch.from_numpy(pixels.mean(1, keepdims=True, dtype=np.float32) / 255)
    around = F.avg_pool2d(grey, WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False)
    edges: np.ndarray = (grey - around).numpy()
    return edges


def similarities(
    pixels: np.ndarray, edges: np.ndarray, typical: np.ndarray, others: np.ndarray, region: np.ndarray
) -> np.ndarray:
    """Computes how much images look in a region like the typical ones of a cluster do, `(n,)`.

    By colours it is `1 - |x - t|² / median |x_other - t|²` where `t` is the median of the (other) typical images; by
    edges, the cosine of the edges with the mean edges of the (other) typical images. The one that tells typical images
    from others better is returned. Both are 1 for images that are the same, and about 0 where they have nothing in
    common.

    Args:
        pixels: all images, uint8.
        edges: of these; see `edges_of`.
        typical: rows of images of the cluster.
        others: rows of images of other clusters.
        region: `(P, P)` bool, of which `T` is a multiple.
    """
    found = [_by_colours(pixels, typical, others, region), _by_edges(edges, typical, region)]
    return max(found, key=lambda one: sameness(one, typical, others))


def sameness(similarity: np.ndarray, typical: np.ndarray, others: np.ndarray) -> float:
    """Computes by how much typical images are more alike than others, by medians, from 0 to 1."""
    return float(np.clip(np.median(similarity[typical]) - np.median(similarity[others]).clip(min=0), 0, 1))


def _by_colours(pixels: np.ndarray, typical: np.ndarray, others: np.ndarray, region: np.ndarray) -> np.ndarray:
    x = _inside(pixels, region).astype(np.float32) / 255  # (n, 3·pixels)
    distances = np.square(x - np.median(x[typical], 0)).mean(1)
    for at in typical if len(typical) > 1 else ():  # an image is not compared with itself
        distances[at] = np.square(x[at] - np.median(x[typical[typical != at]], 0)).mean()
    scale = np.median(distances[others])
    return np.clip(1 - distances / scale, -1, 1) if scale else np.zeros(len(x))


def _by_edges(edges: np.ndarray, typical: np.ndarray, region: np.ndarray) -> np.ndarray:
    x = _inside(edges, region)
    x /= np.linalg.norm(x, axis=1, keepdims=True).clip(min=1 / 255)  # less than a step of one pixel is rounding
    total = x[typical].sum(0)
    templates = np.tile(total, (len(x), 1))
    templates[typical] -= x[typical]  # an image is not compared with itself
    cosines: np.ndarray = (x * templates).sum(1) / np.linalg.norm(templates, axis=1).clip(min=1e-6)
    return cosines


def _inside(images: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Cuts the pixels of a region out of `(n, c, T, T)`, `(n, c·pixels)`."""
    size = images.shape[-1] // len(region)
    mask = region.repeat(size, 0).repeat(size, 1)
    return images[:, :, mask].reshape(len(images), -1)
