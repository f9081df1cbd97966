"""Run folders: who may write into one, what was asked of it, and whether that is done."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from whycluster.data.listing import FINISHED, REQUEST, UNFINISHED, is_run, is_unfinished_run
from whycluster.errors import UserError, true_or_false
from whycluster.explain.model import FILE_NAME
from whycluster.files import is_left_over, sync, written_whole
from whycluster.runs.ranks import is_first

TRAIN_RUNS = Path("outputs/train")
RESULTS = "results"  # in a request: names in the folder that are of its run
UNCOMPARED = {RESULTS, "checkpoint"}  # a model counts by what it holds, and not by where it lies
OF_OTHERS = ", which is not of a run, and stays; choose another hydra.run.dir."

# Settings that cannot change results, with all that is below them. All others, those to come included, have to be the
# same when a run goes on.
FREE = {
    *("_target_", "_partial_", "folder", "resume", "overwrite", "num_workers", "check", "logger"),
    *(f"trainer.{name}" for name in ("devices", "strategy", "num_nodes", "profiler", "log_every_n_steps")),
    *(f"trainer.{name}" for name in ("enable_progress_bar", "enable_model_summary", "limit_predict_batches")),
}


class Run:
    """A run folder that a command works on.

    Until the run is done, a sub-folder `unfinished` keeps others out, and holds what a second start goes on from: the
    request, and files that are written whole. The request moves into the folder itself when all is done.

    Args:
        folder: the run folder.
        results: names of what the run writes into its folder.
        request: all settings as plain values, by name, and what else decides the results; those in `FREE` do not count.
        resume: whether to go on with a run that was stopped.
        overwrite: whether results, or what a run that was stopped has left, may be replaced.

    Attributes:
        state: the sub-folder.

    Raises:
        UserError: if it is to go on and to be replaced.
    """

    def __init__(
        self, folder: Path, results: Sequence[str], request: Mapping[str, Any], resume: bool, overwrite: bool
    ) -> None:
        if resume and overwrite:
            raise UserError("resume=true goes on with a run and overwrite=true begins it anew; choose one of them.")
        self.folder, self.state, self.results = folder, folder / UNFINISHED, tuple(results)
        self.request: dict[str, Any] = json.loads(json.dumps(_flat(request)))
        self.resume, self.overwrite = true_or_false("resume", resume), true_or_false("overwrite", overwrite)
        self._lock_file = self.state / "lock"
        self._lock = FileLock(self._lock_file, timeout=0)

    def is_finished(self) -> bool:
        """Whether there is nothing left to go on with: all of this is done.

        Raises:
            UserError: if it was something else that is done.
        """
        done = _read(self.folder / FINISHED) if self.resume and not is_unfinished_run(self.folder) else {}
        if done:
            self._check_same("that is finished", "choose another hydra.run.dir", done)
            with suppress(Timeout):  # somebody begins anew just now
                if is_first() and self._lock_file.exists():  # a process was killed as it ended the run
                    self._lock.acquire()
                    self._remove_state()
        return bool(done)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Takes the folder, for a run that is new or goes on, and lets go of it whatever happens.

        Of several processes, the first does.

        Raises:
            UserError: if another process works on it, or there is something that may not be replaced.
        """
        if not is_first():
            yield
            return
        self._lock_folder()
        begun = _read(self.state / REQUEST)
        try:
            self._claim(begun)
            yield
            if hasattr(os, "sync"):
                os.sync()  # all results are on the disk, whoever wrote them
            os.replace(self.state / REQUEST, self.folder / FINISHED)
            sync(self.folder)
        except BaseException:
            if begun or {path.name for path in self.state.iterdir()} > {REQUEST, self._lock_file.name}:
                self._lock.release()
            else:
                self._remove_state()  # nothing was done, and no trace is left
            raise
        self._remove_state()

    def clear(self, spared: Sequence[str] = ()) -> None:
        """Removes old results but some, those of the run before included, once new ones are sure to come."""
        for name in {*asked(self.folder).get(RESULTS, ()), *self.results, FINISHED} - set(spared):
            _remove(self.folder / name)

    def _lock_folder(self) -> None:
        if self.state.exists() and any(self.state.iterdir()) and not self._lock_file.exists():
            raise UserError(f"the run folder {str(self.folder)!r} already holds {UNFINISHED}{OF_OTHERS}")
        self.state.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"another process works on the run folder {str(self.folder)!r}; wait for it, or choose another "
                "hydra.run.dir."
            ) from None

    def _claim(self, begun: dict[str, Any]) -> None:
        """Goes on with the run that was begun here, if that is wanted, or begins."""
        if begun and self.resume:
            self._check_same("that did not finish", "go on with what it was begun with", begun)
        else:
            self._check_free(begun)
            self._begin()
        for folder in (self.state, *(self.folder / name for name in self.results)):
            for left in filter(is_left_over, [*self.folder.glob(".*.part"), *folder.rglob("*.part")]):
                left.unlink(missing_ok=True)

    def _check_free(self, begun: dict[str, Any]) -> None:
        """Refuses to replace what is there: results unless asked, and what is no result of this command in any case."""
        where, before = f"the run folder {str(self.folder)!r}", asked(self.folder)
        found = [name for name in self.results if os.path.lexists(self.folder / name)]
        if begun and not self.overwrite:
            raise UserError(
                f"{where} holds a run that did not finish; go on with it by resume=true, or begin anew with "
                "overwrite=true."
            )
        of_others = [name for name in found if name not in before.get(RESULTS, self.results if before else ())]
        if of_others and not begun:
            raise UserError(f"{where} already holds {of_others[0]}{OF_OTHERS}")
        if before and before.get("command") != self.request.get("command"):
            raise UserError(
                f"{where} holds a run of another command, {before.get('command')}; choose another hydra.run.dir."
            )
        if found and not self.overwrite:
            raise UserError(f"{where} already holds {found[0]}; choose another hydra.run.dir, or overwrite=true.")

    def _begin(self) -> None:
        request = self.request | {RESULTS: sorted({*self.results, *asked(self.folder).get(RESULTS, ())})}
        _remove(self.state / REQUEST)  # first: what is left without it counts for nothing
        for path in self.state.iterdir():
            if path != self._lock_file:
                _remove(path)
        with written_whole(self.state / REQUEST) as beside:
            beside.write_text(json.dumps(request, indent=2) + "\n", encoding="utf-8")
        sync(self.folder)

    def _check_same(self, which: str, cure: str, begun: dict[str, Any]) -> None:
        # The command comes first, and digests last: they say that something differs, and not what.
        names = sorted({*begun, *self.request} - UNCOMPARED, key=lambda name: (name.endswith("digest"), name))
        for name in sorted(names, key="command".__ne__):
            was, value = begun.get(name), self.request.get(name)
            if was != value:
                raise UserError(
                    f"the run in {str(self.folder)!r} {which} was begun with {name}={was}, and now it is {value}; "
                    f"{cure}, or begin anew with overwrite=true and without resume=true."
                )

    def _remove_state(self) -> None:
        for path in self.state.iterdir():
            if path != self._lock_file:  # the last to go, as it says whose folder this is
                _remove(path)
        with suppress(OSError):  # somebody begins anew just now, with a lock of its own
            self._lock_file.unlink()
            self.state.rmdir()
        self._lock.release()


