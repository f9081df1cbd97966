"""Where in images the relevance of a cluster lies: its share in regions of a grid, regions that stand out, and
sub-groups of images that are explained alike.

`n` images, grids of `P` by `P` cells; the relevance of a cell is the mean of a heatmap there.
"""

import warnings

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import kneighbors_graph

CORNERS = ("the top left corner", "the top right corner", "the bottom left corner", "the bottom right corner")
EDGES = ("the top edge", "the bottom edge", "the left edge", "the right edge")
CORNER_SIZES = {"a quarter": 1 / 4, "half": 1 / 2}  # of the side
DEPTH = 3 / 14  # of an edge, as a fraction of the side; of the border, half of it
LARGEST = 0.35  # of all cells, that a region may hold
NEIGHBOURS = 8  # in the graph of images that are explained alike
MOST_GROUPS = 4
FEWEST_SPLIT = 10  # images that are searched for sub-groups


def relevance_shares(places: np.ndarray) -> np.ndarray:
    """Divides the positive relevance of each image by its sum, `(n, P, P)`; an image without any has zeros."""
    positive = places.clip(min=0).astype(np.float64)
    total = positive.sum((1, 2), keepdims=True)
    shares: np.ndarray = np.divide(positive, total, out=np.zeros_like(positive), where=total > 0)
    return shares


def fixed_regions(side: int) -> dict[str, np.ndarray]:
    """Returns corners, edges and the border with their names, `(P, P)` bool each."""
    regions = {}
    for words, fraction in CORNER_SIZES.items():
        size = max(1, round(fraction * side))
        low, high = slice(size), slice(side - size, None)
        for name, rows, columns in zip(CORNERS, (low, low, high, high), (low, high, low, high), strict=True):
            regions[f"{name}, {words} of the side"] = _mask(side, rows, columns)
    depth, every = max(1, round(DEPTH * side)), slice(None)
    low, high = slice(depth), slice(side - depth, None)
    for name, rows, columns in zip(EDGES, (low, high, every, every), (every, every, low, high), strict=True):
        regions[name] = _mask(side, rows, columns)
    thin = max(1, round(DEPTH * side / 2))
    inner = slice(thin, side - thin)
    regions["the border"] = ~_mask(side, inner, inner)
    return regions


def excess_region(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Finds the cells to which images of a cluster give more of their relevance than others do, `(P, P)` bool.

    Cells are taken by how many standard errors the means of the two differ, until they hold four fifths of the
    positive differences that are above three standard errors, or `LARGEST` of all cells.

    Args:
        own: shares of the images of the cluster, `(n, P, P)`.
        others: shares of others, `(m, P, P)`.
    """
    difference = own.mean(0) - others.mean(0)
    error = np.sqrt(own.var(0) / len(own) + others.var(0) / len(others))
    score = gaussian_filter(np.divide(difference, error, out=np.zeros_like(error), where=error > 0), 0.5)
    gain = np.where((score > 3) & (difference > 0), difference, 0)
    order = np.argsort(-score, axis=None, kind="stable")
    held = np.cumsum(gain.ravel()[order])
    n_cells = min(int((held < 0.8 * held[-1]).sum()) + 1, int(LARGEST * gain.size)) if held[-1] > 0 else 0
    region = np.zeros(gain.size, dtype=bool)
    region[order[:n_cells]] = True
    return (region & (gain.ravel() > 0)).reshape(gain.shape)


def sub_groups(shares: np.ndarray, seed: int = 0) -> tuple[np.ndarray, float]:
    """Groups images that are explained alike by spectral clustering (SpRAy: Lapuschkin et al. 2019, doi
    10.1038/s41467-019-08987-4), as many as the largest gap of the eigenvalues says.

    Args:
        shares: of their relevance, `(n, P, P)`.
        seed: of k-means in the space of the eigenvectors.

    Returns:
        The group of each image, `(n,)`, and the eigengap, from 0 to 1; one group and 0 for fewer than `FEWEST_SPLIT`
        images.
    """
    n = len(shares)
    if n < FEWEST_SPLIT:
        return np.zeros(n, dtype=int), 0.0
    x = np.sqrt(shares.reshape(n, -1))  # their distances are those of Hellinger
    graph = kneighbors_graph(x, min(NEIGHBOURS, n - 1))
    affinity = ((graph + graph.T) / 2).toarray()
    degrees = affinity.sum(1)
    laplacian = np.eye(n) - affinity / np.sqrt(degrees[:, None] * degrees)
    values, vectors = np.linalg.eigh(laplacian)
    gaps = np.diff(values[: MOST_GROUPS + 1])  # the first is the gap behind one group
    n_groups = int(gaps.argmax()) + 1
    if n_groups == 1:
        return np.zeros(n, dtype=int), 0.0
    rows = vectors[:, :n_groups] / np.linalg.norm(vectors[:, :n_groups], axis=1, keepdims=True).clip(min=1e-12)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):  # images that are explained the same
        groups: np.ndarray = KMeans(n_groups, n_init=10, random_state=seed).fit_predict(rows)
    return groups, float(gaps[n_groups - 1])


def random_region(region: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Draws a connected region of the same number of cells that has as little in common with a region as possible.

    Args:
        region: `(P, P)` bool.
        random: where it begins, and how it grows.
    """
    distance = np.add.outer(*[(np.arange(size) - random.randint(size)) ** 2.0 for size in region.shape])
    order = np.argsort(distance + 1e6 * region + random.rand(*region.shape), axis=None, kind="stable")
    drawn = np.zeros(region.size, dtype=bool)
    drawn[order[: int(region.sum())]] = True
    return drawn.reshape(region.shape)


def _mask(side: int, rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((side, side), dtype=bool)
    mask[rows, columns] = True
    return mask
