"""Collections of images: the digits that ship with scikit-learn, and folders of the user's."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from whycluster.data.decoding import read_image
from whycluster.data.listing import Listing, list_files
from whycluster.errors import UserError, whole_number


class Collection(ABC):
    """Numbered images with their names and labels; the base class of all collections.

    Attributes:
        paths: the name of each image in tables and file names, with `/`.
        labels: the known class of each image, for evaluation only; an empty string where there is none.
        label_kind: what the labels are, in the plural.
        skipped: path `->` reason, of files that were found to be unusable when the collection was made.
        source: numbers and strings from which `open_collection` makes the same collection again.
    """

    paths: list[str]
    labels: list[str]
    label_kind: str
    skipped: dict[str, str]
    source: dict[str, Any]

    @abstractmethod
    def load(self, index: int) -> Image.Image:
        """Reads an image and returns it in RGB.

        Raises:
            UnreadableImageError: with the reason.
        """

    def file(self, index: int) -> Path | None:
        """Returns the file of an image; `None` if it has none."""
        return None

    def raw_features(self) -> np.ndarray | None:
        """Returns the pixels as features `(N, D)`; `None` where their clustering is no useful baseline."""
        return None

    def mask(self, index: int) -> Image.Image | None:
        """Returns the pixels that determine the label of an image, white on black; `None` if not known."""
        return None


class Digits(Collection):
    """1797 handwritten digits, 8×8 pixels, white on black, with their values as labels.

    Args:
        limit: how many to take, from the first on; `None`: all.

    Raises:
        UserError: if `limit` is no whole number above 0.
    """

    label_kind = "values of the digits"

    def __init__(self, limit: int | None = None) -> None:
        if limit is not None:
            whole_number("data.limit", limit, 1)
        digits = load_digits()
        self._pixels: np.ndarray = digits.images[:limit]  # (N, 8, 8), from 0 to 16
        self.labels = [str(label) for label in digits.target[:limit]]
        self.paths = [f"{number:04d}" for number in range(len(self._pixels))]
        self.skipped: dict[str, str] = {}
        self.source: dict[str, Any] = {"kind": "digits", "limit": limit}

    def load(self, index: int) -> Image.Image:
        grey = (self._pixels[index] * (255 / 16)).round().astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")

    def raw_features(self) -> np.ndarray | None:
        return self._pixels.reshape(len(self._pixels), -1)


class Folder(Collection):
    """A collection of all image files in a folder and its sub-folders, whose names are the labels.

    Args:
        root: the folder, or one image file.
        label_level: which folder between `root` and an image is its label: 1 is the uppermost, 2 the next one down; -1
            is the folder that holds the image, -2 the next one up. `None`: the one that holds the image. An image that
            has no folder at this level has no label.

    Raises:
        UserError: if there is no such folder or no file in it, or if `label_level` is no whole number, or 0.

    Example:
        `photos/train/cat/1.jpg` has the label `cat` in `Folder("photos")` and `train` at level 1.
    """

    def __init__(self, root: str | Path, label_level: int | None = None) -> None:
        level = -1 if label_level is None else label_level
        if type(level) is not int or level == 0:
            raise UserError(
                f"data.label_level={label_level!r} should be null or a whole number but 0: 1 takes the uppermost "
                "folder's name for a label, 2 the next one down, -1 that of the folder that holds the image."
            )
        path = Path(str(root)).expanduser()  # the config reads a folder named 2024 as a number
        if os.path.isfile(path):
            self.root, listing = path.parent, Listing([path.name], {})
        else:
            self.root, listing = path, list_files(path)
        self.paths, self.skipped = listing
        if not self.paths:
            raise UserError(f"the image folder {str(root)!r} has no files in it{_listed(self.skipped)}.")
        self.labels = [_folder_name(path, level) for path in self.paths]
        where = "sub-folders that hold the images" if level == -1 else f"folders at level {level}"
        self.label_kind = f"names of the {where}"
        self.source: dict[str, Any] = {
            "kind": "folder", "root": str(path.absolute()), "label_level": label_level
        }  # fmt: skip

    def load(self, index: int) -> Image.Image:
        return read_image(self.root / self.paths[index])

    def file(self, index: int) -> Path | None:
        return (self.root / self.paths[index]).absolute()


def _folder_name(path: str, level: int) -> str:
    """Returns the name of the folder at a level of a path; empty where there is none.

    Example:
        >>> [_folder_name("train/cat/1.jpg", level) for level in (-1, 1, 2, 3, -3)]
        ['cat', 'train', 'cat', '', '']
    """
    folders = path.split("/")[:-1]
    place = level - 1 if level > 0 else len(folders) + level
    return folders[place] if 0 <= place < len(folders) else ""


def _listed(skipped: dict[str, str]) -> str:
    return "".join(f"; {path}: {reason}" for path, reason in skipped.items())


def has_labels(labels: Sequence[str]) -> bool:
    """Tells whether the labels can be compared with clusters: every image has one, and there are at least two."""
    return "" not in labels and len(set(labels)) > 1


def describe_labels(collection: Collection) -> str:
    """Describes the labels of a collection in one line.

    Example:
        >>> describe_labels(Digits())
        "labels: 10 values of the digits, such as '0', '1', '2'"
    """
    names = sorted(set(collection.labels) - {""})
    without = collection.labels.count("")
    if not names:
        return f"labels: none (no {collection.label_kind})"
    missing = f"; {without} of {len(collection.labels)} images have none" if without else ""
    if len(names) == 1:
        return f"labels: {names[0]!r} only ({collection.label_kind}){missing}"
    some = ("such as " if len(names) > 3 else "") + ", ".join(map(repr, names[:3]))
    return f"labels: {len(names)} {collection.label_kind}, {some}{missing}"