def asked(folder: Path) -> dict[str, Any]:
    """What the run in a folder was begun with, whether it finished or not; empty if there is none."""
    return _read(folder / UNFINISHED / REQUEST) or _read(folder / FINISHED)


def find_checkpoint(checkpoint: str) -> Path:
    """The model file that a user means.

    Args:
        checkpoint: a model file, a run folder, or `latest`: the newest finished run below `outputs/train`.

    Raises:
        UserError: if there is none, or the run did not finish.
    """
    if checkpoint != "latest":
        path = Path(str(checkpoint)).expanduser()  # a folder named 2024 arrives as a number
        if is_unfinished_run(path) or (path.name == FILE_NAME and is_unfinished_run(path.parent)):
            raise UserError(
                f"the run in {str(path)!r} did not finish; go on with it by the command that began it, with its folder "
                "as hydra.run.dir and resume=true."
            )
        return path / FILE_NAME if path.is_dir() else path
    finished = list(_finished_models(TRAIN_RUNS))
    if not finished:
        raise UserError(
            f"there is no finished train run in {TRAIN_RUNS}; run the train command first, "
            f"or give checkpoint=/path/to/{FILE_NAME}."
        )
    return max(finished, key=lambda path: path.stat().st_mtime_ns)


def _finished_models(runs: Path) -> Iterator[Path]:
    """Models of the finished runs in a folder; not what lies below a run, where a photo may have such a name."""
    for folder, subfolders, files in os.walk(runs):
        if is_run(Path(folder)):
            subfolders.clear()
            if FILE_NAME in files and not is_unfinished_run(Path(folder)):
                yield Path(folder) / FILE_NAME


def _read(path: Path) -> dict[str, Any]:
    request: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return request


def _flat(request: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings that count, by their full names, such as `head.n_clusters`."""
    flat: dict[str, Any] = {}
    for name, value in request.items():
        if prefix + name not in FREE:
            flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
