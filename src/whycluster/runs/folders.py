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
        return Path(str(checkpoint)).expanduser()  # a folder named 2024 arrives as a number
    finished = list(TRAIN_RUNS.glob(f"**/{FILE_NAME}"))
    if not finished:
        raise ValueError(
            f"there is no finished train run in {TRAIN_RUNS}; run python train.py first, "
            f"or give checkpoint=/path/to/{FILE_NAME}."
        )
    return max(finished, key=lambda path: path.stat().st_mtime_ns)


def check_free(folder: Path, results: Sequence[str], overwrite: bool) -> None:
    """Makes sure that a run may write to a folder.

    Args:
        folder: the run folder.
        results: names of what the run writes there.
        overwrite: whether old results may be replaced.

    Raises:
        ValueError: if there are old results that may not be replaced.
    """
    found = [name for name in results if (folder / name).exists()]
    if found and not overwrite:
        raise ValueError(
            f"the run folder {str(folder)!r} already holds {found[0]}; choose another hydra.run.dir, or overwrite=true."
        )


@rank_zero_only
def clear(folder: Path, results: Sequence[str]) -> None:
    """Removes old results, once new ones are sure to come."""
    for name in results:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
