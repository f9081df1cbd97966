"""Files that no stop leaves half done: written whole or not at all, or line by line with a cut line left out.

"Written" means on the disk, not on its way there: what this module says is done is still there after a power cut.
"""

import errno
import json
import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_whole(path: Path, lasting: bool = True) -> Iterator[Path]:
    """A name beside `path` to write to; what was written there becomes `path` if nothing failed, else it goes.

    Args:
        path: the file; its folder is made.
        lasting: whether the name has to be on the disk, too. Where many files are written one after the other, it is
            enough to wait for their folders once.

    Example:
        >>> folder = Path(getfixture("tmp_path"))
        >>> with written_whole(folder / "a.txt") as beside:
        ...     _ = beside.write_text("all of it")
        >>> [file.name for file in folder.iterdir()]
        ['a.txt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name[:40]}.{os.getpid()}.{threading.get_native_id()}.part")
    try:
        yield beside
        to_disk(beside)  # before it gets its name, or a power cut could leave the name without the content
        os.replace(beside, path)
        if lasting:
            to_disk(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def is_left_over(path: Path) -> bool:
    """Whether a file was being written by `written_whole` when its process was killed."""
    return re.fullmatch(r"\..*\.\d+\.\d+\.part", path.name, re.DOTALL) is not None


def to_disk(path: Path) -> None:
    """Waits until what was written to a file, or which names a folder holds, is on the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # a folder, where the system does not open these
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot say when
            raise
    finally:
        os.close(descriptor)


def all_to_disk() -> None:
    """Waits until all that was written is on the disk, whoever wrote it: of many files quicker than one by one."""
    if hasattr(os, "sync"):
        os.sync()


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes values as indented JSON; numbers at the top that are not finite become `null`, as JSON has no NaN."""
    plain = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
    with written_whole(path) as beside:
        beside.write_text(json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


class Journal:
    """What is done, an entry a line; each is on the disk when `append` returns.

    Opened again after a stop, it drops an entry that was being written then, and goes on behind the last whole one.

    Args:
        path: the file; made if it is not there.

    Example:
        >>> path = Path(getfixture("tmp_path")) / "done.jsonl"
        >>> Journal(path).append({"rows": [0, 32]})
        >>> _ = path.open("a").write('{"rows": [3')
        >>> Journal(path).append({"rows": [32, 64]})
        >>> [entry["rows"] for _, entry in Journal.places(path)]
        [[0, 32], [32, 64]]
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        to_disk(path.parent)
        whole = sum(len(line) for line in _whole_lines(path))
        self._file = open(path, "r+b")  # noqa: SIM115  # stays open from entry to entry
        self._file.truncate(whole)
        self._file.seek(whole)

    def append(self, entry: dict[str, Any]) -> None:
        """Writes an entry of plain values."""
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    @staticmethod
    def places(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        """The whole entries of a file, in order, each with its place."""
        place = 0
        for line in _whole_lines(path):
            yield place, json.loads(line)
            place += len(line)

    @staticmethod
    def entry(path: Path, place: int) -> dict[str, Any]:
        """The entry at a place."""
        with open(path, "rb") as file:
            file.seek(place)
            entry: dict[str, Any] = json.loads(file.readline())
            return entry


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Lines up to the first that was not written whole."""
    with open(path, "rb") as file:
        for line in file:
            try:
                json.loads(line)
            except ValueError:  # cut, or, after a power cut, zeros
                return
            if not line.endswith(b"\n"):
                return
            yield line
