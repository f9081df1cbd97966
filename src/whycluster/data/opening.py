"""Construction of a collection from its `source`."""

from collections.abc import Callable
from typing import Any

from whycluster.data.collections import Collection, Digits, Folder
from whycluster.data.scenes import Scenes
from whycluster.errors import UserError

COLLECTIONS: dict[str, Callable[..., Collection]] = {"digits": Digits, "folder": Folder, "scenes": Scenes}
DEFAULTS = {"folder": {"label_level": 1}}  # for settings that sources of earlier versions lack: what these versions did


def open_collection(source: dict[str, Any]) -> Collection:
    """Makes the collection that an earlier one described by its `source`.

    Raises:
        UserError: for an unknown kind, or if a folder does not exist any more.
    """
    values = dict(source)
    kind = values.pop("kind", None)
    if kind not in COLLECTIONS:
        raise UserError(f"a collection of kind {kind!r} is unknown; this version knows {', '.join(COLLECTIONS)}.")
    return COLLECTIONS[kind](**DEFAULTS.get(kind, {}) | values)
