"""Files that are written whole or not at all, whenever the process ends."""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch


@contextmanager
def written_whole(path: Path, sync_folder: bool = True) -> Iterator[Path]:
    """A name beside `path` to write to; the file gets its name when all of it is on the disk, and goes if that fails.

    What a killed process leaves beside it, the next one that writes the file replaces.

    Args:
        path: the file; its folder is made.
        sync_folder: whether to wait until the name is on the disk, too; for many files, `sync` their folder once.

    Example:
        >>> folder = Path(getfixture("tmp_path"))
        >>> with written_whole(folder / "a.txt") as beside:
        ...     _ = beside.write_text("all of it")
        >>> [file.name for file in folder.iterdir()]
        ['a.txt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{hashlib.blake2b(os.fsencode(path.name), digest_size=12).hexdigest()}.part")
    try:
        yield beside
        sync(beside)  # before it gets its name, or a power cut could leave the name without the content
        os.replace(beside, path)
        if sync_folder:
            sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until the content of a file, or the names in a folder where the system can tell, are on the disk."""
    with suppress(OSError) if path.is_dir() else nullcontext():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, values: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Writes values as indented JSON; numbers that are not finite become `null`, as JSON has no NaN."""
    finite = json.loads(json.dumps(values), parse_constant=lambda _: None)
    with written_whole(path) as beside:
        beside.write_text(json.dumps(finite, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tensors(path: Path, content: Any) -> None:
    """Writes tensors and plain values for `torch.load(path, weights_only=True)`.

    They are put together in memory: so a file has the same bytes under any name, and a full disk is an `OSError`.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with written_whole(path) as beside:
        beside.write_bytes(buffer.getbuffer())
