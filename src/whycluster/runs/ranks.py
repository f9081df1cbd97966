"""Several processes of one run."""

import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import torch.distributed
from pytorch_lightning.utilities import rank_zero_only

from whycluster.errors import UserError

T = TypeVar("T")


def is_first() -> bool:
    """Whether this process is the first of several, or the only one; known before there is a trainer."""
    return not getattr(rank_zero_only, "rank", 0)


def end_with_parent() -> None:
    """Lets this process end soon after the one that started it, however that ended.

    Otherwise it would go on with its share of a run that is over; Lightning ends the others of a process that it sees
    end, and nobody sees the end of the first one.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def by_first(work: Callable[[], T]) -> T:
    """Lets the first process compute something, and returns its result in all of them; the others wait.

    Raises:
        UserError: in all processes, if the first one raises it.
    """
    outcome: list[T | UserError | None] = [None]
    if is_first():
        try:
            outcome = [work()]
        except UserError as error:
            outcome = [error]
    if _is_group():
        torch.distributed.broadcast_object_list(outcome, src=0)
    [result] = outcome
    if isinstance(result, UserError):
        raise result
    return result  # type: ignore[return-value]  # `None` has been replaced


def leave_group() -> None:
    """Ends what the processes of a run do together: from here on each may end when it likes."""
    if _is_group():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _is_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
