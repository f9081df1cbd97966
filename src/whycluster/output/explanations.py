"""Explanations as files: a heatmap and an array for each image, tables, and a gallery for TensorBoard."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from pytorch_lightning.utilities import move_data_to_device
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from whycluster.data import Batch, Collection, PreparedImages, Shards, UnreadableImageError
from whycluster.data.image_pass import ShardWriter
from whycluster.data.shards import Shard
from whycluster.explain import Assignment, Explanation, Target
from whycluster.explain.image_properties import pixel_properties, thumbnails
from whycluster.files import sync, written_whole
from whycluster.output.heatmaps import heatmap_picture
from whycluster.output.tables import TableRow
from whycluster.output.tensorboard import ExplanationGallery, tile

FILE_ENDINGS = {"heatmaps": "png", "relevance": "npy"}  # sub-folders of a run, and the endings of files there
GRID = 14  # in a row and in a column, of the heatmaps that are compared with each other
LONGEST_NAME = 240  # bytes; file systems allow 255, and endings are appended


class ExplanationWriter(ShardWriter):
    """Writes a heatmap and an array for each image to files, and to shards what else is known of the images: `images`,
    a row each (see `_image_rows`); `features` of the backbone, `(n, D)`; and, where assigned clusters are explained,
    `places`, the mean relevance in each of `GRID²` parts of the image, `(n, GRID, GRID)`, with the `properties`
    and `thumbnails` of the images (see `whycluster.explain.image_properties`).

    Args:
        folder: the run folder.
        collection: the images explained.
        targets: the targets explained for each image; of several, each gets a folder of its own.
        shards: to write to.
    """

    def __init__(self, folder: Path, collection: Collection, targets: Sequence[Target], shards: Shards) -> None:
        super().__init__(shards)
        self.folder, self.collection, self.targets = folder, collection, targets

    def results(self, prediction: list[Explanation], batch: Batch) -> Shard:
        explanations: list[Explanation] = move_data_to_device(prediction, "cpu")
        photos, folders = batch.images.cpu(), set()
        for place, number in enumerate(batch.indices.tolist()):
            for target, explanation in zip(self.targets, explanations, strict=True):
                folders |= self._write_files(target, explanation, photos[place], place, self.collection.paths[number])
        for folder in folders:
            sync(folder)
        features = explanations[0].features.float() if explanations else torch.empty(0)
        kept: Shard = {"images": _image_rows(batch.indices, explanations), "features": features}
        for target, explanation in zip(self.targets, explanations, strict=False):  # none where no image can be read
            if target.name == "assigned":
                kept["places"] = adaptive_avg_pool2d(explanation.heatmap[:, None].float(), GRID)[:, 0]
                kept |= {"properties": pixel_properties(photos), "thumbnails": thumbnails(photos)}
        return kept

    def _write_files(self, target: Target, explanation: Explanation, photo: Tensor, place: int, path: str) -> set[Path]:
        """Writes the files of one image; returns the folders to which an entry was added."""
        heatmap = explanation.heatmap[place].float().numpy()
        picture = heatmap_picture(photo.permute(1, 2, 0).numpy(), heatmap, caption(path, target, explanation, place))
        files = [file_of(self.folder, kind, target, len(self.targets), path) for kind in FILE_ENDINGS]
        with written_whole(files[0], sync_folder=False) as beside:
            Image.fromarray(picture).save(beside, format="PNG", compress_level=1)  # half the time of the default
        with written_whole(files[1], sync_folder=False) as beside, open(beside, "wb") as file:
            np.save(file, heatmap)
        return {folder for file in files for folder in file.parents if folder.is_relative_to(self.folder)}


def _image_rows(indices: Tensor, explanations: Sequence[Explanation]) -> list[list[Any]]:
    """Collects, for each image, its number, its assignment, and for each target the cluster explained, the receipt, and
    whether the pixels hold less than half of the discriminant.
    """
    columns = []
    for explanation in explanations:
        weak = [share_at_pixels(explanation, place) < 0.5 for place in range(len(indices))]
        receipt = zip(*(column.tolist() for column in explanation.receipt), strict=True)
        columns.append(list(zip(explanation.target.tolist(), receipt, weak, strict=True)))
    where = zip(*(column.tolist() for column in explanations[0].assignment), strict=True) if explanations else ()
    return [list(image) for image in zip(indices.tolist(), where, zip(*columns, strict=True), strict=True)]


def assignment_rows(shards: Shards, collection: Collection) -> Iterator[TableRow]:
    """Yields the rows of `assignments.csv`."""
    for index, where, _ in _images(shards):
        yield (collection.paths[index], *where, collection.labels[index])


def assignments(shards: Shards) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the numbers of the images that were explained, `(N,)`, and their assignments by name, `(N,)` each."""
    parts = [shard["images"] for shard in shards if len(shard["images"])]
    rows = np.concatenate([[index for index, *_ in part] for part in parts])
    columns = np.concatenate([np.array([where for _, where, _ in part], np.float64) for part in parts]).T
    named = dict(zip(Assignment._fields, columns, strict=True))
    return rows, named | {name: named[name].astype(np.int64) for name in ("cluster", "runner_up")}


