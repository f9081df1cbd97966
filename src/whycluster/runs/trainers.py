"""Lightning trainers from the settings of a command."""

from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException

from whycluster.errors import UserError


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
        return pl.Trainer(accelerator=accelerator, **settings)
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise UserError(f"Lightning's Trainer does not take trainer=…: {error}") from error
