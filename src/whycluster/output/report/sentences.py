"""What is known of a cluster, in sentences for people who are not of the field."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whycluster.clustering.stability import DOUBTFUL, STABLE

RING = 2  # rows and columns at each border, of the mean heatmap
WEAK = 0.5  # of the discriminant


def about(cluster: Mapping[str, Any], n_images: int) -> str:
    """Says what carries a cluster, and which cluster is nearest to it."""
    size, shares = cluster["size"], [concept["share"] for concept in cluster["concepts"]]
    parts = [f"{size} of {n_images} images ({size / n_images:.0%})."]
    if shares:
        carried = f"Its {len(shares)} strongest concepts carry {sum(shares):.0%} of what speaks for it"
        parts.append(f"{carried}, the strongest alone {shares[0]:.0%}: {_concentration(shares[0])}.")
    rivals = [contrast for contrast in cluster["contrasts"] if contrast["lost"]]
    if rivals:
        most = max(rivals, key=lambda contrast: contrast["lost"])
        parts.append(f"Its nearest other cluster is mostly {most['rival']} ({most['lost']} of {size} images).")
    return " ".join(parts)


def _concentration(share: float) -> str:
    if share >= 0.5:
        return "one feature decides, so look closely at what it shows"
    return "a few features decide" if share >= 0.15 else "it rests on many features together"


def labels_in(labels: Sequence[str]) -> str:
    """Lists the known classes of the images of a cluster, most frequent first; empty where they have none."""
    if not any(labels):
        return ""
    counts = sorted(Counter(labels).items(), key=lambda pair: (-pair[1], pair[0]))
    named = [f"{count} “{label}”" if label else f"{count} without a label" for label, count in counts[:4]]
    rest = sum(count for _, count in counts[4:])
    more = f", and {rest} with others" if rest else ""
    return f"{', '.join(named)}{more}"


def stability(value: float | None) -> tuple[str, str]:
    """Says in a word and in a sentence whether a cluster is found again in other samples of the images."""
    if value is None:
        return (
            "not measured",
            "Whether this group would be found again in samples of the images it was trained on was not measured.",
        )
    clustered = "when random samples of the images it was trained on are clustered again"
    again = f"overlap {value:.2f} on average, where 1 is the same group"
    if round(value, 2) >= STABLE:
        return "stable", f"Stable: {clustered}, this group comes back ({again})."
    if round(value, 2) >= DOUBTFUL:
        return "doubtful", f"Doubtful: {clustered}, this group comes back only in part ({again})."
    return (
        "not to be trusted",
        f"Not to be trusted: {clustered}, this group comes out differently ({again}).",
    )


def receipts(held: np.ndarray) -> str:
    """Says how much of the decision the heatmaps of a cluster account for, given each image's share at the pixels."""
    known = held[np.isfinite(held)]
    if not len(known):
        return "How much of the decision the heatmaps account for is not known."
    median, weak = float(np.median(known)), int((known < WEAK).sum())
    rest = "the rest comes from" if median <= 1 else "what is above 100% is taken back by"
    begin = f"In a typical image the red and blue of the heatmap add up to {median:.0%} of the decision; {rest} fixed "
    begin += "numbers inside the network, which no pixel is responsible for. "
    if not weak:
        return begin + "In no image is it less than half."
    return begin + f"In {weak} of {len(known)} images it is less than half: trust those heatmaps less."


def places(shares: list[list[float]] | None) -> str:
    """Says how much of what speaks for a cluster lies at the border of the images; an even spread is given, too."""
    if shares is None:
        return ""
    positive = np.array(shares).clip(min=0)
    inner = (slice(RING, -RING),) * 2
    area = 1 - positive[inner].size / positive.size
    border = 1 - float(positive[inner].sum() / positive.sum()) if positive.sum() else 0.0
    more = "More than if it were spread evenly: is it the background, a frame, or a mark?"
    verdict = more if border > area else "So the border does not decide."
    return f"{border:.0%} of what speaks for the group lies in the outer {area:.0%} of the image. {verdict}"
