"""What to look at first: the few sentences that a person would tell of a run, with links into the page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whycluster.clustering.stability import STABLE
from whycluster.output.cluster_tables import is_flagged
from whycluster.output.report.labels import spread_labels

MOST_LINKS = 3  # in a sentence

Sentence = list[str | dict[str, Any]]
"""Texts, and links: `text`, and `to`, the state of the page that the link leads to."""


def first_looks(
    clusters: Sequence[Mapping[str, Any]],
    cluster: np.ndarray,
    runner_up: np.ndarray,
    labels: Sequence[str],
    n_unlike: int,
) -> list[Sentence]:
    """Says what is notable in a run, the most serious first; nothing where nothing is.

    Args:
        clusters: the content of `clusters.json`.
        cluster: of each image, `(N,)`.
        runner_up: of each image, `(N,)`.
        labels: of each image, empty where it has none.
        n_unlike: images whose label is not that of most of their cluster.
    """
    unlike: Sentence = []
    if n_unlike:
        link = {"text": f"{n_unlike} {'image' if n_unlike == 1 else 'images'}", "to": {"part": "labels"}}
        unlike = [link, f" {'has' if n_unlike == 1 else 'have'} another label than most of their cluster."]
    found = [_flagged(clusters), _least_stable(clusters, cluster, runner_up), _spread(cluster, labels), unlike]
    return [_capital(sentence) for sentence in found if sentence]


def _capital(sentence: Sentence) -> Sentence:
    first, *rest = sentence
    return [{**first, "text": first["text"].capitalize()} if isinstance(first, dict) else first, *rest]


def _flagged(clusters: Sequence[Mapping[str, Any]]) -> Sentence:
    flagged = [one["cluster"] for one in clusters if is_flagged(one)]
    if not flagged:
        return []
    said = " may be held together by a shortcut: one region or property decides for many images. Is it what they show, "
    return [*_listed([(one, "") for one in flagged]), f"{said}or a mark, a frame, or the image quality?"]


def _least_stable(clusters: Sequence[Mapping[str, Any]], cluster: np.ndarray, runner_up: np.ndarray) -> Sentence:
    measured = [one for one in clusters if one["stability"] is not None]
    least = min(measured, key=lambda one: one["stability"], default=None)
    if least is None or len(measured) == 1 or round(least["stability"], 2) >= STABLE:
        return []
    number, others = least["cluster"], cluster != least["cluster"]
    second = int((runner_up[others] == number).sum())
    said = f" is the least stable ({least['stability']:.2f} of it came back)"
    if second:
        said += f", and the second choice of {second} of the {others.sum()} images of other clusters"
    return [_cluster_link(number), f"{said}."]


def _spread(cluster: np.ndarray, labels: Sequence[str]) -> Sentence:
    spread = spread_labels(labels, cluster)
    if not spread:
        return []
    label, found = spread[0]
    more = f", nor of {len(spread) - 1} other labels" if len(spread) > 1 else ""
    begin = f"No cluster holds half of the {found.total()} images of the label “{label}”{more}: they are in "
    return [begin, *_listed([(one, f" ({count})") for one, count in found.most_common()]), "."]


def _cluster_link(number: int) -> dict[str, Any]:
    return {"text": f"cluster {number}", "to": {"cluster": number}}


def _listed(named: Sequence[tuple[int, str]]) -> Sentence:
    """Lists clusters, each with a text behind its link; of many, how many more there are."""
    parts: Sentence = []
    for at, (number, text) in enumerate(named[:MOST_LINKS]):
        last = at == len(named) - 1
        parts += [*([" and " if last else ", "] if at else []), _cluster_link(number), *([text] if text else [])]
    rest = len(named) - MOST_LINKS
    return [*parts, f" and {rest} more"] if rest > 0 else parts