def receipt_rows(shards: Shards, collection: Collection, targets: Sequence[Target]) -> Iterator[TableRow]:
    """Yields the rows of `receipts.csv`."""
    for index, _, asked in _images(shards):
        for target, (_, receipt, _) in zip(targets, asked, strict=True):
            yield (collection.paths[index], target.name, *receipt)


def deepest(shards: Shards, images: PreparedImages, targets: Sequence[Target], folder: Path) -> ExplanationGallery:
    """Collects the images of largest discriminant in a gallery, from what was written to a run folder."""
    paths = images.collection.paths

    def picture(place: tuple[int, int], title: str) -> Image.Image | None:
        index, number = place
        try:
            photo = images.prepare(images.collection.load(index))
        except UnreadableImageError:  # it has changed since
            return None
        file = file_of(folder, "relevance", targets[number], len(targets), paths[index])
        return tile(photo.permute(1, 2, 0).numpy(), np.load(file, allow_pickle=False), title)

    gallery = ExplanationGallery(picture)
    for index, _, asked in _images(shards):
        for number, (cluster, (discriminant, *_), _) in enumerate(asked):
            gallery.offer(cluster, discriminant, paths[index], (index, number))
    return gallery


class Counted(NamedTuple):
    """The numbers of explained images and of weak heatmaps."""

    images: int  # that could be read
    weak: int  # heatmaps whose pixels hold less than half of the discriminant


def counted(shards: Shards) -> Counted:
    """Counts the images that are explained, and the weak heatmaps."""
    images = weak = 0
    for _, _, asked in _images(shards):
        images += 1
        weak += sum(is_weak for *_, is_weak in asked)
    return Counted(images, weak)


def _images(shards: Shards) -> Iterator[list[Any]]:
    """Yields what `_image_rows` returned, image by image."""
    for shard in shards:
        yield from shard["images"]


def file_of(run: Path, kind: str, target: Target, n_targets: int, path: str) -> Path:
    """Returns the path of a file for an image in a run; of several targets, each has a folder of its own."""
    subfolder = f"target_{target.name}" if n_targets > 1 else ""
    return run / kind / subfolder / f"{file_name(path)}.{FILE_ENDINGS[kind]}"


def file_name(path: str) -> str:
    """Returns the beginning of a file's path for the path of an image.

    A name that is too long for an ending is shortened and made unique, and so is that of a folder that ends like a file
    here: an image `a` would be written to `a.png`, which is also the folder of another image.
    """
    *folders, name = path.split("/")
    endings = tuple(f".{ending}" for ending in FILE_ENDINGS.values())
    folders = [_unique(folder) if folder.lower().endswith(endings) else folder for folder in folders]
    return "/".join([*folders, _unique(name) if len(name.encode()) > LONGEST_NAME else name])


def _unique(name: str) -> str:
    """Shortens a name and appends a digest that makes it unique."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name.encode()[: LONGEST_NAME - 13].decode(errors='ignore')}-{digest}"


def share_at_pixels(explanation: Explanation, place: int) -> float:
    """Computes the fraction of the discriminant that arrived at the pixels of an image; 1 where there was none."""
    discriminant, pixels = (float(explanation.receipt[column][place]) for column in (0, 2))
    return pixels / discriminant if discriminant else 1.0


def caption(path: str, target: Target, explanation: Explanation, place: int) -> str:
    """Writes the caption of a heatmap: the image, its assignment, and what is explained."""
    cluster, discriminant, probability, runner_up = (column[place].item() for column in explanation.assignment)
    where = f"cluster {cluster}, runner-up {runner_up}, discriminant {discriminant:.4g}, probability {probability:.0%}"
    explained = int(explanation.target[place])
    question = f"red speaks for cluster {explained}, blue against it"
    if target.name != "assigned":
        against = "" if target.against is None else f" and not {target.against}"
        value = float(explanation.discriminant[place])
        question = f"why {explained}{against}: discriminant {value:.4g}\nred speaks for {explained}, blue against it"
    return f"{path}\n{where}\n{question}; the pixels hold {share_at_pixels(explanation, place):.0%} of the discriminant"
