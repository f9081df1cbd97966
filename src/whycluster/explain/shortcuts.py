"""Is a cluster held together by an artefact, such as a logo, a frame or a blur, and not by what its images show?

Three signals nominate: where relevance lies and whether images look the same there; sub-groups of images that are
explained alike (SpRAy: Lapuschkin et al. 2019, doi 10.1038/s41467-019-08987-4); and properties of images that tell the
cluster from others. A causal check decides: how many images leave the cluster without the suspected region.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import fisher_exact
from torch import Tensor
from torch.nn import functional as F

from whycluster.clustering.features import FeatureStore
from whycluster.data import PreparedImages
from whycluster.data.image_pass import computed_at_once
from whycluster.data.inpainting import inpainted
from whycluster.explain.clusters import Concept, spaced, strongest
from whycluster.explain.concepts import feature_relevance
from whycluster.explain.explainer import Explainer
from whycluster.explain.image_properties import with_colours_of
from whycluster.explain.property_tests import Separation, separation
from whycluster.explain.relevance_places import random_region, relevance_shares
from whycluster.explain.suspected_regions import Suspect, most_suspect
from whycluster.explain.targets import Target

CHECKED = 15  # images of the causal check
FEWEST_JUDGED = 5  # images that a cluster has to have
FEWEST_BY_PROPERTIES = 10  # if properties alone decide: with fewer, one of many may tell them from others by chance
MOST_OTHERS = 300  # images of other clusters that a cluster is compared with
NOMINATED = 0.15  # strength of a suspicion from which on it is checked
CHANNELS = 24  # channels that are named, at most
EFFECT = 1 / 3  # of the images that leave without the region, more than do without another one
LEVEL = 0.01  # of Fisher's exact test, one-sided
FLAGGED = 0.45  # score from which on a cluster is flagged
SIGNALS = (
    *("properties", "property", "places", "same_pixels", "sub_groups"),
    *("leave_filled", "leave_control", "leave_recoloured", "leave_opposite"),
)


class Sample(NamedTuple):
    """Images by which clusters are judged, `n` of them.

    Attributes:
        rows: their numbers, `(n,)`.
        clusters: to which they belong, `(n,)`.
        properties: of each, `(n, F)`; see `image_properties`.
        places: their relevance on a grid, `(n, P, P)`.
        pixels: thumbnails, `(n, 3, T, T)` uint8.
    """

    rows: np.ndarray
    clusters: np.ndarray
    properties: np.ndarray
    places: np.ndarray
    pixels: np.ndarray


class Departures(NamedTuple):
    """How many of some images leave their cluster without what is suspected, and how many in the control."""

    images: int
    without: int
    control: int

    @property
    def effect(self) -> float:
        """Difference of the two fractions, at least 0."""
        return max(0.0, (self.without - self.control) / self.images) if self.images else 0.0

    @property
    def is_clear(self) -> bool:
        """Whether the difference is large, and larger than chance makes it."""
        table = [[self.without, self.images - self.without], [self.control, self.images - self.control]]
        return self.effect >= EFFECT and float(fisher_exact(table, "greater").pvalue) <= LEVEL


class Shortcut(NamedTuple):
    """What speaks for a cluster being held together by an artefact.

    Attributes:
        score: from 0 to 1.
        flagged: whether people should be warned.
        warning: the warning; empty if not flagged.
        evidence: sentences.
        signals: name `->` number; `None`: not measured.
        rows: images of the cluster that are most likely to carry it, most likely first.
        concepts: channels that carry it, and their shares of what is lost with it, largest first.
    """

    score: float
    flagged: bool
    warning: str
    evidence: list[str]
    signals: dict[str, float | None]
    rows: list[int]
    concepts: list[Concept]


def find_shortcuts(
    explainer: Explainer, images: PreparedImages, features: FeatureStore, sample: Sample
) -> dict[int, Shortcut]:
    """Judges each cluster of a sample.

    Args:
        explainer: with the model.
        images: all images, by the numbers of the sample.
        features: of the backbone, of all images.
        sample: images of all clusters.
    """
    return {
        int(cluster): _judged(explainer, images, features, sample, int(cluster))
        for cluster in np.unique(sample.clusters)
    }


def _judged(
    explainer: Explainer, images: PreparedImages, features: FeatureStore, sample: Sample, cluster: int
) -> Shortcut:
    own, others = np.flatnonzero(sample.clusters == cluster), np.flatnonzero(sample.clusters != cluster)
    if len(own) < FEWEST_JUDGED or len(others) < FEWEST_JUDGED:
        return Shortcut(0.0, False, "", ["too few images to judge"], dict.fromkeys(SIGNALS), [], [])
    compared = np.concatenate([own, spaced(others, MOST_OTHERS)])
    sample = Sample(*(column[compared] for column in sample))
    own, others = np.arange(len(own)), np.arange(len(own), len(compared))
    apart = separation(sample.properties, own, others)
    suspects = most_suspect(relevance_shares(sample.places), sample.pixels, own, others)
    regions = [_by_region(explainer, images, features, sample, cluster, suspect) for suspect in suspects]
    found = [
        max(regions, key=lambda one: (one.flagged, one.score)),
        _by_properties(explainer, images, sample, cluster, apart),
    ]
    best = max(found, key=lambda one: (one.flagged, one.score))
    if found[0].flagged:  # a region says more than a property, which it changes, too
        best = found[0]
    signals = {name: value for one in found for name, value in one.signals.items() if value is not None}
    evidence = [sentence for one in (best, *(one for one in found if one is not best)) for sentence in one.evidence]
    return best._replace(
        score=max(one.score for one in found), signals=dict.fromkeys(SIGNALS) | signals, evidence=evidence
    )


def _by_region(
    explainer: Explainer,
    images: PreparedImages,
    features: FeatureStore,
    sample: Sample,
    cluster: int,
    suspect: Suspect,
) -> Shortcut:
    """Judges a suspected region: fills it in, and another one of the same size."""
    signals: dict[str, float | None] = {
        "places": suspect.concentration,
        "same_pixels": suspect.sameness,
        "sub_groups": suspect.eigengap,
    }
    own = np.flatnonzero(sample.clusters == cluster)
    ranked = sample.rows[own[np.argsort(-suspect.similarity[own], kind="stable")]].tolist()
    evidence = [
        f"{suspect.place}: {suspect.members} of its images have {suspect.concentration:.1f} times as much of their "
        f"relevance there as those of other clusters, and are {suspect.sameness:.0%} more alike there"
    ]
    nominated = suspect.typical[: CHECKED if suspect.strength >= NOMINATED else 0]
    left, carriers = _without_region(explainer, images, features, sample.rows[nominated], suspect.region, cluster)
    if not left.images:
        return Shortcut(0.2 * suspect.strength, False, "", evidence, signals, ranked, [])
    told = (
        f"of the {left.images} images with most relevance there, {left.without} leave this cluster when "
        f"{suspect.place} is filled in, and {left.control} when another region of the same size is"
    )
    score = _score(suspect.strength, left)
    flagged = score >= FLAGGED and left.is_clear
    warning = f"This cluster may be held together by {suspect.place}: {told}." if flagged else ""
    signals |= {"leave_filled": left.without / left.images, "leave_control": left.control / left.images}
    return Shortcut(score, flagged, warning, [told, *evidence], signals, ranked, carriers)


def _without_region(
    explainer: Explainer,
    images: PreparedImages,
    features: FeatureStore,
    wanted: np.ndarray,
    region: np.ndarray,
    cluster: int,
) -> tuple[Departures, list[Concept]]:
    """Fills a region of images in, and in the control another one of the same size; returns the channels that lose most
    relevance by it, too.
    """
    photos, rows = _read(images, wanted.tolist())
    if not rows:
        return Departures(0, 0, 0), []
    device = explainer.model.head.centre.device
    random = np.random.RandomState(cluster)
    regions = np.stack([region] * len(rows)), np.stack([random_region(region, random) for _ in rows])
    without, control = (_features(explainer, filled(photos, some).to(device)) for some in regions)
    left = Departures(len(rows), *(_leaving(explainer, some, cluster) for some in (without, control)))
    before = torch.from_numpy(features.rows(np.array(rows))).to(device)
    return left, strongest(_lost_relevance(explainer, before, without, cluster), CHANNELS)


def _by_properties(
    explainer: Explainer, images: PreparedImages, sample: Sample, cluster: int, apart: Separation
) -> Shortcut:
    """Judges properties of images; of colours it can be tested whether images leave the cluster without them."""
    signals: dict[str, float | None] = {"properties": apart.auc, "property": apart.best_auc}
    ranked = sample.rows[apart.ranked].tolist()
    evidence = [
        f"{apart.name} alone tells its images from others with an AUC of {apart.best_auc:.2f} "
        f"(median {apart.median_own:.3g}, elsewhere {apart.median_others:.3g}); all properties with {apart.auc:.2f}"
    ]
    if not apart.is_extreme:
        return Shortcut(0.3 * apart.strength, False, "", evidence, signals, ranked, [])
    score, told, is_clear = apart.strength, "", len(apart.ranked) >= FEWEST_BY_PROPERTIES
    if apart.is_of_colour:
        left = _without_colours(explainer, images, sample, cluster, apart)
        if left.images:
            told = (
                f"; {left.without} of {left.images} leave this cluster when they are given the colours of others, "
                f"and {left.control} of {left.images} when their colours are changed as much the other way"
            )
            score, is_clear = _score(score, left), left.is_clear
            signals |= {"leave_recoloured": left.without / left.images, "leave_opposite": left.control / left.images}
    flagged = score >= FLAGGED and is_clear
    warning = f"This cluster may be held together by its {apart.name}: {evidence[0]}{told}." if flagged else ""
    return Shortcut(score, flagged, warning, [evidence[0] + told], signals, ranked, [])


def _score(strength: float, left: Departures) -> float:
    """Joins a suspicion with the outcome of its check; one that chance may have made counts half."""
    return float(np.sqrt(strength * left.effect)) * (1 if left.is_clear else 0.5)


def _without_colours(
    explainer: Explainer, images: PreparedImages, sample: Sample, cluster: int, apart: Separation
) -> Departures:
    """Gives images the colours of other clusters; the control changes them as much in the opposite direction."""
    x = sample.pixels[sample.clusters != cluster].astype(np.float32) / 255
    usual = torch.from_numpy(x.mean((2, 3)).mean(0)), torch.from_numpy(x.std((2, 3)).mean(0))
    photos, rows = _read(images, sample.rows[apart.ranked[:CHECKED]].tolist())
    if not rows:
        return Departures(0, 0, 0)
    changed = with_colours_of(photos, *usual)
    opposite = (2 * photos.float() / 255 - changed).clamp(0, 1)
    device = explainer.model.head.centre.device
    left = [_leaving(explainer, _features(explainer, some.to(device)), cluster) for some in (changed, opposite)]
    return Departures(len(rows), *left)


def filled(images: Tensor, regions: np.ndarray) -> Tensor:
    """Fills a region of each image in by what surrounds it.

    Args:
        images: `(N, 3, H, W)` uint8.
        regions: on a grid, `(N, P, P)` bool.

    Returns:
        `(N, 3, H, W)`, from 0 to 1.
    """
    removed = F.interpolate(torch.from_numpy(regions)[:, None].float(), size=images.shape[2:], mode="nearest") > 0
    return inpainted(images.float() / 255, removed)


def _read(images: PreparedImages, rows: list[int]) -> tuple[Tensor, list[int]]:
    """Reads images, those that can still be read, `(n, 3, H, W)` uint8; returns their numbers, too."""
    found = [(row, images[row][1]) for row in rows]
    readable = [(row, image) for row, image in found if isinstance(image, Tensor)]
    photos = torch.stack([image for _, image in readable]) if readable else torch.empty(0)
    return photos, [row for row, _ in readable]


def _features(explainer: Explainer, images: Tensor) -> Tensor:
    """Computes the features of the backbone."""
    with torch.no_grad():
        return torch.cat([explainer.model.backbone(part) for part in computed_at_once(images)])


def _leaving(explainer: Explainer, features: Tensor, cluster: int) -> int:
    """Counts images that are not in a cluster any more, by their features `(n, D)` before the steps."""
    model = explainer.model
    return int((model.assign(model.steps(features)).cluster != cluster).sum())


def _lost_relevance(explainer: Explainer, before: Tensor, after: Tensor, cluster: int) -> np.ndarray:
    """Computes the relevance of each channel for a cluster that is lost between two features, `(C,)`, on average."""
    target = Target(str(cluster), cluster)
    lost = feature_relevance(explainer, before, target) - feature_relevance(explainer, after, target)
    mean: np.ndarray = explainer.model.backbone.channel_sums(lost).double().mean(0).cpu().numpy()
    return mean
