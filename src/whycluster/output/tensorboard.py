"""Parts of a run in TensorBoard: cluster sizes, galleries, and the features as an embedding."""

import heapq
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from whycluster.output.heatmaps import colour_scale, colours, enlarged, side_by_side

SPRITE_SIDE = 8192  # pixels, the largest sprite that TensorBoard shows
THUMBNAIL = 64
GALLERY = 12  # images of a cluster
CARD = 400  # pixels, about the width of a card as TensorBoard opens it
ON_A_CARD = 6  # images
PAIRS, PHOTOS = 2, 3  # columns on a card, of photos beside their heatmaps and of photos alone
CARD_FONT = 12  # size of captions on a card of that width, in pixels


def write_cluster_sizes(writer: SummaryWriter, sizes: Sequence[int]) -> None:
    """Writes the number of images of each cluster, as a curve over the clusters and as a table."""
    for cluster, size in enumerate(sizes):
        writer.add_scalar("clusters/size", size, cluster)
    lines = ["| cluster | images |", "| ---: | ---: |", *(f"| {k} | {size} |" for k, size in enumerate(sizes))]
    writer.add_text("clusters/sizes", "\n".join(lines))


def write_embedding(
    writer: SummaryWriter, features: np.ndarray, images: Sequence[Image.Image], rows: list[list[str]], header: list[str]
) -> None:
    """Writes features `(N, D)` for the projector, each point with its image and its row of the table."""
    shutil.rmtree(Path(writer.log_dir) / "00000", ignore_errors=True)  # left by a run that was interrupted
    side = min(THUMBNAIL, SPRITE_SIDE // math.ceil(math.sqrt(len(images))))
    thumbnails = np.stack([np.asarray(image.resize((side, side))) for image in images])  # (N, side, side, 3)
    writer.add_embedding(
        torch.from_numpy(features),
        metadata=[[re.sub(r"[\t\r\n]", " ", cell) for cell in row] for row in rows],
        metadata_header=header,
        label_img=torch.from_numpy(thumbnails).permute(0, 3, 1, 2).float() / 255,
        tag="features",
    )


def write_gallery(writer: SummaryWriter, cluster: int, tiles: Sequence[Image.Image], columns: int) -> None:
    """Writes pictures of a cluster, in rows, `ON_A_CARD` to a card; the cards of a cluster stand side by side."""
    for first in range(0, len(tiles), ON_A_CARD):
        shown = tiles[first : first + ON_A_CARD]
        tag = f"cluster {cluster}/{first + 1} to {first + len(shown)}"
        writer.add_image(tag, np.asarray(in_rows(shown, columns)), dataformats="HWC")


def gallery_tile(panels: Sequence[np.ndarray], title: str, columns: int) -> Image.Image:
    """Places panels `(H, W, 3)` uint8 side by side, under a title that can be read on a card with so many columns."""
    panels = [enlarged(panel) for panel in panels]
    width = sum(panel.shape[1] for panel in panels)
    return Image.fromarray(side_by_side(panels, title, round(CARD_FONT * columns * width / CARD)))


def in_rows(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """Places pictures in rows from left to right, each in a cell of the largest one's size."""
    width, height = (max(sizes) for sizes in zip(*(tile.size for tile in tiles), strict=True))
    columns = min(columns, len(tiles))
    sheet = Image.new("RGB", (columns * width, math.ceil(len(tiles) / columns) * height), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * width, number // columns * height))
    return sheet


def tile(photo: np.ndarray, heatmap: np.ndarray, title: str) -> Image.Image:
    """Places a photo `(H, W, 3)` beside its heatmap `(H, W)`."""
    return gallery_tile([photo, colours(heatmap, colour_scale(heatmap))], title, PAIRS)


class ExplanationGallery:
    """The images of largest discriminant in each cluster, beside their heatmaps; other images are not kept.

    Args:
        picture: place and title of an image `->` its picture; `None` if it can no longer be read.
    """

    def __init__(self, picture: Callable[[Any, str], Image.Image | None]) -> None:
        self._picture = picture
        self._best: dict[int, list[tuple[float, str, Any]]] = {}

    def offer(self, cluster: int, discriminant: float, path: str, place: Any) -> None:
        """Considers an image for the gallery."""
        best = self._best.setdefault(cluster, [])
        heapq.heappush(best, (discriminant, path, place))
        if len(best) > GALLERY:
            heapq.heappop(best)

    def kept(self) -> Mapping[int, list[tuple[float, str, Any]]]:
        """Returns the images kept of each cluster, largest discriminant first."""
        clusters = sorted(self._best.items())
        return {cluster: sorted(best, reverse=True) for cluster, best in clusters}

    def write(self, writer: SummaryWriter) -> None:
        """Writes a gallery of each cluster."""
        for cluster, items in self.kept().items():
            pictures = [self._picture(place, f"{path}\ndiscriminant {value:.4g}") for value, path, place in items]
            write_gallery(writer, cluster, [picture for picture in pictures if picture is not None], PAIRS)
