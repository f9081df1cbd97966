"""Collections of images: the digits that ship with scikit-learn, and folders of one's own."""

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from whycluster.data.decoding import read_image
from whycluster.data.listing import Listing, list_files
from whycluster.errors import UserError, whole_number


class Collection(Protocol):
    """Images by number.

    Attributes:
        paths: how each image is called in tables and file names, with `/`.
        labels: what is known of each, for evaluation only; empty strings where nothing is.
        skipped: path `->` reason, of what was found to be unusable already.
        source: plain values from which `open_collection` makes the collection again.
    """

    paths: list[str]
    labels: list[str]
    skipped: dict[str, str]
    source: dict[str, Any]

    def load(self, index: int) -> Image.Image:
        """The image in RGB.

        Raises:
            UnreadableImageError: with the reason.
        """
        ...

    def file(self, index: int) -> Path | None:
        """Where the image lies, if it is a file."""
        ...

    def raw_features(self) -> np.ndarray | None:
        """The pixels themselves as features `(N, D)`, where that is a baseline worth comparing with."""
        ...

    def mask(self, index: int) -> Image.Image | None:
        """White on black, the pixels that alone can be the reason for an image's label, where that is known."""
        ...


class Digits:
    """1797 handwritten digits, 8×8 pixels, white on black, with their values as labels.

    Args:
        limit: take the first so many only.

    Raises:
        UserError: if `limit` is no number above 0.
    """

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

    def file(self, index: int) -> Path | None:
        return None

    def raw_features(self) -> np.ndarray | None:
        return self._pixels.reshape(len(self._pixels), -1)

    def mask(self, index: int) -> Image.Image | None:
        return None


class Folder:
    """All files of a folder, however deep; the name of the uppermost sub-folder is the label.

    Args:
        root: the folder, or one image file.

    Raises:
        UserError: if there is no such folder or no file in it.
    """

    def __init__(self, root: str | Path) -> None:
        given = Path(str(root)).expanduser()  # a folder named 2024 arrives as a number
        if os.path.isfile(given):
            self.root, listing = given.parent, Listing([given.name], {})
        else:
            self.root, listing = given, list_files(given)
        self.paths, self.skipped = listing
        if not self.paths:
            raise UserError(f"the image folder {str(root)!r} has no files in it{_listed(self.skipped)}.")
        self.labels = [path.split("/")[0] if "/" in path else "" for path in self.paths]
        self.source: dict[str, Any] = {"kind": "folder", "root": str(given.absolute())}

    def load(self, index: int) -> Image.Image:
        return read_image(self.root / self.paths[index])

    def file(self, index: int) -> Path | None:
        return (self.root / self.paths[index]).absolute()

    def raw_features(self) -> np.ndarray | None:
        return None

    def mask(self, index: int) -> Image.Image | None:
        return None


def _listed(skipped: dict[str, str]) -> str:
    return "".join(f"; {path}: {reason}" for path, reason in skipped.items())


def has_labels(labels: list[str]) -> bool:
    """Whether labels say something: at least two of them, on every image."""
    return "" not in labels and len(set(labels)) > 1
