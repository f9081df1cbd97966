"""How images moved from the clusters of one clustering to those of another one."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import contingency_matrix


class Moves(NamedTuple):
    """How the images that two clusterings share are distributed in them.

    Attributes:
        images: how many there are, `N`.
        before: numbers of the clusters that hold some of them before.
        after: likewise after.
        counts: images in each cluster before (a row) and after (a column).
        same: cluster before `->` the cluster after that takes its place, by the best matching of all clusters.
        moved: images that are in another cluster than that.
        ari: adjusted Rand index of the two clusterings.
    """

    images: int
    before: list[int]
    after: list[int]
    counts: list[list[int]]
    same: dict[int, int]
    moved: int
    ari: float


def moves(before: Mapping[str, int], after: Mapping[str, int]) -> Moves | None:
    """Compares two clusterings by the images that both have; `None` if there are none.

    Args:
        before: name of an image `->` its cluster.
        after: likewise.

    Example:
        >>> found = moves({"a": 0, "b": 0, "c": 1, "d": 1}, {"a": 5, "b": 5, "c": 5, "d": 3, "e": 3})
        >>> found.counts, found.same, found.moved
        ([[0, 2], [1, 1]], {0: 5, 1: 3}, 1)
    """
    shared = [name for name in before if name in after]
    if not shared:
        return None
    first, second = (np.array([clusters[name] for name in shared]) for clusters in (before, after))
    rows, columns = np.unique(first).tolist(), np.unique(second).tolist()
    counts = contingency_matrix(first, second)
    matched = linear_sum_assignment(counts, maximize=True)
    same = {rows[row]: columns[column] for row, column in zip(*matched, strict=True)}
    moved = len(shared) - int(counts[matched].sum())
    ari = float(adjusted_rand_score(first, second))
    return Moves(len(shared), rows, columns, counts.tolist(), same, moved, ari)
