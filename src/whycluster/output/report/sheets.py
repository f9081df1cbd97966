"""Sprite sheets: many small pictures in few WebP files, so that a browser opens few files."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

COLUMNS = 8  # of a sheet, and its most rows: a gallery in the order of the sheets needs one or two of them
QUALITY = {"quality": 78, "alpha_quality": 60, "method": 0}  # of WebP; method 2 takes twice the time for 8 % less
SHEET = re.compile(r"[a-z_]+_\d+\.webp")  # names of files
LOSSLESS = 32  # pixels: tiles up to this side are shown enlarged, where losses would be seen


class Sheets:
    """Square tiles of one size, written to sheets of `COLUMNS²` as they come; one sheet is held in memory.

    Args:
        folder: exists, and gets `<name>_0.webp`, `<name>_1.webp`, …
        name: of the files.
        side: of a tile, in pixels; others are resized.
        channels: 3, or 4 with opacity.

    Attributes:
        files: that are written.
    """

    def __init__(self, folder: Path, name: str, side: int, channels: int) -> None:
        self.folder, self.name, self.side, self.channels = folder, name, side, channels
        self.files: list[Path] = []
        self._sheet = self._empty()
        self._slots = 0

    def add(self, tile: np.ndarray) -> int:
        """Adds a tile `(h, w, channels)` uint8, and returns its number, from which its place follows."""
        at = self._slots % COLUMNS**2
        top, left = at // COLUMNS * self.side, at % COLUMNS * self.side
        self._sheet[top : top + self.side, left : left + self.side] = self._fitted(tile)
        self._slots += 1
        if at == COLUMNS**2 - 1:
            self._write(COLUMNS)
        return self._slots - 1

    def close(self) -> None:
        """Writes the last sheet, cut to the rows that are in use."""
        if rest := self._slots % COLUMNS**2:
            self._write(-(-rest // COLUMNS))

    def _fitted(self, tile: np.ndarray) -> np.ndarray:
        if tile.shape[:2] == (self.side, self.side):
            return tile
        smaller = min(tile.shape[:2]) > self.side
        way = Image.Resampling.LANCZOS if smaller else Image.Resampling.BICUBIC
        return np.asarray(Image.fromarray(np.ascontiguousarray(tile)).resize((self.side, self.side), way))

    def _write(self, rows: int) -> None:
        file = self.folder / f"{self.name}_{len(self.files)}.webp"
        sheet = Image.fromarray(self._sheet[: rows * self.side])
        sheet.save(file, format="WEBP", lossless=self.side <= LOSSLESS, **QUALITY)
        self.files.append(file)
        self._sheet = self._empty()

    def _empty(self) -> np.ndarray:
        return np.zeros((COLUMNS * self.side, COLUMNS * self.side, self.channels), np.uint8)
