"""How many clusters? k-means for each number of a range, on a sample of rows: silhouette, stability, inertia.

docs/how_many.md says how this method was chosen, and what other indices would have chosen.

`N` rows, `D` features, `K` clusters.
"""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, pairwise_distances, silhouette_score
from threadpoolctl import threadpool_limits

from whycluster.clustering.metrics import SILHOUETTE_ROWS
from whycluster.clustering.stability import bootstrap_clusters, refit_kmeans
from whycluster.errors import UserError, whole_number

AUTO = "2-20"
COMPONENTS = 50  # of the space in which all numbers are compared
N_INIT = 5
SCAN_REFITS, SCAN_REFIT_INIT = 8, 3
LEAST_STABILITY = 0.6  # adjusted Rand index with fits to bootstrap samples; below it, the clusters depend on the sample
REFERENCES = 3  # samples of the normal distribution that has no groups
CLEAR = 0.05  # that a silhouette has to lie above that of rows without groups
CLOSE = 0.05  # numbers for which it lies above that by at most this share less are as good, and fewer are preferred


class Candidate(NamedTuple):
    """A number of clusters, and how good it is.

    Attributes:
        n_clusters: `K`.
        silhouette: mean over rows, from -1 to 1, in the principal components.
        silhouette_without_groups: the same for rows of a normal distribution with the same variances.
        stability: mean adjusted Rand index with fits to bootstrap samples, at most 1.
        inertia: sum of squared distances of the rows to their centroids.
    """

    n_clusters: int
    silhouette: float
    silhouette_without_groups: float
    stability: float
    inertia: float


class HowMany(NamedTuple):
    """The choice of a number of clusters.

    Attributes:
        n_clusters: `K`.
        sure: whether the features tell.
        verdict: a sentence that says how sure it is.
        curve: all numbers that were tried, ascending.
    """

    n_clusters: int
    sure: bool
    verdict: str
    curve: list[Candidate]


def numbers_of_clusters(setting: int | str) -> range:
    """Reads the setting `head.n_clusters`: one number, a range such as `2-20`, or `auto`, which is that range.

    Raises:
        UserError: for anything else, and for fewer than two clusters.

    Example:
        >>> numbers_of_clusters(8), numbers_of_clusters("3-5"), numbers_of_clusters("auto")
        (range(8, 9), range(3, 6), range(2, 21))
    """
    if not isinstance(setting, str):
        number = whole_number("head.n_clusters", setting, 2)
        return range(number, number + 1)
    found = re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", AUTO if setting == "auto" else setting)
    if not found or not 2 <= int(found[1]) <= int(found[2]):
        raise UserError(
            f"head.n_clusters={setting!r} should be a whole number >= 2, a range of such numbers as in 2-20, or auto."
        )
    return range(int(found[1]), int(found[2]) + 1)


def choose_n_clusters(features: np.ndarray, numbers: Sequence[int] = range(2, 21), seed: int = 0) -> HowMany:
    """Chooses the number of clusters for k-means.

    Of the numbers whose clusters are stable, that is found again in bootstrap samples, it takes the one whose
    silhouette is farthest above that of as many clusters in rows without groups, or the least that is about as good.
    Rows without groups are drawn from a normal distribution with the same principal variances: so a long cloud, which
    falls into two parts more easily than a round one, does not count as two groups.

    Args:
        features: rows, or a sample of them, `(N, D)`; see `sample_size`.
        numbers: of clusters to try, ascending; those above the number of distinct rows, or of rows less one, are left
            out.
        seed: same seed, same result.

    Raises:
        UserError: for features that are not finite or all equal, fewer than three rows, or no number of at least 2.

    Example:
        >>> from sklearn.datasets import make_blobs
        >>> x, _ = make_blobs(300, centers=[[0, 0], [9, 0], [0, 9], [9, 9]], random_state=0)
        >>> choose_n_clusters(x).n_clusters
        4
    """
    x = np.asarray(features, dtype=np.float32)
    possible, most = _possible(x, numbers)
    with threadpool_limits(1):  # several threads add up in any order
        comparison = _Comparison(x, seed)
        return choose([comparison.candidate(number) for number in possible], most)


