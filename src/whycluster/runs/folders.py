"""Run folders: which are finished, which may be written to."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only

from whycluster.explain.model import FILE_NAME

TRAIN_RUNS = Path("outputs/train")


def find_checkpoint(checkpoint: str) -> Path:
    """The model file that a user means.

    Args:
        checkpoint: a model file, a run folder, or `latest`: the newest finished run below `outputs/train`.

    Raises:
        ValueError: if there is none.
    """
    if checkpoint != "latest":
        return Path(checkpoint).expanduser()
    finished = list(TRAIN_RUNS.glob(f"**/{FILE_NAME}"))
    if not finished:
        raise ValueError(
            f"there is no finished train run in {TRAIN_RUNS}; run python train.py first, "
            f"or give checkpoint=/path/to/{FILE_NAME}."
        )
    return max(finished, key=lambda path: path.stat().st_mtime_ns)


def claim(folder: Path, results: Sequence[str], overwrite: bool) -> None:
    """Makes sure that a run may write to a folder; old results go if `overwrite` says so.

    Args:
        folder: the run folder.
        results: names of what the run writes there.
        overwrite: whether old results may go.

    Raises:
        ValueError: if there are old results that may not go.
    """
    found = [name for name in results if (folder / name).exists()]
    if found and not overwrite:
        raise ValueError(
            f"the run folder {str(folder)!r} already holds {found[0]}; choose another hydra.run.dir, or overwrite=true."
        )
    _clear(folder, found)


@rank_zero_only
def _clear(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink()
