"""What TensorBoard shows of a run: galleries, cluster sizes, the features as an embedding."""

import heapq
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from whycluster.output.heatmaps import colour_scale, colours, enlarged, side_by_side

SPRITE_SIDE = 8192  # pixels: TensorBoard shows no larger sprite
THUMBNAIL = 64
GALLERY = 12  # images of a cluster
COLUMNS = 6


def write_cluster_sizes(writer: SummaryWriter, sizes: Sequence[int]) -> None:
    """The number of images of each cluster: a curve over the clusters, and a table."""
    for cluster, size in enumerate(sizes):
        writer.add_scalar("clusters/size", size, cluster)
    lines = ["| cluster | images |", "| ---: | ---: |", *(f"| {k} | {size} |" for k, size in enumerate(sizes))]
    writer.add_text("clusters/sizes", "\n".join(lines))


def write_embedding(
    writer: SummaryWriter, features: np.ndarray, images: Sequence[Image.Image], rows: list[list[str]], header: list[str]
) -> None:
    """Features `(N, D)` for the projector, each point with its image and its row of the table."""
    side = min(THUMBNAIL, SPRITE_SIDE // math.ceil(math.sqrt(len(images))))
    thumbnails = np.stack([np.asarray(image.resize((side, side))) for image in images])  # (N, side, side, 3)
    writer.add_embedding(
        torch.from_numpy(features),
        metadata=[[re.sub(r"[\t\r\n]", " ", cell) for cell in row] for row in rows],
        metadata_header=header,
        label_img=torch.from_numpy(thumbnails).permute(0, 3, 1, 2).float() / 255,
        tag="features",
    )


def write_gallery(writer: SummaryWriter, cluster: int, tiles: Sequence[Image.Image]) -> None:
    """Pictures of a cluster, in rows."""
    if tiles:
        writer.add_image(f"cluster {cluster}", np.asarray(in_rows(tiles, COLUMNS)), dataformats="HWC")


def in_rows(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures in rows from left to right, each in a cell of the largest one's size."""
    width, height = (max(sizes) for sizes in zip(*(tile.size for tile in tiles), strict=True))
    columns = min(columns, len(tiles))
    sheet = Image.new("RGB", (columns * width, math.ceil(len(tiles) / columns) * height), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * width, number // columns * height))
    return sheet


class ExplanationGallery:
    """Keeps the images that lie deepest in each cluster, and shows them beside their heatmaps.

    Memory does not grow with the images seen.
    """

    def __init__(self) -> None:
        self._best: dict[int, list[tuple[float, str, Image.Image]]] = {}

    def offer(self, cluster: int, discriminant: float, path: str, photo: Tensor, heatmap: np.ndarray) -> None:
        """Shows an image to the gallery, which may keep it."""
        best = self._best.setdefault(cluster, [])
        if len(best) == GALLERY and (discriminant, path) <= best[0][:2]:
            return
        pixels = photo.permute(1, 2, 0).cpu().numpy()
        panels = [enlarged(panel) for panel in (pixels, colours(heatmap, colour_scale(heatmap)))]
        item = (discriminant, path, side_by_side(panels, f"{path}\ndiscriminant {discriminant:.4g}"))
        if len(best) < GALLERY:
            heapq.heappush(best, item)
        else:
            heapq.heapreplace(best, item)

    def kept(self) -> Mapping[int, list[tuple[float, str, Image.Image]]]:
        """What was kept of each cluster, deepest first."""
        clusters = sorted(self._best.items())
        return {cluster: sorted(best, key=lambda item: item[:2], reverse=True) for cluster, best in clusters}

    def merge(self, others: Sequence[Mapping[int, list[tuple[float, str, Image.Image]]]]) -> None:
        """Takes in what the galleries of other processes kept."""
        for other in others:
            for cluster, items in other.items():
                best = sorted([*self._best.get(cluster, []), *items], key=lambda item: item[:2])
                self._best[cluster] = best[-GALLERY:]

    def write(self, writer: SummaryWriter) -> None:
        """A gallery a cluster."""
        for cluster, items in self.kept().items():
            write_gallery(writer, cluster, [picture for _, _, picture in items])
