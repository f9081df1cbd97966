"""The region of a cluster that is most likely to hold an artefact: much relevance, and the same pixels, in all images.

`n` images, grids of `P` by `P` cells.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import binary_dilation, label

from whycluster.explain.relevance_places import excess_region, fixed_regions, sub_groups
from whycluster.explain.same_pixels import Appearance, sameness

TYPICAL = 15  # images of a cluster with most relevance in a region, at most
SMALLEST_GROUP = 5


class Suspect(NamedTuple):
    """A region.

    Attributes:
        place: where it is, in words.
        region: `(P, P)` bool.
        members: how many images of the cluster it is a suspicion of: all, or those of a sub-group.
        concentration: median share of relevance there, as a multiple of that in other clusters.
        excess: mean share of relevance there, less that in other clusters.
        sameness: how much more alike the typical images are there than elsewhere, from 0 to 1; see `same_pixels`. An
            artefact is the same in images that differ; digits of one kind are the same everywhere.
        eigengap: of the sub-groups of the cluster.
        typical: places in the sample of the images with most relevance there, most first.
        similarity: of all images to the typical ones, there, `(n,)`; see `same_pixels`.
    """

    place: str
    region: np.ndarray
    members: int
    concentration: float
    excess: float
    sameness: float
    eigengap: float
    typical: np.ndarray
    similarity: np.ndarray

    @property
    def strength(self) -> float:
        """Strength of the suspicion, from 0 to 1: sameness, if relevance is at least twice as high as elsewhere."""
        return self.sameness * float(np.clip(np.log2(max(self.concentration, 1.0)), 0, 1))


def most_suspect(shares: np.ndarray, pixels: np.ndarray, own: np.ndarray, others: np.ndarray) -> list[Suspect]:
    """Finds the regions of strongest suspicion for a cluster: of the fixed ones, and of those that relevance itself
    outlines, if there are any.

    Args:
        shares: of the relevance of all images, `(n, P, P)`; see `relevance_shares`.
        pixels: thumbnails of all images, `(n, 3, T, T)` uint8.
        own: rows of the cluster.
        others: rows of all other clusters.
    """
    groups, eigengap = sub_groups(shares[own])
    appearance = Appearance(pixels, shares.shape[1])
    candidates = [(place, region, own) for place, region in fixed_regions(shares.shape[1]).items()]
    found = [
        _strongest(some, shares, appearance, own, others, eigengap)
        for some in (candidates, list(_outlined(shares, own, others, groups)))
        if some
    ]
    return sorted(found, key=lambda one: -one.strength)


def _strongest(
    candidates: Sequence[tuple[str, np.ndarray, np.ndarray]],
    shares: np.ndarray,
    appearance: Appearance,
    own: np.ndarray,
    others: np.ndarray,
    eigengap: float,
) -> Suspect:
    """Finds the strongest of some regions: each with its name, and the images that may have something there."""
    found = []
    for place, region, members in candidates:
        inside = shares[:, region].sum(1)
        by_relevance = members[np.argsort(-inside[members], kind="stable")]
        typical = by_relevance[: min(TYPICAL, -(-len(members) // 2))]
        like_typical = appearance.like(typical)
        rest = ~binary_dilation(region, np.ones((3, 3)))  # edges of what is in the region reach a little farther
        rest = rest if rest.any() else ~region
        similarity, outside = (like_typical.similarities(part, others) for part in (region, rest))
        elsewhere = max(float(np.median(inside[others])), 0.25 * float(region.mean()))  # or nothing would be much more
        found.append(
            Suspect(
                place,
                region,
                len(members),
                concentration=float(np.median(inside[members])) / elsewhere,
                excess=max(0.0, float(inside[members].mean() - inside[others].mean())),
                sameness=max(0.0, sameness(similarity, typical, others) - sameness(outside, typical, others)),
                eigengap=eigengap,
                typical=by_relevance[:TYPICAL],
                similarity=similarity,
            )
        )
    # By what it holds, too: of an artefact of which a part is left, inpainting makes the rest again.
    return max(found, key=lambda one: (one.strength * one.excess, one.concentration))


def _outlined(
    shares: np.ndarray, own: np.ndarray, others: np.ndarray, groups: np.ndarray
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields where the cluster, and where each sub-group of it, has more relevance than others do."""
    parts = [own[groups == group] for group in np.unique(groups)] if groups.any() else []
    for members in [own, *(part for part in parts if len(part) >= SMALLEST_GROUP)]:
        region = excess_region(shares[members], shares[others])
        if region.any():
            wider = binary_dilation(region)
            if wider.mean() <= 0.5:  # or no other region of its size would have little in common with it
                yield place_of(wider), wider, members


def place_of(region: np.ndarray) -> str:
    """Says where the middle of a region `(P, P)` lies, if it is in one piece.

    Example:
        >>> place_of(np.eye(9) * np.arange(9) > 7)
        'a region at the bottom right'
    """
    if label(region, np.ones((3, 3)))[1] > 1:
        return "a region in several pieces"
    rows, columns = np.nonzero(region)
    height, width = region.shape
    vertical = ("top", "", "bottom")[min(2, int(3 * (rows.mean() + 0.5) / height))]
    horizontal = ("left", "", "right")[min(2, int(3 * (columns.mean() + 0.5) / width))]
    where = " ".join(word for word in (vertical, horizontal) if word)
    return f"a region at the {where}" if where else "a region around the middle"
