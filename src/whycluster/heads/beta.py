"""The stiffness `β` of a head: checks of what users set, and the heuristic value."""

from collections.abc import Iterable
from typing import Any, Literal

from torch import Tensor, nn

from whycluster.errors import UserError

Beta = float | Literal["auto"] | None


def user_beta(beta: Any, name: str = "beta") -> float | None:
    """Returns the number that a user set; `None` for `auto` and `None`, which leave it to the head.

    Raises:
        UserError: unless it is `auto`, `None`, or a number `>= 0`.
    """
    return None if beta is None or (isinstance(beta, str) and beta == "auto") else checked_beta(beta, name)


def checked_beta(beta: Any, name: str = "beta") -> float:
    """Returns a number `>= 0`, possibly infinite; `UserError` for anything else."""
    try:
        number = float("nan" if isinstance(beta, str) else beta)
    except (TypeError, ValueError):
        number = float("nan")
    if not number >= 0:
        raise UserError(f"{name}={beta!r} should be a number >= 0, or 'auto'.")
    return number


def heuristic_beta(head: nn.Module, batches: Iterable[Tensor]) -> float:
    """Computes `1 / E[f_c]` over features (Kauffmann et al., arXiv 1906.07633, section III-B); 1 where no two clusters
    differ.
    """
    total, rows = 0.0, 0
    for batch in batches:
        total += float(head(batch).amax(1).sum())
        rows += len(batch)
    return rows / total if total > 0 else 1.0
