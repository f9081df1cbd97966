"""Pictures of concepts: where in the images of a cluster a channel is seen."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from whycluster.explain.concepts import Box, ConceptHeatmap, strongest_region
from whycluster.files import written_whole
from whycluster.output.captions import caption_strip
from whycluster.output.heatmaps import GAP, colour_scale, colours
from whycluster.output.tensorboard import in_rows

CONCEPT_PICTURES = "concepts"  # sub-folder of a run
CONCEPT_RELEVANCE = "concepts.npy"  # of each channel for each image, in the order of the assignments
TILE = 112  # side of a region in a picture, in pixels


class Region(NamedTuple):
    """A part of an image in which a channel is relevant."""

    row: int
    box: Box
    photo: np.ndarray  # (side, side, 3) uint8
    relevance: np.ndarray  # of the channel alone, (side, side) float32


def region_of(found: ConceptHeatmap) -> Region:
    """Cuts the region out of which most relevance of a channel comes."""
    box = strongest_region(found.heatmap)
    # Copies: a view would keep the whole batch in memory.
    return Region(found.row, box, box.of(found.photo).copy(), box.of(found.heatmap).copy())


def concept_picture(regions: Sequence[Region], caption: str) -> Image.Image:
    """Places regions in a row, below each its relevance, the caption above."""
    width = len(regions) * (TILE + GAP) + GAP
    strip = caption_strip(caption, width - 2 * GAP)
    sheet = Image.new("RGB", (width, len(strip) + 2 * TILE + 4 * GAP), "white")
    sheet.paste(Image.fromarray(strip), (GAP, GAP))
    for number, region in enumerate(regions):
        panels = region.photo, colours(region.relevance, colour_scale(region.relevance))
        for below, panel in enumerate(panels):
            tile = Image.fromarray(np.ascontiguousarray(panel)).resize((TILE, TILE), Image.Resampling.NEAREST)
            sheet.paste(tile, (GAP + number * (TILE + GAP), 2 * GAP + len(strip) + below * (TILE + GAP)))
    return sheet


def write_concept(run: Path, cluster: int, channel: int, share: float | None, regions: Sequence[Region]) -> None:
    """Writes the picture of a channel, and the relevance of its regions, `(n, side, side)` float32.

    Args:
        run: the folder of the run.
        cluster: whose images are shown.
        channel: that is shown.
        share: of the relevance of the cluster; `None` for a channel that sets the cluster apart from another one.
        regions: of the images in which it is seen.
    """
    told = "sets it apart from another one" if share is None else f"{share:.0%} of what speaks for it"
    caption = f"cluster {cluster}, channel {channel}: {told}\nbelow: relevance of this channel alone"
    picture, array = concept_files(run, cluster, channel)
    with written_whole(picture) as beside:
        concept_picture(regions, caption).save(beside, format="PNG")
    with written_whole(array) as beside, open(beside, "wb") as file:
        np.save(file, np.stack([region.relevance for region in regions]).astype(np.float32))


def show_concepts(writer: SummaryWriter, run: Path, clusters: Sequence[Mapping[str, Any]]) -> None:
    """Shows the concepts of each cluster in TensorBoard, one below the other.

    Args:
        writer: of the run.
        run: the folder with their pictures.
        clusters: the content of `clusters.json`.
    """
    for row in clusters:
        files = [next(concept_files(run, row["cluster"], concept["channel"])) for concept in row["concepts"]]
        pictures = [Image.open(file) for file in files if file.exists()]
        if pictures:
            sheet = np.asarray(in_rows(pictures, columns=1))
            writer.add_image(f"cluster {row['cluster']}/concepts", sheet, dataformats="HWC")


def concept_files(run: Path, cluster: int, channel: int) -> Iterator[Path]:
    """Returns the paths of picture and array of a concept."""
    return (run / CONCEPT_PICTURES / f"cluster_{cluster}" / f"channel_{channel}.{ending}" for ending in ("png", "npy"))
