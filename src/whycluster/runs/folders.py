"""Run folders: who may write into one, what was asked of it, and whether that is done."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from whycluster.data.listing import FINISHED, REQUEST, UNFINISHED, is_unfinished_run
from whycluster.errors import UserError, true_or_false
from whycluster.explain.model import FILE_NAME
from whycluster.files import sync, written_whole
from whycluster.runs.ranks import is_first

TRAIN_RUNS = Path("outputs/train")

# Settings that cannot change results, with all that is below them. All others, those to come included, have to be the
# same when a run goes on.
FREE = {
    *("_target_", "_partial_", "resume", "num_workers", "check", "logger", "report"),
    *(f"trainer.{name}" for name in ("devices", "strategy", "num_nodes", "profiler", "log_every_n_steps")),
    *(f"trainer.{name}" for name in ("enable_progress_bar", "enable_model_summary")),
    *(f"trainer.{name}" for name in ("max_steps", "max_time")),  # a run that they end early goes on without them
    *(f"trainer.limit_{name}_batches" for name in ("train", "val", "predict")),
}


class Run:
    """A run folder that a command works on; nothing in it is ever removed but what the run itself keeps to go on.

    It is free, unfinished, or finished. As long as a run is unfinished, a sub-folder `unfinished` holds its request,
    from the first moment to the last, and what a second start goes on from. The run is finished from the moment on when
    its request is in the folder itself, too; the sub-folder is removed afterwards, the request last.

    Args:
        folder: the run folder.
        results: names of what the run writes into its folder.
        request: the command and all settings as plain values, by name, and what else decides the results; those in
            `FREE` do not count.
        resume: whether to go on with a run that was stopped.

    Attributes:
        state: the sub-folder.
    """

    def __init__(self, folder: Path, results: Sequence[str], request: Mapping[str, Any], resume: bool) -> None:
        self.folder, self.state, self.results = folder, folder / UNFINISHED, results
        self.request: dict[str, Any] = json.loads(json.dumps(_flat(request)))
        self.resume = true_or_false("resume", resume)

    def is_finished(self) -> bool:
        """Whether there is nothing left to go on with: all of this is done.

        Raises:
            UserError: if it was something else that is done.
        """
        finished = self.resume and (self.folder / FINISHED).exists()
        if finished:
            self._check_same()
            self._tidy()  # a kill may have left something
        return finished

    @contextmanager
    def working(self) -> Iterator[None]:
        """Takes the folder, for a run that is new or goes on, and lets go of it whatever happens.

        Of several processes, the first does.

        Raises:
            UserError: if another process works on it, or it holds something else.
        """
        if not is_first():
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(self.folder / ".lock").acquire(timeout=0)
        except Timeout:
            raise self._refusal("is worked on by another process") from None
        with lock:
            if not is_unfinished_run(self.folder):
                self._begin()
            elif self.resume:
                self._check_same()
            else:
                raise self._refusal("holds a run that did not finish", "go on with it by resume=true, or ")
            try:
                yield
            except BaseException:
                if os.listdir(self.state) == [REQUEST] and not self._held():
                    shutil.rmtree(self.state)  # nothing was done
                raise
            self._finish()

    def _begin(self) -> None:
        held = self._held() + [UNFINISHED for _ in self.state.glob("*")]
        if held:
            raise self._refusal(f"already holds {held[0]}")
        self.state.mkdir(exist_ok=True)
        beside = self.folder / ".new.request.json"  # the sub-folder is empty as long as its request is not there
        beside.write_text(json.dumps(self.request, indent=2) + "\n", encoding="utf-8")
        sync(beside)
        os.replace(beside, self.state / REQUEST)
        sync(self.state)
        sync(self.folder)

    def _finish(self) -> None:
        if hasattr(os, "sync"):
            os.sync()  # all results are on the disk, whoever wrote them
        with written_whole(self.folder / FINISHED) as beside:
            shutil.copyfile(self.state / REQUEST, beside)
        self._tidy()

    def _tidy(self) -> None:
        """Removes what a finished run went on from; a sub-folder without a request is not that of a run."""
        if not is_first() or not (self.state / REQUEST).exists():
            return
        with suppress(FileNotFoundError):  # another process is about it, too
            for path in self.state.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != REQUEST:
                    path.unlink()
            (self.state / REQUEST).unlink()
            self.state.rmdir()

    def _held(self) -> list[str]:
        return [name for name in (*self.results, FINISHED) if os.path.lexists(self.folder / name)]

    def _check_same(self) -> None:
        begun = asked(self.folder)
        for name in [*self.request, *begun]:
            was, value = begun.get(name), self.request.get(name)
            if was != value and name != "checkpoint":  # a model counts by what it holds, and not by where it lies
                raise self._refusal(f"holds a run that was begun with {name}={was}, and now it is {value}")

    def _refusal(self, reason: str, cure: str = "") -> UserError:
        return UserError(
            f"the run folder {str(self.folder)!r} {reason}; {cure}choose another by hydra.run.dir=..., or remove it."
        )


def asked(folder: Path) -> dict[str, Any]:
    """What the run in a folder was begun with, whether it finished or not; empty if there is none."""
    for file in (folder / UNFINISHED / REQUEST, folder / FINISHED):
        if file.exists():
            request: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            return request
    return {}


def find_checkpoint(checkpoint: str) -> Path:
    """The model file that a user means.

    Args:
        checkpoint: a model file, a run folder, or `latest`: the newest finished run below `outputs/train`.

    Raises:
        UserError: if there is none, or the run did not finish.
    """
    if checkpoint == "latest":
        models = [file.with_name(FILE_NAME) for file in TRAIN_RUNS.rglob(FINISHED)]
        models = [model for model in models if model.exists()]  # explain runs may lie there, too
        if not models:
            raise UserError(
                f"there is no finished train run in {TRAIN_RUNS}; run the train command first, "
                f"or give checkpoint=/path/to/{FILE_NAME}."
            )
        return max(models, key=lambda path: path.stat().st_mtime_ns)
    path = Path(str(checkpoint)).expanduser()  # a folder named 2024 arrives as a number
    path = path / FILE_NAME if path.is_dir() else path
    if path.name == FILE_NAME and is_unfinished_run(path.parent):
        raise UserError(
            f"the run in {str(path.parent)!r} did not finish; go on with it by the command that began it, with its "
            "folder as hydra.run.dir and resume=true."
        )
    return path


def _flat(request: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings that count, by their full names, such as `head.n_clusters`."""
    flat: dict[str, Any] = {}
    for name, value in request.items():
        if prefix + name not in FREE:
            flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
