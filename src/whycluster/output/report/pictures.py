"""The pictures of the page: photos, heatmaps to lay over them, and the regions of concepts."""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from whycluster.explain.concepts import Box
from whycluster.output.concepts import concept_files
from whycluster.output.heatmaps import BLUR, colour_scale, colours, layer, photo_in
from whycluster.output.report.run_files import RunFiles, shown_channels
from whycluster.output.report.sheets import Sheets

LARGE, SMALL = 224, 160  # sides of photos, in pixels: of few images, and of many
FEW = 800  # images
COARSER = 2  # a heatmap has so many times fewer pixels in a row than its photo
CROP = 96  # most pixels in a row of a region
UNREADABLE = (OSError, ValueError, EOFError)  # what NumPy and Pillow raise for damaged files; the last: empty ones
THREADS, AHEAD = 2, 8  # that decode, and how many images they may be ahead

RegionKey = tuple[int, int, int]
"""Cluster, channel, and which of its regions."""


class Pictures(NamedTuple):
    """The sheets by kind, and what lies where in them.

    Attributes:
        sheets: `photos`, `heatmaps`, `crops`, `crop_heatmaps` and `places`; heatmaps have the slots of what is below.
        images: the slot of each image, `(N,)`; -1 without one.
        regions: slots of regions; some may be missing.
        places: slots of the mean heatmaps of clusters.
    """

    sheets: dict[str, Sheets]
    images: list[int]
    regions: dict[RegionKey, int]
    places: dict[int, int]

    @property
    def missing(self) -> int:
        """The number of images without a picture."""
        return self.images.count(-1)


def draw_pictures(files: RunFiles, folder: Path) -> Pictures:
    """Writes all sheets of a run to a folder; every picture of an image is opened once.

    The photos, as the network saw them, are cut out of `heatmaps/`: so the page needs no other file than the run's.
    """
    pictures = Pictures(_sheets(files, folder), [], {}, {})
    wanted = _wanted_regions(files.clusters)
    for path, found in zip(files.paths, _read_ahead(files), strict=True):
        if found is None:
            pictures.images.append(-1)
            continue
        photo, relevance = found
        pictures.images.append(pictures.sheets["photos"].add(photo))
        pictures.sheets["heatmaps"].add(_coarse_layer(relevance, pictures.sheets["heatmaps"].side))
        for key, box in wanted.get(path, {}).items():
            _add_region(pictures, files.folder, key, box, photo)
    for cluster in files.clusters:
        if cluster["places"] is not None:
            places = np.array(cluster["places"])
            pictures.places[cluster["cluster"]] = pictures.sheets["places"].add(colours(places, colour_scale(places)))
    for sheets in pictures.sheets.values():
        sheets.close()
    return pictures


def _sheets(files: RunFiles, folder: Path) -> dict[str, Sheets]:
    """Chooses the sizes of tiles: no picture is enlarged."""
    found = next((found for row in range(len(files.paths)) if (found := _read(files, row)) is not None), None)
    native = LARGE if found is None else len(found[0])
    side = min(native, LARGE if len(files.paths) <= FEW else SMALL)
    boxes = [box.side for regions in _wanted_regions(files.clusters).values() for box in regions.values()]
    crop = min(max(boxes, default=CROP), CROP)
    places = next((len(cluster["places"]) for cluster in files.clusters if cluster["places"] is not None), 1)
    kinds = {
        "photos": (side, 3),
        "heatmaps": (side // COARSER if side > LARGE // COARSER else side, 4),
        "crops": (crop, 3),
        "crop_heatmaps": (crop, 4),
        "places": (places, 3),
    }
    return {name: Sheets(folder, name, *size) for name, size in kinds.items()}


def _read_ahead(files: RunFiles) -> Iterator[tuple[np.ndarray, np.ndarray] | None]:
    """Yields what `_read` returns for each image, in order; threads decode the next ones meanwhile."""
    coming: deque[Future[tuple[np.ndarray, np.ndarray] | None]] = deque()
    with ThreadPoolExecutor(THREADS) as threads:
        for row in range(len(files.paths)):
            coming.append(threads.submit(_read, files, row))
            if len(coming) > AHEAD:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def _read(files: RunFiles, row: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Reads photo `(H, W, 3)` and relevance `(H, W)` of an image; `None` where a file is gone or damaged."""
    try:
        relevance = np.load(files.file("relevance", row), allow_pickle=False)
        with Image.open(files.file("heatmaps", row), formats=["PNG"]) as picture:
            return (photo_in(picture, *relevance.shape), relevance) if relevance.ndim == 2 else None
    except UNREADABLE:
        return None


def _coarse_layer(relevance: np.ndarray, side: int) -> np.ndarray:
    """Draws the blurred relevance in fewer pixels, `(side, side, 4)`."""
    blurred = gaussian_filter(relevance, BLUR * relevance.shape[1], truncate=3)
    small = Image.fromarray(blurred.astype(np.float32)).resize((side, side), Image.Resampling.BOX)
    return layer(np.asarray(small))


def _wanted_regions(clusters: list[dict[str, Any]]) -> dict[str, dict[RegionKey, Box]]:
    """Collects which regions of which image are shown: path `->` key `->` box."""
    wanted: dict[str, dict[RegionKey, Box]] = {}
    for cluster in clusters:
        for concept in shown_channels(cluster):
            for number, region in enumerate(concept["regions"]):
                key = cluster["cluster"], concept["channel"], number
                wanted.setdefault(region["path"], {})[key] = Box(*region["box"])
    return wanted


def _add_region(pictures: Pictures, run: Path, key: RegionKey, box: Box, photo: np.ndarray) -> None:
    cluster, channel, number = key
    _, file = concept_files(run, cluster, channel)
    try:
        relevance = np.load(file, mmap_mode="r", allow_pickle=False)[number]
    except (*UNREADABLE, IndexError):
        return
    pictures.regions[key] = pictures.sheets["crops"].add(box.of(photo))
    pictures.sheets["crop_heatmaps"].add(layer(np.asarray(relevance)))


def region_slots(pictures: Pictures, cluster: int, concept: Mapping[str, Any]) -> list[int]:
    """Returns the slots of the regions of a concept; -1 for one without a picture."""
    keys = [(cluster, concept["channel"], number) for number in range(len(concept["regions"]))]
    return [pictures.regions.get(key, -1) for key in keys]
