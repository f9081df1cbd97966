"""Digests of images, of weights and of files, to detect changes."""

import hashlib
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whycluster.data.collections import Collection


def fingerprint(collection: Collection, rows: Iterable[int], times: bool = False) -> dict[str, Any]:
    """Computes numbers and strings that change when images do.

    Args:
        collection: the images.
        rows: numbers of the images to include.
        times: whether to include the times at which files were changed.

    Returns:
        `count`, `digest` of their names and sizes, and with `times` the `newest` one.
    """
    rows, newest, hashed = list(rows), (0, ""), hashlib.blake2b(digest_size=8)
    for row in rows:
        file, path = collection.file(row), collection.paths[row]
        hashed.update(path.encode() + b"\0")
        if file is not None and os.path.exists(file):
            status = os.stat(file)
            hashed.update(f"{status.st_size} {status.st_mtime_ns if times else 0}\0".encode())
            newest = max(newest, (status.st_mtime_ns, path))
    found: dict[str, Any] = {"count": len(rows), "digest": hashed.hexdigest()}
    if times and newest[1]:
        found = {"newest": f"{newest[1]} of {datetime.fromtimestamp(newest[0] // 10**9)}", **found}
    return found


def digest(parts: Iterable[Tensor | Path]) -> str:
    """Computes one short digest of the content of tensors and files."""
    hashed = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, Path):
            with open(part, "rb") as file:
                hashlib.file_digest(file, lambda: hashed)
        else:
            hashed.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()
