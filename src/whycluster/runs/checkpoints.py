"""Lightning's checkpoints of a fit, in one file that always holds the last epoch."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from whycluster.files import write_tensors


class LastEpoch(Checkpoint):
    """Saves after each epoch; `ModelCheckpoint` would not, as it goes by optimizer steps, and Lloyd takes none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.save_checkpoint(self.path)


class WholeFiles(TorchCheckpointIO):
    """Replaces a checkpoint by a whole one; Lightning's own way copies where `/tmp` is another file system."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_tensors(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        checkpoint: dict[str, Any] = torch.load(path, map_location, weights_only=True)
        return checkpoint


def checkpointing(path: Path) -> dict[str, Any]:
    """Arguments of a trainer that lets it keep its state in a file, for `fit(…, ckpt_path=path)`."""
    return {"callbacks": [LastEpoch(path)], "plugins": [WholeFiles()], "enable_checkpointing": True}
