"""Writing of CSV tables: text is quoted, numbers are not, and no cell is executed by a spreadsheet."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from whycluster.files import written_whole

ASSIGNMENTS = ("path", "cluster", "discriminant", "probability", "runner_up", "label")
RECEIPTS = ("path", "target", "discriminant", "features", "pixels", "absorbed")
SKIPPED = ("path", "reason")

FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet executes text that begins so, also in quotes

TableRow = tuple[str | int | float, ...]


def write_table(path: Path, columns: tuple[str, ...], rows: Iterable[TableRow]) -> None:
    """Writes a table, whole or not at all."""
    with written_whole(path) as beside, open(beside, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(columns)
        writer.writerows(map(safe_cells, rows))


def write_skipped(path: Path, skipped: Mapping[str, str]) -> None:
    """Writes `skipped.csv`: the files that could not be used, and why."""
    write_table(path, SKIPPED, sorted(skipped.items()))


def safe_cells(row: TableRow) -> TableRow:
    """Rounds numbers to seven significant digits, and prefixes text that a spreadsheet would take for a formula.

    The first cell is a relative path, and stays one: its prefix is `./`.

    Example:
        >>> safe_cells(("=cmd.jpg", 3, 0.123456789, "-danger"))
        ('./=cmd.jpg', 3, 0.1234568, "'-danger")
    """
    return tuple(_safe(cell, "'" if column else "./") for column, cell in enumerate(row))


def _safe(cell: str | int | float, prefix: str) -> str | int | float:
    if isinstance(cell, float):
        return float(f"{cell:.7g}")
    return f"{prefix}{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_SIGNS) else cell


def read_table(path: Path) -> Iterator[dict[str, str]]:
    """Yields the rows of a table, column `->` cell."""
    with open(path, newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def path_in(cell: str) -> str:
    """Returns the path in a cell, without what `safe_cells` put before it."""
    return cell.removeprefix("./")


def text_in(cell: str) -> str:
    """Returns other text in a cell, likewise."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA_SIGNS) else cell
