"""A collection made again from what it said of itself."""

from collections.abc import Callable
from typing import Any

from whycluster.data.collections import Collection, Digits, Folder
from whycluster.data.scenes import Scenes
from whycluster.errors import UserError

KINDS: dict[str, Callable[..., Collection]] = {"digits": Digits, "folder": Folder, "scenes": Scenes}


def open_collection(source: dict[str, Any]) -> Collection:
    """A collection from the `source` of an earlier one.

    Raises:
        UserError: for an unknown kind, or if a folder is not there any more.
    """
    values = dict(source)
    kind = values.pop("kind", None)
    if kind not in KINDS:
        raise UserError(f"a collection of kind {kind!r} is unknown; this version knows {', '.join(KINDS)}.")
    return KINDS[kind](**values)
