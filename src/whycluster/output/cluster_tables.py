"""Tables for the terminal: how many clusters there are, which of them to trust, and what they are about."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from whycluster.output.console import say, show

CLUSTERS, METRICS = "clusters.json", "metrics.json"
SHOWN = 12  # clusters; the others are in the file
SHORTCUT = "may be held together by a shortcut"


def show_trust(metrics: Mapping[str, Any], clusters: Sequence[Mapping[str, Any]]) -> None:
    """Prints how the number of clusters was chosen, if it was, and which clusters to trust, if that was measured.

    Args:
        metrics: the content of `metrics.json`.
        clusters: the content of `clusters.json`.
    """
    if "how_many" in metrics:
        show(how_many_table(metrics["how_many"], metrics["n_clusters"]))
        say(metrics["how_many_verdict"])
    if any(row["stability"] is not None for row in clusters):
        show(trust_table(clusters))
        if "kmeans" in metrics:
            say("stability is that of k-means on these features: what was learned is not learned anew for it")


def how_many_table(curve: Sequence[Mapping[str, Any]], n_clusters: int) -> Table:
    """Lays out the numbers of clusters that were tried, and marks the one that was chosen.

    Args:
        curve: `how_many` of `metrics.json`.
        n_clusters: the number that was chosen.
    """
    table = _table("", "clusters", "silhouette", "without groups", "stability (ARI)", "inertia")
    for row in curve:
        figures = (row["silhouette"], row["silhouette_without_groups"], row["stability"])
        cells = [str(row["n_clusters"]), *(f"{figure:.3f}" for figure in figures), f"{row['inertia']:.4g}"]
        chosen = row["n_clusters"] == n_clusters
        table.add_row("->" if chosen else "", *cells, style="bold" if chosen else None)
    return table


def trust_table(clusters: Sequence[Mapping[str, Any]]) -> Table:
    """Lays out the clusters, those to be trusted least first.

    Args:
        clusters: the content of `clusters.json`.
    """
    table = _table("cluster", "images", "stability", "", "silhouette", "nearest cluster")
    table.columns[3].justify = "left"
    for row in worst_first(clusters)[:SHOWN]:
        numbers = (_number(row["stability"]), row["verdict"], _number(row["silhouette"]))
        table.add_row(str(row["cluster"]), str(row["size"]), *numbers, _text(row["nearest"]))
    table.caption = _more(len(clusters))
    return table


def about_table(clusters: Sequence[Mapping[str, Any]]) -> Table:
    """Lays out what clusters are about, those to be trusted least first; those that a shortcut may explain before all.

    Args:
        clusters: the content of `clusters.json` of an explain run.
    """
    measured = any(row["stability"] is not None for row in clusters)
    flagged = any(map(is_flagged, clusters))
    table = _table(
        "cluster", "images", *(["stability", ""] if measured else []), "top concept", *([""] if flagged else [])
    )
    for column in table.columns[3 if measured else 2 :]:
        column.justify = "left"
    for row in sorted(worst_first(clusters), key=lambda row: not is_flagged(row))[:SHOWN]:
        trust = [_number(row["stability"]), row["verdict"]] if measured else []
        warning = [SHORTCUT if is_flagged(row) else ""] if flagged else []
        table.add_row(str(row["cluster"]), str(row["size"]), *trust, _top_concept(row), *warning)
    table.caption = _more(len(clusters))
    return table


def is_flagged(cluster: Mapping[str, Any]) -> bool:
    """Tells whether an entry of `clusters.json` says that the cluster may rest on a shortcut."""
    return bool((cluster.get("shortcut") or {}).get("flagged"))


def worst_first(clusters: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Sorts clusters by stability, then by silhouette; those without either come last."""

    def key(row: Mapping[str, Any]) -> list[float]:
        return [float("inf") if row[name] is None else row[name] for name in ("stability", "silhouette")]

    return sorted(clusters, key=key)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _more(n_clusters: int) -> str | None:
    return f"… and {n_clusters - SHOWN} more in {CLUSTERS}" if n_clusters > SHOWN else None


def _top_concept(cluster: Mapping[str, Any]) -> str:
    """Names the channel that carries most relevance of a cluster, and its share of that."""
    for concept in cluster["concepts"]:
        return f"concept {concept['channel']} ({concept['share']:.0%})"
    return "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _text(value: int | None) -> str:
    return "-" if value is None else str(value)
