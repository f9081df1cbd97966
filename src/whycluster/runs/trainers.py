"""Lightning trainers from the settings of a command."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException

from whycluster.errors import UserError

# Settings of a trainer that a run decides by itself, and what to set instead.
DECIDED = {
    "max_epochs": "head.max_iter",
    "logger": "logger",
    "callbacks": "",
    "plugins": "",
    "enable_checkpointing": "",
}


def check_trainer(trainer: Callable[..., pl.Trainer]) -> None:
    """Refuses settings that would have no effect.

    Raises:
        UserError: for the first of them.
    """
    for name in getattr(trainer, "keywords", {}):
        if name in DECIDED:
            instead = f"set {DECIDED[name]} instead" if DECIDED[name] else "leave it out"
            raise UserError(f"trainer.{name} is decided by the run itself; {instead}.")


def make_trainer(accelerator: str = "auto", **settings: Any) -> pl.Trainer:
    """A Lightning trainer.

    Convolutions on the GPU are computed in float32 proper: in TF32 they would differ from the CPU's in the fourth
    digit.

    Args:
        accelerator: `auto` is CUDA or the CPU, as other devices lack the double precision needed here.
        settings: of `Trainer`.

    Raises:
        UserError: for settings that Lightning refuses.
    """
    torch.backends.cudnn.allow_tf32 = False
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return pl.Trainer(accelerator=accelerator, **{"enable_checkpointing": False, **settings})
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise UserError(f"Lightning's Trainer does not take trainer=…: {error}") from error
