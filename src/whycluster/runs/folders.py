"""Run folders: which are finished, which may be written to, and what a run that was stopped goes on from."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from whycluster.data.listing import FINISHED, REQUEST, UNFINISHED, is_run, is_unfinished_run
from whycluster.errors import UserError
from whycluster.explain.model import FILE_NAME
from whycluster.files import is_left_over, to_disk, write_json
from whycluster.runs.ranks import is_first, started_together

TRAIN_RUNS = Path("outputs/train")
GONE = f".{UNFINISHED}.gone"  # the sub-folder of a run that is not done, while it is being removed
CHECKPOINT = "checkpoint"  # where the model of a request was found; results depend on what it holds, not on the place
OF_OTHERS = ", which is not of a run, and stays; choose another hydra.run.dir."
LOOSE = "tensorboard"  # what others write, who do not wait for the disk


class Run:
    """A run folder that a command works on.

    Until the run is done, a sub-folder `unfinished` says so, keeps others out, and holds what a second start goes on
    from.

    Args:
        folder: the run folder.
        results: names of what the run writes into its folder.
        resume: whether to go on with a run that was stopped.
        overwrite: whether results, or what a run that was stopped has left, may be replaced.

    Attributes:
        state: the sub-folder.

    Raises:
        UserError: if it is to go on and to be replaced.
    """

    def __init__(self, folder: Path, results: Sequence[str], resume: bool = False, overwrite: bool = False) -> None:
        if resume and overwrite:
            raise UserError("resume=true goes on with a run and overwrite=true begins it anew; choose one of them.")
        self.folder, self.state, self.results = folder, folder / UNFINISHED, tuple(results)
        self.resume, self.overwrite = resume, overwrite
        self.lock_file = self.state / "lock"
        self.lock = FileLock(self.lock_file, timeout=0)
        self._was_begun = False

    def is_finished(self, request: dict[str, Any]) -> bool:
        """Whether there is nothing left to go on with: all of this is done, and nobody is at work on the folder.

        Raises:
            UserError: if it was something else that is done.
        """
        done = _request(self.folder / FINISHED) if self.resume else {}
        if not done or self.begun():
            return False
        self._check_same("that is finished", "choose another hydra.run.dir", done, request)
        return True

    def _found(self) -> list[str]:
        return [name for name in self.results if (self.folder / name).exists()]

    def begun(self) -> dict[str, Any]:
        """What a run was begun with that did not finish; empty if there is none."""
        return _request(self.state / REQUEST)

    def asked(self) -> dict[str, Any]:
        """What a run was begun with, whether it finished or not; empty if there is none."""
        return self.begun() or _request(self.folder / FINISHED)

    def claim(self, request: dict[str, Any]) -> None:
        """Takes the folder, for a run that is new or goes on.

        Args:
            request: plain values that the results depend on; a run that goes on needs the same.

        Raises:
            UserError: if another process works on it, or there is something that may not be replaced.
        """
        self._check_free()
        if self._state_is_of_others():
            raise UserError(f"the run folder {str(self.folder)!r} already holds {UNFINISHED}{OF_OTHERS}")
        self.state.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire()
        except Timeout:
            raise UserError(
                f"another process works on the run folder {str(self.folder)!r}; wait for it, or choose another "
                "hydra.run.dir."
            ) from None
        try:
            begun = self.begun()  # now that nobody else can end it
            self._check_free()
            self._was_begun = bool(begun)
            if begun and self.resume:
                self._check_same("that did not finish", "go on with what it was begun with", begun, request)
            elif begun and not self.overwrite:
                raise UserError(
                    f"the run folder {str(self.folder)!r} holds a run that did not finish; go on with it by "
                    "resume=true, or begin anew with overwrite=true."
                )
            elif begun and started_together():  # others may have read already what is about to go
                raise UserError(
                    f"the run folder {str(self.folder)!r} holds a run that did not finish, and several processes that "
                    "start at once cannot agree on its end; remove the folder, or go on with it by resume=true."
                )
            else:
                self._clear_state()
                write_json(self.state / REQUEST, request)
                to_disk(self.folder)
            for left in filter(is_left_over, self.folder.rglob("*.part")):
                left.unlink(missing_ok=True)
        except BaseException:
            self.lock.release()
            raise

    def _state_is_of_others(self) -> bool:
        """Whether somebody else uses that name: in the sub-folder of a run there is a lock first, and last."""
        return self.state.exists() and any(self.state.iterdir()) and not (self.lock_file.exists() or self.begun())

    def _check_free(self) -> None:
        """Refuses to replace what is there: results unless asked, and what is no result of a run in any case."""
        if self.begun() or not self._found():
            return
        ours = is_run(self.folder) or self.lock_file.exists()
        if not (ours and self.overwrite):
            raise UserError(
                f"the run folder {str(self.folder)!r} already holds {self._found()[0]}"
                + ("; choose another hydra.run.dir, or overwrite=true." if ours else OF_OTHERS)
            )

    def _check_same(self, which: str, cure: str, begun: dict[str, Any], request: dict[str, Any]) -> None:
        for name, was, value in _differing(begun, json.loads(json.dumps(request))):
            if name != CHECKPOINT:
                raise UserError(
                    f"the run in {str(self.folder)!r} {which} was begun with {name}={was}, and now it is {value}; "
                    f"{cure}, or begin anew with overwrite=true and without resume=true."
                )

    def clear(self, spared: Sequence[str] = ()) -> None:
        """Removes old results but some, once new ones are sure to come."""
        for name in {*self.results, FINISHED} - set(spared):
            _remove(self.folder / name)

    def _clear_state(self) -> None:
        _remove(self.state / REQUEST)  # first: what is left without it counts for nothing
        to_disk(self.state)
        for path in self.state.iterdir():
            if path != self.lock_file:
                _remove(path)

    def release(self) -> None:
        """Lets go of a folder whose run did not finish; of one that has done nothing no trace is left."""
        noted = {path.name for path in self.state.iterdir()} if self.state.exists() else set()
        if noted <= {self.lock_file.name, REQUEST} and not self._was_begun:
            self._remove_state()
        else:
            self.lock.release()

    def finish(self) -> None:
        """The run is done: all its results are on the disk."""
        for path in (self.folder / LOOSE, *(self.folder / LOOSE).rglob("*")):
            to_disk(path)
        write_json(self.folder / FINISHED, self.begun())
        self._remove_state()

    def tidy(self) -> None:
        """Removes what a process has left in a finished run that was killed as it ended it, or as it began anew.

        Of several processes, the first does.
        """
        if not is_first():
            return
        _remove(self.folder / GONE)
        if self.state.exists() and not self._state_is_of_others():
            with suppress(Timeout):  # somebody begins anew just now
                self.lock.acquire()
                if self.begun():
                    self.lock.release()
                else:
                    self._remove_state()

    def _remove_state(self) -> None:
        gone = self.folder / GONE
        _remove(gone)
        if self.state.exists():
            self.state.rename(gone)  # at once, whatever happens while its files are removed
            to_disk(self.folder)
        self.lock.release()
        _remove(gone)


@contextmanager
def working_on(run: Run, request: dict[str, Any]) -> Iterator[None]:
    """Claims a run folder for the first of several processes, and lets go of it whatever happens; see `Run.claim`."""
    if not is_first():
        yield
        return
    run.claim(request)
    try:
        yield
    except BaseException:
        run.release()
        raise
    run.finish()


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
                f"the run in {str(path)!r} did not finish; go on with it by python train.py …, the command that began "
                "it, with its folder as hydra.run.dir and resume=true."
            )
        return path / FILE_NAME if path.is_dir() else path
    finished = list(_finished_models(TRAIN_RUNS))
    if not finished:
        raise UserError(
            f"there is no finished train run in {TRAIN_RUNS}; run python train.py first, "
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


def _differing(begun: dict[str, Any], request: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name, value before and value now of what is different, settings within settings by their full names."""
    for name in [*request, *(begun.keys() - request.keys())]:
        was, value = begun.get(name), request.get(name)
        if isinstance(value, dict) and isinstance(was, dict):
            yield from _differing(was, value, f"{prefix}{name}.")
        elif was != value:
            yield prefix + name, was, value


def _request(path: Path) -> dict[str, Any]:
    """What a run was begun with; empty if no such file is there."""
    try:
        request: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return request


def digest(parts: Iterable[str | Tensor | Path]) -> str:
    """A short name for content: of texts, tensors and files together."""
    hashed = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, Path):
            with open(part, "rb") as file:
                while chunk := file.read(2**20):
                    hashed.update(chunk)
        elif isinstance(part, Tensor):
            hashed.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        else:
            hashed.update(part.encode() + b"\0")
    return hashed.hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
