"""Lightning trainers: made from the settings of a command, their passes over images, and checkpoints of their fits."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from whycluster.data.image_pass import ImagePass
from whycluster.errors import UserError, whole_number
from whycluster.files import write_tensors
from whycluster.output.console import say
from whycluster.runs.ranks import is_first

SAVE_SECONDS = 10  # between two checkpoints of a fit, as an epoch may take milliseconds, and saving longer
# Settings of a trainer that a run decides by itself.
DECIDED = {"max_epochs", "logger", "callbacks", "plugins", "enable_checkpointing"}


def check_loading(trainer: Callable[..., pl.Trainer], batch_size: int, num_workers: int | None) -> None:
    """Checks the settings that passes over images share, and refuses those that would have no effect.

    Raises:
        UserError: for the first that is wrong.
    """
    whole_number("batch_size", batch_size, 1)
    if num_workers is not None:
        whole_number("num_workers", num_workers, 0)
    for name in DECIDED & getattr(trainer, "keywords", {}).keys():
        raise UserError(f"trainer.{name} is decided by the run itself; leave it out.")


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


def run_pass(trainer: pl.Trainer, images: ImagePass) -> dict[str, float]:
    """Computes what is not done of a pass over images, by all processes of the trainer together.

    Returns:
        How many seconds it took, and how many images went through in one; empty where all was done before.

    Raises:
        UserError: if the trainer stops early, or none of the images can be read.
    """
    shards = images.shards
    n_done = int(shards.done().sum())
    n_left = shards.n_images - n_done
    if n_done and is_first():
        say(f"going on: {n_done} of {shards.n_images} images were done")
    trainer.predict(images, return_predictions=False)  # also if none is left: the processes meet here
    trainer.strategy.barrier()
    if not shards.done().all():
        raise UserError("the trainer stopped before all images were done; leave out what limits its batches.")
    seconds = time.monotonic() - images.since
    unread = shards.skipped()
    if len(unread) == shards.n_images:
        number, reason = next(iter(unread.items()))
        path = images.images.collection.paths[number]
        raise UserError(f"none of the {len(unread)} files can be read as an image; {path!r}: {reason}.")
    return {"seconds": round(seconds, 3), "images_per_second": round(n_left / seconds, 2)} if n_left else {}


class LastEpoch(Checkpoint):
    """Saves after the last epoch, and after others at intervals of `SAVE_SECONDS` at least.

    `ModelCheckpoint` would not, as it goes by optimizer steps, and Lloyd's algorithm takes none.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.saved = path, time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        is_last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        # All processes save together, and their clocks differ.
        is_due = trainer.strategy.broadcast(time.monotonic() - self.saved >= SAVE_SECONDS)
        if is_last or is_due:
            trainer.save_checkpoint(self.path)
            self.saved = time.monotonic()


class WholeFiles(TorchCheckpointIO):
    """Replaces a checkpoint by a whole one; Lightning's own way copies where `/tmp` is another file system."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_tensors(Path(path), checkpoint)


def checkpointing(path: Path) -> dict[str, Any]:
    """Arguments of a trainer that lets it keep its state in a file, for `fit(…, ckpt_path=path)`."""
    return {"callbacks": [LastEpoch(path)], "plugins": [WholeFiles()], "enable_checkpointing": True}
