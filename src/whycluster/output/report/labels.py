"""Known classes of images beside their clusters: which are mixed, and which images have another one than most."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

NAMED = 6  # labels of a cluster
FEWEST = 8  # images of a label, for which it matters where they are
HALF = 0.5


def labels_in(labels: Sequence[str]) -> str:
    """Lists the known classes of the images of a cluster, most frequent first; empty where they have none."""
    if not any(labels):
        return ""
    counts = sorted(Counter(labels).items(), key=lambda pair: (-pair[1], pair[0]))
    named = [f"{count} “{label}”" if label else f"{count} without a label" for label, count in counts[:NAMED]]
    rest = sum(count for _, count in counts[NAMED:])
    more = f", and {rest} with {len(counts) - NAMED} others" if rest else ""
    return f"{', '.join(named)}{more}"


def unlike_most(labels: Sequence[str]) -> list[int]:
    """Finds the images of a cluster whose label is not that of at least half of them; none where there is no such.

    Args:
        labels: of all images of the cluster; empty strings, of images without one, are not unlike any other.

    Returns:
        Numbers of images, those of the rarest label first.

    Example:
        >>> unlike_most(["car", "bird", "car", "boat", "car", "boat", "car", ""])
        [1, 3, 5]
    """
    counts = Counter(label for label in labels if label)
    if not counts or counts.most_common(1)[0][1] < HALF * len(labels):
        return []
    most = counts.most_common(1)[0][0]
    others = [at for at, label in enumerate(labels) if label not in ("", most)]
    return sorted(others, key=lambda at: (counts[labels[at]], labels[at], at))


def spread_labels(labels: Sequence[str], clusters: np.ndarray) -> list[tuple[str, Counter[int]]]:
    """Finds labels of which no cluster holds half of the images, those of most images first.

    Args:
        labels: of all images, empty where they have none.
        clusters: of all images, `(N,)`.

    Returns:
        Each label with how many of its images are in which cluster.
    """
    places: dict[str, Counter[int]] = {}
    for label, cluster in zip(labels, clusters.tolist(), strict=True):
        if label:
            places.setdefault(label, Counter())[cluster] += 1
    spread = [(label, found) for label, found in places.items() if _is_spread(found)]
    return sorted(spread, key=lambda pair: (-pair[1].total(), pair[0]))


def _is_spread(found: Counter[int]) -> bool:
    return found.total() >= FEWEST and max(found.values()) < HALF * found.total()
