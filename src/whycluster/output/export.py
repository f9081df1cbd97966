"""The images of each cluster laid into a folder of their own, as links or copies."""

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from whycluster.data import Collection, UnreadableImageError
from whycluster.errors import UserError

CHOICES = ("none", "links", "copies")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_export(export: str) -> None:
    """Checks that a choice exists; else `UserError`."""
    if export not in CHOICES:
        raise UserError(f"export={export!r} is unknown; choose from {', '.join(CHOICES)}.")


def export_clusters(
    folder: Path, collection: Collection, clusters: Iterable[tuple[int, int]], export: str
) -> dict[str, str]:
    """Links or copies each image to `folder/<cluster>/<its path>`, in place of what was in the folder.

    Args:
        folder: `clusters` of a run folder.
        collection: the images.
        clusters: number of an image and its cluster, for each image to lay out.
        export: `links` or `copies`; images that are no files are written as PNG. `none` does nothing.

    Returns:
        Path `->` reason, of the images that could not be laid out.

    Raises:
        UserError: for another choice.
        OSError: if there is no room.
    """
    check_export(export)
    failed: dict[str, str] = {}
    if export == "none":
        return failed
    shutil.rmtree(folder, ignore_errors=True)
    for index, cluster in clusters:
        try:
            _lay_out(folder / str(cluster) / collection.paths[index], collection, index, export)
        except (OSError, UnreadableImageError) as error:  # a copy that fails does not end the run
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise
            failed[collection.paths[index]] = str(error)
    return failed


def _lay_out(place: Path, collection: Collection, index: int, export: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    source = collection.file(index)
    if source is not None and export == "links":
        os.symlink(source, place)
        return
    target = place if source is not None else place.with_name(f"{place.name}.png")
    try:
        if source is not None:
            shutil.copy2(source, target)
        else:
            collection.load(index).save(target)
    except OSError:
        target.unlink(missing_ok=True)  # it may be incomplete
        raise
