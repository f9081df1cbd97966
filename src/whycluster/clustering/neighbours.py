"""The exact nearest neighbours of all rows by cosine similarity, from products of blocks, in flat memory."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from whycluster.errors import UserError

QUERY_ROWS = 1024  # rows whose neighbours are found at once; fixed, so that products do not depend on who takes which
KEY_ROWS = 8192  # rows that they are compared with at once


def query_blocks(n_rows: int) -> list[range]:
    """Splits the rows into blocks, which several processes may share."""
    return [range(start, min(start + QUERY_ROWS, n_rows)) for start in range(0, n_rows, QUERY_ROWS)]


def nearest_neighbours(x: np.ndarray, origin: Tensor, n_neighbours: int, rows: range) -> Tensor:
    """Finds the `k` most similar other rows of each of some rows, by the cosine of `x - origin` in float32.

    Of rows that are equally similar, the first ones are taken. Rows are read block by block: memory does not grow with
    their number.

    Args:
        x: all rows, `(N, D)`; may be mapped from a file.
        origin: `(D,)`, on the device that computes.
        n_neighbours: `k`, below `N`.
        rows: one of `query_blocks`.

    Returns:
        Numbers of the neighbours, most similar first, `(len(rows), k)`.

    Raises:
        UserError: if there are no `k` other rows.

    Example:
        >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.2, 1.0]])
        >>> nearest_neighbours(x, torch.zeros(2), 1, range(4))[:, 0].tolist()
        [2, 3, 0, 1]
    """
    if not 0 < n_neighbours < len(x):
        raise UserError(f"n_neighbours={n_neighbours} should be from 1 to {len(x) - 1}, as there are {len(x)} rows.")
    queries = unit_rows(x[rows.start : rows.stop], origin)
    best = queries.new_full((len(rows), 0), -torch.inf)
    found = torch.empty(len(rows), 0, dtype=torch.long, device=queries.device)
    for first, keys in _key_blocks(x, origin):
        similar = queries @ keys.T
        own = torch.tensor(
            [row for row in rows if first <= row < first + len(keys)], dtype=torch.long, device=queries.device
        )
        similar[own - rows.start, own - first] = -torch.inf  # no row is its own neighbour
        here = _first_largest(similar, min(n_neighbours, similar.shape[1]))
        best = torch.cat((best, similar.gather(1, here)), 1)
        found = torch.cat((found, here + first), 1)
        # Candidates stand in the order of their numbers where they are equal, and a stable sort leaves them so.
        order = best.argsort(dim=1, descending=True, stable=True)[:, :n_neighbours]
        best, found = best.gather(1, order), found.gather(1, order)
    return found


def unit_rows(rows: np.ndarray, origin: Tensor) -> Tensor:
    """Computes `(x - origin) / |x - origin|` of rows `(N, D)` in float32, on the device of the origin."""
    moved = torch.from_numpy(np.array(rows, np.float32)).to(origin.device) - origin.float()
    return F.normalize(moved)


def _key_blocks(x: np.ndarray, origin: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Reads all rows, each block with the number of its first row."""
    for start in range(0, len(x), KEY_ROWS):
        yield start, unit_rows(x[start : start + KEY_ROWS], origin)


def _first_largest(values: Tensor, k: int) -> Tensor:
    """Finds the columns of the `k` largest values of each row, ascending; of equal values the first.

    Args:
        values: `(N, M)`.
        k: at most `M`.

    Returns:
        `(N, k)`.
    """
    top = values.topk(k, dim=1)
    columns, least = top.indices.sort(1).values, top.values[:, -1:]
    tied = ((values >= least).sum(1) > k).nonzero()[:, 0]
    if len(tied):
        larger, equal = values[tied] > least[tied], values[tied] == least[tied]
        taken = larger | (equal & (equal.cumsum(1) <= k - larger.sum(1, keepdim=True)))
        columns[tied] = taken.nonzero()[:, 1].view(len(tied), k)
    return columns
