"""Explanations as files: a heatmap and an array for each image, tables, and a gallery for TensorBoard."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import Tensor

from whycluster.data import Batch, Collection
from whycluster.explain import Explanation, Target
from whycluster.explain.predict import Explained
from whycluster.files import written_whole
from whycluster.output.heatmaps import heatmap_picture
from whycluster.output.tables import GrowingTable, Row
from whycluster.output.tensorboard import ExplanationGallery

LONGEST_NAME = 240  # bytes; file systems take 255, and endings are still to come


class ExplanationWriter(BasePredictionWriter):
    """Writes explanations as they come; memory does not grow with them.

    Args:
        folder: the run folder.
        collection: the images explained.
        targets: what is explained of each; of several, each gets a folder of its own.

    Attributes:
        skipped: number `->` reason, of this process.
        gallery: the deepest images of each cluster, of this process.
        written: images explained by this process.
        weak: heatmaps of this process whose pixels hold less than half of the discriminant.
    """

    def __init__(self, folder: Path, collection: Collection, targets: Sequence[Target]) -> None:
        super().__init__(write_interval="batch")
        self.folder, self.collection, self.targets = folder, collection, targets
        self.skipped: dict[int, str] = {}
        self.gallery = ExplanationGallery()
        self.written = 0
        self.weak = 0

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._assignments = GrowingTable(part_of(self.folder, "assignments", trainer.global_rank))
        self._receipts = GrowingTable(part_of(self.folder, "receipts", trainer.global_rank))

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Explained,
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        self.skipped |= prediction.skipped
        explanations = [_on_cpu(explanation) for explanation in prediction.explanations]
        photos = prediction.images.cpu()
        for place, index in enumerate(prediction.indices.tolist()):
            self._assignments.append(self._assignment(explanations[0], place, index))
            for target, explanation in zip(self.targets, explanations, strict=True):
                self._write(target, explanation, photos[place], place, index)
        self.written += len(prediction.indices)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._assignments.close()
        self._receipts.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        for table in ("assignments", "receipts"):  # half a table is none
            part_of(self.folder, table, trainer.global_rank).unlink(missing_ok=True)

    def _assignment(self, explanation: Explanation, place: int, index: int) -> Row:
        cluster, discriminant, probability, runner_up = (column[place].item() for column in explanation.assignment)
        path, label = self.collection.paths[index], self.collection.labels[index]
        return (path, cluster, discriminant, probability, runner_up, label)

    def _write(self, target: Target, explanation: Explanation, photo: Tensor, place: int, index: int) -> None:
        path = self.collection.paths[index]
        heatmap = explanation.heatmap[place].float().numpy()
        self._receipts.append((path, target.name, *(column[place].item() for column in explanation.receipt)))
        subfolder = f"target_{target.name}" if len(self.targets) > 1 else ""
        name = file_name(path)
        picture = heatmap_picture(photo.permute(1, 2, 0).numpy(), heatmap, caption(path, target, explanation, place))
        with written_whole(self.folder / "heatmaps" / subfolder / f"{name}.png") as beside:
            picture.save(beside, format="PNG", compress_level=3)
        with written_whole(self.folder / "relevance" / subfolder / f"{name}.npy") as beside, open(beside, "wb") as file:
            np.save(file, heatmap)
        self.weak += share_at_pixels(explanation, place) < 0.5
        explained = int(explanation.target[place])
        self.gallery.offer(explained, float(explanation.discriminant[place]), path, photo, heatmap)


def part_of(folder: Path, table: str, rank: int) -> Path:
    """Where one process collects its rows of a table."""
    return folder / f".{table}.{rank}.part"


def file_name(path: str) -> str:
    """The path of an image as the beginning of a file's name; names too long to add to are cut and made unique."""
    *folders, name = path.split("/")
    if len(name.encode()) > LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]
        name = f"{name.encode()[: LONGEST_NAME - 13].decode(errors='ignore')}-{digest}"
    return "/".join([*folders, name])


def share_at_pixels(explanation: Explanation, place: int) -> float:
    """How much of the discriminant arrived at the pixels of an image; 1 where there was none."""
    discriminant, pixels = (float(explanation.receipt[column][place]) for column in (0, 2))
    return pixels / discriminant if discriminant else 1.0


def caption(path: str, target: Target, explanation: Explanation, place: int) -> str:
    """What a heatmap says above itself: the image, where it belongs, and what is explained."""
    cluster, discriminant, probability, runner_up = (column[place].item() for column in explanation.assignment)
    where = f"cluster {cluster}, runner-up {runner_up}, discriminant {discriminant:.4g}, probability {probability:.0%}"
    explained = int(explanation.target[place])
    question = f"red speaks for cluster {explained}, blue against it"
    if target.name != "assigned":
        against = "" if target.against is None else f" and not {target.against}"
        value = float(explanation.discriminant[place])
        question = f"why {explained}{against}: discriminant {value:.4g}; red speaks for {explained}, blue against it"
    return f"{path}\n{where}\n{question}; the pixels hold {share_at_pixels(explanation, place):.0%} of the discriminant"


def _on_cpu(explanation: Explanation) -> Explanation:
    target, heatmap, receipt, assignment = explanation
    return Explanation(
        target.cpu(),
        heatmap.cpu(),
        type(receipt)(*(column.cpu() for column in receipt)),
        type(assignment)(*(column.cpu() for column in assignment)),
    )
