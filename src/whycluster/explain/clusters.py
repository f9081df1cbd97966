"""What a cluster is about: typical images, doubtful ones, the concepts that carry it, and what sets it apart.

`N` images, `K` clusters, `C` channels.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from whycluster.clustering.features import FeatureStore, sample_size
from whycluster.explain.concepts import feature_relevance
from whycluster.explain.explainer import BATCH_SIZE, Explainer
from whycluster.explain.images import Images, batches
from whycluster.explain.targets import Target

PROTOTYPES = BORDERLINE = OUTLIERS = 8  # images of a cluster that are named
CONCEPTS = 5  # channels of a cluster, or of a pair, that are named
DECIDING = 3  # of the channels that decide between two clusters, those that matter most
EXAMPLES = 5  # channels of a cluster that are shown, though not named, as they decide between it and others
REGIONS = 6  # images of a cluster in which a channel is shown
MOST_RIVALS = 50  # clusters that a cluster is compared with
CONTRAST_ROWS = 100  # images of a cluster, by which it is compared with each other one
UNLIKE = 3.5  # robust standard scores above which an image is an outlier (Iglewicz and Hoaglin 1993)
FEWEST_COMPARED = 8  # images of a cluster, of which some may be outliers


class Concept(NamedTuple):
    """A channel, and its share of the positive relevance of a cluster or of a pair, above 0 and at most 1."""

    channel: int
    share: float


class Contrast(NamedTuple):
    """How a cluster differs from another one.

    Attributes:
        rival: the other cluster.
        distance: between the mean features of the two, after the steps.
        lost: how many images of the cluster have the rival as their runner-up.
        concepts: the channels that decide for the cluster and against the rival.
    """

    rival: int
    distance: float
    lost: int
    concepts: list[Concept]


class ClusterDescription(NamedTuple):
    """What is known of a cluster; images are numbers of rows.

    Attributes:
        cluster: its number.
        prototypes: images nearest to the mean of the cluster's features, nearest first.
        borderline: images of smallest discriminant, smallest first.
        outliers: images whose relevance over channels is unlike their cluster's, most unlike first, with their robust
            standard scores.
        concepts: the channels that carry its relevance, largest first.
        regions: of each concept, and of the channels that decide most contrasts, the images in which its relevance is
            largest.
        contrasts: with each other cluster that has images, by its number; of more than `MOST_RIVALS`, with those that
            are the runners-up of most images, and else with the nearest.
    """

    cluster: int
    prototypes: list[int]
    borderline: list[int]
    outliers: list[tuple[int, float]]
    concepts: list[Concept]
    regions: dict[int, list[int]]
    contrasts: list[Contrast]


class Membership(NamedTuple):
    """Where images belong: clusters, discriminants and runners-up, `(N,)` each."""

    cluster: np.ndarray
    discriminant: np.ndarray
    runner_up: np.ndarray


def concept_relevance(explainer: Explainer, features: FeatureStore, clusters: np.ndarray) -> Iterator[Tensor]:
    """Yields the relevance of each channel for a cluster, `(n, C)`, of features in batches.

    Args:
        explainer: says by which rules.
        features: of the backbone, before the steps, `(N, D)`.
        clusters: to explain, `(N,)`.
    """
    backbone, device = explainer.model.backbone, explainer.model.head.centre.device
    width = explainer.model.head.width
    parts = torch.split(torch.from_numpy(clusters), features.batch_rows(width))
    for own, batch in zip(parts, features.batches(width), strict=True):
        relevance = feature_relevance(explainer, batch.to(device), Target("assigned", own))
        yield backbone.channel_sums(relevance).float().cpu()


def describe_images(explainer: Explainer, images: Images) -> list[ClusterDescription]:
    """Describes the clusters of images, which are only run forward; see `describe_clusters`.

    Args:
        explainer: says by which rules.
        images: as in `Explainer.explain`; in what is returned they are numbers, from 0.
    """
    model, backbone = explainer.model, explainer.model.backbone
    raw, parts = [], []
    with torch.no_grad():
        for batch in batches(images, backbone.preprocessing, BATCH_SIZE):
            features = backbone(batch.to(model.head.centre.device))
            parts.append(model.assign(model.steps(features)))
            raw.append(features.cpu())
    columns = (torch.cat([getattr(part, name) for part in parts]).cpu().numpy() for name in Membership._fields)
    assigned, n_rows = Membership(*columns), sum(map(len, raw))
    with TemporaryDirectory() as folder:
        stored = FeatureStore.write(Path(folder) / "features.npy", raw, n_rows, backbone.n_features)
        relevance = concept_relevance(explainer, stored, assigned.cluster)
        concepts = FeatureStore.write(Path(folder) / "concepts.npy", relevance, n_rows, backbone.n_channels)
        return describe_clusters(explainer, stored, concepts, assigned)


def describe_clusters(
    explainer: Explainer, features: FeatureStore, concepts: FeatureStore, assigned: Membership
) -> list[ClusterDescription]:
    """Describes all clusters that have images, by what is known of their images already.

    Args:
        explainer: says by which rules relevance is passed.
        features: of the backbone, before the steps, `(N, D)`.
        concepts: relevance of each channel for the assigned cluster, `(N, C)`.
        assigned: where the images belong.
    """
    n_clusters = explainer.model.n_clusters
    means, distances = _means_and_distances(explainer, features, assigned.cluster, n_clusters)
    found = []
    for cluster in np.unique(assigned.cluster).tolist():
        rows = np.flatnonzero(assigned.cluster == cluster)
        compared = spaced(rows, sample_size(concepts.n_features, 1))
        own = concepts.rows(compared)  # (n, C)
        named = strongest(own.mean(0, dtype=np.float64))
        contrasts = _contrasts(explainer, features, assigned, cluster, means)
        channels = [concept.channel for concept in named]
        found.append(
            ClusterDescription(
                cluster,
                _first(rows, distances[rows], PROTOTYPES),
                _first(rows, assigned.discriminant[rows], BORDERLINE),
                [(int(compared[at]), score) for at, score in outliers(own)],
                named,
                {at: _first(compared, -own[:, at], REGIONS) for at in channels + deciding(contrasts, channels)},
                contrasts,
            )
        )
    return found


def strongest(relevance: np.ndarray, most: int = CONCEPTS) -> list[Concept]:
    """Returns the channels of largest positive relevance, with their shares of the sum of all positive relevance.

    Args:
        relevance: of each channel, `(C,)`.
        most: how many.

    Example:
        >>> strongest(np.array([1.0, -1.0, 4.0]))
        [Concept(channel=2, share=0.8), Concept(channel=0, share=0.2)]
    """
    total = relevance.clip(min=0).sum()
    order = np.argsort(-relevance, kind="stable")[:most]
    return [Concept(int(at), float(relevance[at] / total)) for at in order if relevance[at] > 0]


def deciding(contrasts: Iterable[Contrast], named: Sequence[int]) -> list[int]:
    """Returns the channels, without those that are named, that are among the strongest of most contrasts."""
    counts = Counter(concept.channel for contrast in contrasts for concept in contrast.concepts[:DECIDING])
    return [channel for channel, _ in counts.most_common() if channel not in named][:EXAMPLES]


def outliers(relevance: np.ndarray, most: int = OUTLIERS) -> list[tuple[int, float]]:
    """Finds rows whose relevance over channels points elsewhere than that of the others.

    A row's distance is one minus the cosine with the mean row of length 1. Its robust standard score is that of the
    logarithm of this distance among all rows, by median and median absolute deviation. The idea is that of Dreyer et
    al. 2024 (PCX, arXiv 2311.16681), who use the likelihood of a mixture of normal distributions.

    Args:
        relevance: of the images of one cluster, `(n, C)`.
        most: how many to return.

    Returns:
        Rows and their scores above `UNLIKE`, largest first.
    """
    if len(relevance) < FEWEST_COMPARED:
        return []
    found = directions(relevance)
    cosines = found @ directions(found.mean(0, keepdims=True))[0]
    distances = np.log(np.maximum(1 - cosines, 1e-12))
    median = np.median(distances)
    scale = 1.4826 * float(np.median(np.abs(distances - median)))  # of a normal distribution: its standard deviation
    if not scale:
        return []
    scores = (distances - median) / scale
    order = np.argsort(-scores, kind="stable")[:most]
    return [(int(at), float(scores[at])) for at in order if scores[at] > UNLIKE]


def directions(relevance: np.ndarray) -> np.ndarray:
    """Divides rows `(n, C)` by their norms; rows of zeros stay."""
    norms = np.linalg.norm(relevance, axis=1, keepdims=True)
    return np.asarray(relevance / np.where(norms == 0, 1, norms))


def _first(rows: np.ndarray, keys: np.ndarray, most: int) -> list[int]:
    """Returns the rows of least keys, least first."""
    chosen: list[int] = rows[np.argsort(keys, kind="stable")[:most]].tolist()
    return chosen


def spaced(rows: np.ndarray, most: int) -> np.ndarray:
    """Returns at most so many of the rows, evenly spaced."""
    return np.asarray(rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).round().astype(int)])


def _means_and_distances(
    explainer: Explainer, features: FeatureStore, clusters: np.ndarray, n_clusters: int
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the mean of each cluster after the steps, `(K, D')`, and the distance of each row to its own, `(N,)`."""
    steps = explainer.model.steps
    device = explainer.model.head.centre.device

    def after() -> Iterator[Tensor]:
        return (steps(batch.to(device)).double().cpu() for batch in features.batches())

    sums, parts = torch.zeros(n_clusters, explainer.model.head.n_features, dtype=torch.float64), []
    numbers = torch.split(torch.from_numpy(clusters), features.batch_rows())
    for own, batch in zip(numbers, after(), strict=True):
        sums.index_add_(0, own, batch)
    means = sums / torch.from_numpy(np.bincount(clusters, minlength=n_clusters))[:, None]
    for own, batch in zip(numbers, after(), strict=True):
        parts.append((batch - means[own]).norm(dim=1))
    return means.numpy(), torch.cat(parts).numpy()


def _contrasts(
    explainer: Explainer, features: FeatureStore, assigned: Membership, cluster: int, means: np.ndarray
) -> list[Contrast]:
    """Compares a cluster with others, by at most `CONTRAST_ROWS` of its images, evenly spaced."""
    rows = np.flatnonzero(assigned.cluster == cluster)
    lost = np.bincount(assigned.runner_up[rows], minlength=len(means))
    distances = np.linalg.norm(means - means[cluster], axis=1)
    others = [rival for rival in range(len(means)) if rival != cluster and np.isfinite(distances[rival])]
    rivals = sorted(sorted(others, key=lambda rival: (-lost[rival], distances[rival]))[:MOST_RIVALS])
    x: Tensor = torch.from_numpy(features.rows(spaced(rows, CONTRAST_ROWS))).to(explainer.model.head.centre.device)
    clustering, found = explainer.clustering.forward(x), []
    for rival in rivals:
        entering, _, _ = explainer.entering(clustering, Target("pair", cluster, rival))
        relevance = clustering.propagate(entering).relevance
        mean = explainer.model.backbone.channel_sums(relevance).double().mean(0).cpu().numpy()
        found.append(Contrast(rival, float(distances[rival]), int(lost[rival]), strongest(mean)))
    return found
