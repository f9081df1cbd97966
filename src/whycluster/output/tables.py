"""CSV tables, written row by row; what a spreadsheet would take for a formula is defused."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from whycluster.files import written_whole

ASSIGNMENTS = ("path", "cluster", "discriminant", "probability", "runner_up", "label")
RECEIPTS = ("path", "target", "discriminant", "features", "pixels", "absorbed")
SKIPPED = ("path", "reason")

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what makes a spreadsheet execute a cell
SEPARATORS = ";\t|"  # where spreadsheets of some countries split lines, unless there are quotes

Cell = str | int | float
Row = tuple[Cell, ...]


def write_table(path: Path, columns: tuple[str, ...], rows: Iterable[Row]) -> None:
    """Writes a table, whole or not at all."""
    with written_whole(path) as beside, open(beside, "w", newline="", encoding="utf-8") as file:
        writer, careful = csv.writer(file), csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(columns)
        for row in map(plain, rows):
            (careful if any(sign in cell for cell in row for sign in SEPARATORS) else writer).writerow(row)


def write_skipped(path: Path, skipped: Mapping[str, str]) -> None:
    """Writes `skipped.csv`: what could not be used, and why."""
    write_table(path, SKIPPED, sorted(skipped.items()))


def plain(row: Row) -> tuple[str, ...]:
    """Cells as text: numbers with seven digits, text that no spreadsheet executes. The first cell is a relative path.

    Example:
        >>> plain(("=cmd.jpg", 3, 0.123456789, "-danger"))
        ('./=cmd.jpg', '3', '0.1234568', "'-danger")
    """
    return tuple(_text(cell, "'" if place else "./") for place, cell in enumerate(row))


def _text(cell: Cell, prefix: str) -> str:
    if isinstance(cell, float):
        return f"{cell:.7g}"
    text = str(cell)
    return f"{prefix}{text}" if isinstance(cell, str) and text.startswith(FORMULA) else text
