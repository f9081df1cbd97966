"""Recursive listing of a folder: in sorted order, each folder once."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from whycluster.errors import UserError

NOT_TEXT = "the name is not UTF-8; rename it"
# A folder with results of this program is recognised by the request that they answer. In a finished run it is in the
# folder itself, else only in a sub-folder.
FINISHED, UNFINISHED, REQUEST = ".request.json", "unfinished", "request.json"


class Listing(NamedTuple):
    """Files of a folder."""

    paths: list[str]  # of all files, relative to the folder, with `/`, sorted
    skipped: dict[str, str]  # relative path `->` why it could not be listed


class _Found(NamedTuple):
    """Entries of the folders seen so far, by what they are; all relative to the root."""

    files: list[str]
    folders: list[str]  # still to be visited, as are the links
    links: list[str]
    skipped: dict[str, str]


def list_files(root: Path) -> Listing:
    """Lists a folder recursively, through links, but no folder twice.

    Names that begin with a dot, and folders below `root` with results of this program, are left out. A folder that is
    reached both by its own name and through a link is listed under its own name.

    Raises:
        UserError: if `root` is not a folder that can be read.
    """
    if not os.path.isdir(root):
        raise UserError(
            f"the image folder {str(root)!r} {'is no folder' if os.path.exists(root) else 'does not exist'}."
        )
    found = _Found([], [""], [], {})
    seen: set[tuple[int, int]] = set()
    while found.folders or found.links:
        folder = (found.folders or found.links).pop()
        try:
            place = os.stat(root / folder)
            if (place.st_dev, place.st_ino) in seen:
                continue
            seen.add((place.st_dev, place.st_ino))
            if folder and is_run(root / folder):
                continue
            with os.scandir(root / folder) as entries:
                _sort_entries(entries, folder, found)
        except OSError as error:
            if not folder:
                raise UserError(f"the image folder {str(root)!r} cannot be read: {error.strerror}.") from error
            found.skipped[folder] = f"the folder cannot be read: {error.strerror}"
    return Listing(sorted(found.files), found.skipped)


def is_run(folder: Path) -> bool:
    """Tells whether a folder holds results of this program, or is about to."""
    return os.path.exists(folder / FINISHED) or is_unfinished_run(folder)


def is_unfinished_run(folder: Path) -> bool:
    """Tells whether a run began to work on this folder and did not end."""
    return os.path.exists(folder / UNFINISHED / REQUEST) and not os.path.exists(folder / FINISHED)


def _is_text(name: str) -> bool:
    """Tells whether a name can be written into tables: Python represents bytes that are not UTF-8 by surrogates."""
    return name.isascii() or name.encode(errors="replace").decode() == name


def _sort_entries(entries: Iterable["os.DirEntry[str]"], folder: str, found: _Found) -> None:
    """Adds each entry of a folder to the list for its type, in an order that does not depend on the file system."""
    for entry in sorted(entries, key=lambda entry: entry.name, reverse=True):
        if entry.name.startswith("."):
            continue
        name = f"{folder}/{entry.name}" if folder else entry.name
        if not _is_text(name):
            found.skipped[name.encode(errors="surrogateescape").decode(errors="backslashreplace")] = NOT_TEXT
        elif entry.is_symlink():
            # A link that is broken, circular or not accessible counts as a file; reading it gives the reason.
            (found.links if os.path.isdir(entry.path) else found.files).append(name)
        elif entry.is_dir():
            found.folders.append(name)
        elif entry.is_file():
            found.files.append(name)
        else:
            found.skipped[name] = "neither a file nor a folder"
