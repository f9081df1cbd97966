"""Several processes of one run."""

import os
import threading
import time

import torch.distributed
from pytorch_lightning.utilities import rank_zero_only


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


def leave_group() -> None:
    """Ends what the processes of a run do together: from here on each may end when it likes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
