"""Tables for the terminal: how many clusters there are, and which of them to trust."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from whycluster.output.console import say, show

CLUSTERS = "clusters.json"
SHOWN = 12  # clusters; the others are in the file


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


def how_many_table(curve: Sequence[Mapping[str, Any]], n_clusters: int) -> Table:
    """Lays out the numbers of clusters that were tried, and marks the one that was chosen.

    Args:
        curve: `how_many` of `metrics.json`.
        n_clusters: the number that was chosen.
    """
    table = _table("", "clusters", "silhouette", "without groups", "stability", "inertia")
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
    if len(clusters) > SHOWN:
        table.caption = f"… and {len(clusters) - SHOWN} more in {CLUSTERS}"
    return table


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


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _text(value: int | None) -> str:
    return "-" if value is None else str(value)
