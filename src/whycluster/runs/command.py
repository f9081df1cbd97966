"""The frame around the commands: quiet where libraries chatter, and one sentence where a request cannot be met."""

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, OverrideParseException
from hydra.types import RunMode
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from whycluster.data.listing import is_run, is_unfinished_run
from whycluster.output.console import override, shell_word, short
from whycluster.runs.ranks import end_with_parent, is_first

# Remarks of libraries that a user of these commands can do nothing about.
NOISE = (
    r".*`LightningModule.configure_optimizers` returned `None`.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*does not have many workers which may be a bottleneck.*",
    r".*Couldn't infer the batch indices fetched from your dataloader.*",
)


# What is raised where a request cannot be met.
REQUESTS = (ValueError, OSError, OmegaConfBaseException, ConfigCompositionException, MisconfigurationException)

# What is said where another process of the run is gone.
LOST = ("Connection closed by peer", "Connection reset by peer", "remote process exited", "gloo/transport")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Ends the program with one sentence and exit status 1 where a request cannot be met.

    It goes around the Hydra main function, for what cannot be composed, and inside it, for what cannot be run: between
    the two Hydra would add lines of its own. Set `WHYCLUSTER_TRACEBACK=1` to see where an error came from.
    """
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # the line of code helps no user
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric.strategies.launchers").setLevel(logging.INFO)  # it tells of killed processes
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and leaves the telling to us
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if not is_first():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process hears it, too, and ends the others
        end_with_parent()
    try:
        yield
    except KeyboardInterrupt as interrupt:
        _stop_interrupted(interrupt)
    except SystemExit as stop:  # Lightning turns an interrupt into an exit without a word
        if isinstance(stop.__context__, KeyboardInterrupt) and not stop.__suppress_context__:
            _stop_interrupted(stop.__context__)
        raise
    except Exception as error:
        behind = _interrupt_behind(error)
        if behind is not None:
            _stop_interrupted(behind)
        sentence = _sentence(error)
        if sentence is None or os.environ.get("WHYCLUSTER_TRACEBACK"):
            raise
        _stop(f"error: {sentence}", 1)


class Terminated(KeyboardInterrupt):
    """The system asked for an end; it is met as an interrupt by the user is."""


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # who asks twice means it
    raise Terminated


def _stop_interrupted(interrupt: KeyboardInterrupt) -> NoReturn:
    status = 143 if isinstance(interrupt, Terminated) else 130
    if not is_first():
        raise SystemExit(status) from None  # the first process says it
    _stop(f"interrupted; {_way_on()}", status)


def _interrupt_behind(error: BaseException) -> KeyboardInterrupt | None:
    """The interrupt that an error came from: where one hits a library that tidies up badly, it raises what it likes."""
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, KeyboardInterrupt):
        behind = behind.__context__
    return behind


def _way_on() -> str:
    """How to go on with the run, in one line."""
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    if hydra is None or OmegaConf.is_missing(hydra.runtime, "output_dir"):
        return "nothing was done."
    several = hydra.mode == RunMode.MULTIRUN
    key, folder = ("hydra.sweep.dir", hydra.sweep.dir) if several else ("hydra.run.dir", hydra.runtime.output_dir)
    if not several and not is_unfinished_run(Path(folder)):
        return "the run is finished." if is_run(Path(folder)) else "nothing was done."
    settings = [word for word in sys.argv[1:] if not word.startswith((f"{key}=", "resume=", "overwrite="))]
    words = " ".join(shell_word(word) for word in ["python", sys.argv[0], *settings])
    return f"go on by: {words} {override(key, short(Path(folder)))} resume=true"


def _stop(line: str, status: int) -> NoReturn:
    print(line, file=sys.stderr)
    raise SystemExit(status) from None


def _sentence(error: Exception) -> str | None:
    """What to tell the user; `None` where the error is a fault of the program."""
    for cause in _causes(error):
        if isinstance(cause, MissingMandatoryValue):
            return f"{cause.full_key} is missing; give it as {cause.full_key}=..."
        if isinstance(cause, ConfigCompositionException) and "Could not override" in str(cause):
            return f"{_one_line(cause)} There is no such setting; --help lists those there are."
        if isinstance(cause, REQUESTS):
            return _one_line(cause)
        if isinstance(cause, TypeError) and "unexpected keyword argument" in str(cause):
            return f"a setting does not exist: {_one_line(cause)}"
        if isinstance(cause, RuntimeError) and any(sign in str(cause) for sign in LOST):
            return "another process of this run has ended, see what it said; resume=true goes on with what is done."
        if isinstance(cause, RuntimeError) and "DataLoader worker" in str(cause):
            return (
                "a process that decodes images has ended, perhaps for lack of memory; lower num_workers, and go on by "
                "resume=true."
            )
        if isinstance(cause, torch.OutOfMemoryError):
            return "the device has not enough memory; lower batch_size."
        if isinstance(cause, OverrideParseException):
            return (
                f"the override {cause.override!r} cannot be read; write name=value, with quotes around odd characters."
            )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on.

    Where files cannot be written, torch raises an error of its own as it tidies up, and does not say from what.
    """
    while error is not None:
        yield error
        before = error.__context__ if isinstance(error, RuntimeError) and not error.__suppress_context__ else None
        error = error.__cause__ or (before if isinstance(before, OSError) else None)


def _one_line(error: BaseException) -> str:
    message = str(error)
    for misleading in ("Config search path:", "To append to your config"):  # what is appended is not known either
        message = message.partition(misleading)[0]
    lines = [line.strip() for line in message.splitlines()]
    return " ".join(line for line in lines if line) or type(error).__name__