class _Comparison:
    """Rows in their principal components, beside rows without groups.

    Args:
        x: `(N, D)` float32.
        seed: same seed, same figures.
    """

    def __init__(self, x: np.ndarray, seed: int) -> None:
        random, self.seed = np.random.RandomState(seed), seed
        reduction = PCA(min(COMPONENTS, *x.shape), svd_solver="randomized", random_state=seed)
        self.z: np.ndarray = reduction.fit_transform(x)  # (N, COMPONENTS)
        self.lost = max(0.0, _scatter(x - x.mean(0)) - _scatter(self.z))
        drawn = [random.standard_normal(self.z.shape) * self.z.std(0) for _ in range(REFERENCES)]
        self.groupless = [each.astype(np.float32) for each in drawn]
        self.rows = np.sort(random.permutation(len(x))[:SILHOUETTE_ROWS])
        self.distances = [pairwise_distances(each[self.rows]) for each in (self.z, *self.groupless)]

    def candidate(self, n_clusters: int) -> Candidate:
        """Fits as many clusters to the rows, to bootstrap samples of them, and to the rows without groups."""
        fit = KMeans(n_clusters, n_init=N_INIT, random_state=self.seed).fit(self.z)
        refits = bootstrap_clusters(self.z, refit_kmeans(n_clusters, SCAN_REFIT_INIT), SCAN_REFITS, self.seed)
        stability = np.mean([adjusted_rand_score(fit.labels_, clusters) for clusters in refits])
        others = [KMeans(n_clusters, n_init=1, random_state=self.seed).fit_predict(each) for each in self.groupless]
        silhouette, *without = (
            _silhouette(distances, clusters[self.rows])
            for distances, clusters in zip(self.distances, (fit.labels_, *others), strict=True)
        )
        inertia = float(fit.inertia_) + self.lost
        return Candidate(n_clusters, silhouette, float(np.mean(without)), float(stability), inertia)


def _scatter(x: np.ndarray) -> float:
    return float(np.square(x, dtype=np.float64).sum())


def _possible(x: np.ndarray, numbers: Sequence[int]) -> tuple[list[int], int]:
    """Returns the numbers of clusters that these rows allow, and the largest of all that they would allow."""
    if not np.isfinite(x).all():
        raise UserError("the features contain NaN or infinity; the weights of the backbone are not usable.")
    n_distinct = len(np.unique(x, axis=0))
    most = min(n_distinct, len(x) - 1)
    if most < 2:
        raise UserError(
            f"the number of clusters cannot be chosen for {len(x)} images with {n_distinct} different features; give "
            "head.n_clusters as a number, or more images."
        )
    possible = [number for number in numbers if 2 <= number <= most]
    if not possible:
        raise UserError(
            f"the number of clusters should be from 2 to {most} for {len(x)} images with {n_distinct} different "
            f"features, which leaves none of {_listed(list(numbers))}."
        )
    return possible, most


def _silhouette(distances: np.ndarray, clusters: np.ndarray) -> float:
    """Computes the mean silhouette by distances `(n, n)`; 0, as of clusters that overlap, where there is but one."""
    if not 2 <= len(np.unique(clusters)) < len(clusters):
        return 0.0
    return float(silhouette_score(distances, clusters, metric="precomputed"))


def choose(curve: list[Candidate], most_clusters: int) -> HowMany:
    """Chooses, of the numbers that are stable, the one whose silhouette is farthest above that of rows without groups,
    or the least of those that are about as good.

    Args:
        curve: the numbers that were tried, ascending.
        most_clusters: the largest number that can be tried.
    """
    stable = [one for one in curve if one.stability >= LEAST_STABILITY]
    if not stable:
        reason = f"no clustering into {_listed([one.n_clusters for one in curve])} is stable"
        return HowMany(curve[0].n_clusters, False, _unknown(reason, curve[0].n_clusters), curve)
    most = max(stable, key=_excess)
    least = _excess(most) - CLOSE * abs(_excess(most))
    close = [one.n_clusters for one in stable if _excess(one) >= least]
    if _excess(most) < CLEAR:
        reason = "silhouettes are hardly above those of rows without groups"
        return HowMany(close[0], False, _unknown(reason, close[0]), curve)
    also = f", and {_listed(close[1:])} nearly as much" if len(close) > 1 else ""
    edge = "; silhouettes rise up to the largest number that was tried" if most is curve[-1] else ""
    if edge and most.n_clusters < most_clusters:
        edge += ", so try larger ones"
    return HowMany(close[0], True, f"{close[0]} clusters stand out most{also}{edge}", curve)


def _excess(one: Candidate) -> float:
    return one.silhouette - one.silhouette_without_groups


def _unknown(reason: str, n_clusters: int) -> str:
    return (
        f"these features do not tell how many groups there are: {reason}; {n_clusters} is a cautious choice, "
        "not a finding"
    )


def _listed(numbers: list[int]) -> str:
    """Lists numbers, as in `2 to 4, 7`."""
    runs = itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])  # in a run, both rise together
    ends = [(run[0][1], run[-1][1]) for run in ([*pairs] for _, pairs in runs)]
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in ends)
