"""What lies in a folder, below it, and below that: in sorted order, each place once."""

import os
from pathlib import Path
from typing import NamedTuple


class Listing(NamedTuple):
    """Files of a folder.

    Attributes:
        paths: of all files, relative to the folder, with `/`, sorted.
        skipped: relative path `->` why it could not be listed.
    """

    paths: list[str]
    skipped: dict[str, str]


def list_files(root: Path) -> Listing:
    """Lists a folder recursively, through links, but no folder twice; names that begin with a dot are left out.

    Raises:
        ValueError: if `root` is not a folder that can be read.
    """
    if not root.is_dir():
        raise ValueError(f"the image folder {str(root)!r} does not exist{'' if not root.exists() else ' as a folder'}.")
    paths: list[str] = []
    skipped: dict[str, str] = {}
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            place = os.stat(root / folder)
            if (place.st_dev, place.st_ino) in seen:
                continue
            seen.add((place.st_dev, place.st_ino))
            with os.scandir(root / folder) as entries:
                _sort_entries(entries, folder, paths, waiting, skipped)
        except OSError as error:
            if not folder:
                raise ValueError(f"the image folder {str(root)!r} cannot be read: {error.strerror}.") from error
            skipped[folder] = f"the folder cannot be read: {error.strerror}"
    return Listing(sorted(paths), skipped)


def _sort_entries(
    entries: "os.scandir[str]", folder: str, paths: list[str], waiting: list[str], skipped: dict[str, str]
) -> None:
    """Puts each entry of a folder where it belongs: folders to visit, files to use, and what is neither."""
    for entry in entries:
        if entry.name.startswith("."):
            continue
        name = f"{folder}/{entry.name}" if folder else entry.name
        if entry.is_dir():
            waiting.append(name)
        elif entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)):
            paths.append(name)  # a broken link too: reading it will say so
        else:
            skipped[name] = "neither a file nor a folder"
