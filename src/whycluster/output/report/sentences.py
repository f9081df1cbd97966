"""What is known of a cluster, in sentences for people who are not of the field."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whycluster.clustering.stability import DOUBTFUL, STABLE, verdict
from whycluster.output.report.image_concepts import Departure

RING = 2  # rows and columns at each border, of the mean heatmap
EVEN = 0.1  # of the relevance: so much more or less of it at the border than in an even spread does not matter
WEAK = 0.5  # of the discriminant
HELD = (
    (0.25, "hardly"),
    (WEAK, "in part"),
    (0.8, "for the most part"),
    (0.95, "almost in full"),
)  # shares of the discriminant, up to which
IN_FULL = "in full"  # what is above


def made(metrics: Mapping[str, Any]) -> str:
    """Says by which model and rules a run was made; empty where its `metrics.json` does not say."""
    if "backbone" not in metrics:
        return ""
    rules = metrics.get("rules", metrics)  # those that were chosen, if they were
    gamma = "" if rules.get("gamma") is None else f" with gamma {rules['gamma']:g}"
    clusters = f"{metrics['n_clusters']} clusters of the network {metrics['backbone']}"
    return f"{clusters}; heatmaps by layer-wise relevance propagation, rules {rules['composite']}{gamma}."


def about(cluster: Mapping[str, Any], n_images: int) -> str:
    """Says what carries a cluster, and which cluster is the second choice of most of its images."""
    size, concepts = cluster["size"], cluster["concepts"]
    parts = [f"{size} of {n_images} images ({size / n_images:.0%})."]
    if concepts:
        parts.append(_carried([concept["share"] for concept in concepts], concepts[0]["channel"]))
    rivals = [contrast for contrast in cluster["contrasts"] if contrast["lost"]]
    if rivals:
        most = max(rivals, key=lambda contrast: contrast["lost"])
        parts.append(f"The second choice of most is cluster {most['rival']} ({most['lost']} of {size} images).")
    return " ".join(parts)


def _carried(shares: list[float], channel: int) -> str:
    together = f"its {len(shares)} strongest concepts carry {sum(shares):.0%} of what speaks for it"
    if shares[0] < 0.03:
        return f"It rests on many features together: {together}."
    alone = f"the strongest, concept {channel}, has {shares[0]:.0%}"
    warning = ": one feature decides, so look closely at what it shows" if shares[0] >= 0.5 else ""
    return f"{together.capitalize()}; {alone}{warning}."


def stability(value: float | None) -> tuple[str, str, str]:
    """Says whether a cluster is found again in other samples of the images: in a word, with numbers, in a sentence."""
    if value is None:
        unknown = (
            "Whether this cluster would be found again in samples of the images it was trained on was not measured."
        )
        return "not measured", "stability not measured", unknown
    word, limit = verdict(value), "doubtful" if round(value, 2) < DOUBTFUL else "stable"
    badge = f"{word}: {value:.2f} of it came back ({limit} from {DOUBTFUL if limit == 'doubtful' else STABLE})"
    clustered = "when random samples of the images it was trained on are clustered again, this cluster"
    comes = {"stable": "comes back", "doubtful": "comes back only in part", "unstable": "comes out differently"}[word]
    again = f"overlap {value:.2f} on average, where 1 is the same cluster"
    return word, badge, f"{word.capitalize()}: {clustered} {comes} ({again})."


def held_in_words(held: float) -> str:
    """Says in words which share of the decision the heatmap holds."""
    return next((word for below, word in HELD if held < below), IN_FULL)


def receipts(held: np.ndarray) -> str:
    """Says how much of the decision the heatmaps of a cluster hold, given each image's share at the pixels."""
    known = held[np.isfinite(held)]
    if not len(known):
        return "All decisions are too close to say how much of them the heatmaps hold."
    median, weak = float(np.median(known)), int((known < WEAK).sum())
    rest = "the rest comes from" if median <= 1 else "what is above 100% is taken back by"
    begin = f"The heatmap of a typical image holds the decision {held_in_words(median)}: red minus blue is "
    begin += f"{median:.0%} of the lead over the second choice; {rest} fixed numbers inside the network, which no "
    begin += "pixel is responsible for. "
    begin += f"{len(held) - len(known)} decided too closely to say. " if len(known) < len(held) else ""
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
    said = f"{border:.0%} of what speaks for the cluster lies in the outer {area:.0%} of the image: "
    if abs(border - area) <= EVEN:
        return said + "about evenly spread."
    if border < area:
        return said + "it lies more in the middle."
    return said + "more than if it were spread evenly. Is it the background, a frame, or a mark?"


def departures(found: Sequence[Departure]) -> str:
    """Says in which concepts an image differs from the others of its cluster, largest difference first."""
    by_word: dict[str, list[int]] = {}
    for one in found:
        less = "against it" if one.image < 0 else "for it less than usual"
        word = "for it more than usual" if one.image > one.cluster else less
        by_word.setdefault(word, []).append(one.channel)
    parts: list[str] = []
    for word, channels in by_word.items():
        named = f"concept {channels[0]}" if len(channels) == 1 else f"concepts {' and '.join(map(str, channels))}"
        parts.append(f"{named} {'speaks' if len(channels) == 1 else 'speak'} {word}")
    return "; ".join(parts)
