"""How images moved from the clusters of another run to those of this one, as a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whycluster.clustering.moves import Moves, moves
from whycluster.errors import UserError
from whycluster.files import write_json
from whycluster.output.tables import path_in, read_table

MOVES = "moves.json"


def clusters_in(run: Path) -> dict[str, int]:
    """Reads `assignments.csv` of a train or explain run, path of an image `->` its cluster.

    Raises:
        UserError: if there is none.
    """
    file = run / "assignments.csv"
    if not file.is_file():
        raise UserError(f"compare={str(run)!r} should be the folder of a finished run; it holds no assignments.csv.")
    return {path_in(row["path"]): int(float(row["cluster"])) for row in read_table(file)}


def write_moves(run: Path, name: str, before: Mapping[str, int]) -> Moves:
    """Writes `moves.json`: how the images of a run moved from the clusters that they had before.

    Args:
        run: the folder, with its `assignments.csv`.
        name: of the other run, for people.
        before: path of an image `->` its cluster there.

    Raises:
        UserError: if the two runs have no image in common.
    """
    found = moves(before, clusters_in(run))
    if found is None:
        raise UserError(f"compare={name!r} has no image in common with this run; images are told by their paths.")
    content: dict[str, Any] = {"run": name, **found._asdict()}
    write_json(run / MOVES, content)
    return found
