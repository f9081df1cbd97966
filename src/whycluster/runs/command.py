"""The frame around the commands: one sentence where a request cannot be met, a traceback where the program is wrong."""

import argparse
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import NoReturn

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException, OverrideParseException
from hydra.types import RunMode
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from whycluster.data.listing import is_run, is_unfinished_run
from whycluster.errors import UserError, whole_number
from whycluster.output.console import override, shell_word, short, typed
from whycluster.runs.ranks import end_with_parent, is_first

PACKAGE = Path(__file__).parents[1]
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parents[1] / "conf"  # installed, or a checkout

# Remarks of libraries that a user of these commands can do nothing about.
IGNORED = (
    r".*`LightningModule.configure_optimizers` returned `None`.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*does not have many workers which may be a bottleneck.*",
    r".*Couldn't infer the batch indices fetched from your dataloader.*",
)
# What ends a command with one sentence; all else is a fault of the program.
REFUSALS = (UserError, OSError, MemoryError, torch.OutOfMemoryError, HydraException, OmegaConfBaseException)


class RefusedError(Exception):
    """A job of a sweep that was told of already: Hydra goes on with the next one."""


class Terminated(KeyboardInterrupt):
    """The system asked for an end; it is met as an interrupt by the user is."""


def run(command: str) -> None:
    """Runs a command, `train` or `explain`, with the settings in `sys.argv`."""
    for message in IGNORED:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric.strategies.launchers").setLevel(logging.INFO)  # it tells of killed processes
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and leaves the telling to us
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    if not is_first():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process hears it, too, and ends the others
        end_with_parent()
    if sys.version_info >= (3, 14):  # which checks help texts at once, and one of Hydra 1.3 is none until it is printed
        argparse.ArgumentParser._check_help = lambda *_: None
    with plain_errors((*REFUSALS, ValueError)):  # of which Hydra raises some while it composes
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)(_job)()


def _job(config: DictConfig) -> None:
    """Builds what the config names, and runs it."""
    with plain_errors():
        os.chdir(HydraConfig.get().runtime.cwd)  # hydra.job.chdir moves elsewhere; paths are those of the user
        request = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        if whole_number("seed", config.get("seed", 0), 0) >= 2**32:
            raise UserError(f"seed={config.seed} should be below {2**32}.")
        launched = any(one.detect() and one().world_size() > 1 for one in (TorchElasticEnvironment, SLURMEnvironment))
        if launched and not any(word.startswith("hydra.run.dir=") for word in HydraConfig.get().overrides.hydra):
            raise UserError("processes that are started at once, as by torchrun, need a folder: hydra.run.dir=...")
        pl.seed_everything(config.get("seed", 0), workers=True, verbose=False)
        hydra.utils.instantiate(config)(request=request)


@contextmanager
def plain_errors(refusals: tuple[type[Exception], ...] = REFUSALS) -> Iterator[None]:
    """Ends the program with one sentence where a request cannot be met, and with a traceback where it is at fault.

    It goes around the Hydra main function, for what cannot be composed, and inside it, for what cannot be run: between
    the two Hydra would add lines of its own. Set `WHYCLUSTER_TRACEBACK=1` to see where a sentence came from.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        _stop_interrupted(interrupt)
    except SystemExit as stop:  # Lightning turns an interrupt into an exit without a word
        if isinstance(stop.__context__, KeyboardInterrupt) and not stop.__suppress_context__:
            _stop_interrupted(stop.__context__)
        raise
    except RefusedError:
        raise SystemExit(1) from None
    except Exception as error:
        behind: BaseException | None = error  # where an interrupt hits a library that tidies up badly
        while behind is not None and not isinstance(behind, KeyboardInterrupt):
            behind = behind.__context__
        if behind is not None:
            _stop_interrupted(behind)
        sentence = _sentence(error, refusals)
        if sentence is None or os.environ.get("WHYCLUSTER_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {sentence}" if sentence else _fault(), file=sys.stderr, flush=True)
        if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
            raise RefusedError from None
        raise SystemExit(1) from None


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # who asks twice means it
    raise Terminated


def _stop_interrupted(interrupt: KeyboardInterrupt) -> NoReturn:
    if is_first():  # which says it for all
        print(f"interrupted; {_way_on()}", file=sys.stderr, flush=True)
    raise SystemExit(143 if isinstance(interrupt, Terminated) else 130) from None


def _way_on() -> str:
    """How to go on with the run, in one line."""
    hydra_config = HydraConfig.get() if HydraConfig.initialized() else None
    if hydra_config is None or OmegaConf.is_missing(hydra_config.runtime, "output_dir"):
        return "nothing was done."
    several, folder = hydra_config.mode == RunMode.MULTIRUN, hydra_config.runtime.output_dir
    key, folder = ("hydra.sweep.dir", hydra_config.sweep.dir) if several else ("hydra.run.dir", folder)
    if not several and not is_unfinished_run(Path(folder)):
        return "the run is finished." if is_run(Path(folder)) else "nothing was done."
    settings = [
        word for word in sys.argv[1:] if not word.startswith((f"{key}=", "resume=", "overwrite=", "--config-name="))
    ]
    behind = max((number for number, word in enumerate(settings, 1) if "=" in word and word[0] != "-"), default=0)
    words = [shell_word(word) for word in settings]
    words[behind:behind] = [override(key, short(Path(folder))), "resume=true"]  # Hydra wants settings side by side
    return f"go on by: {' '.join([typed(str(hydra_config.job.config_name)), *words])}"


def _sentence(error: BaseException, refusals: tuple[type[Exception], ...]) -> str | None:
    """What to tell the user; `None` where the error is a fault of the program."""
    if isinstance(error, InstantiationException) and error.__cause__ is not None:  # Hydra wraps what a part raises
        cause = error.__cause__
        refused = isinstance(cause, TypeError) and cause.__traceback__ is not None and not cause.__traceback__.tb_next
        return f"{_one_line(error)}; --help lists the settings." if refused else _sentence(cause, refusals)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is missing; give it as {error.full_key}=..."
    if isinstance(error, OverrideParseException):
        return f"the override {error.override!r} cannot be read; write name=value, with quotes around odd characters."
    if isinstance(error, torch.OutOfMemoryError):
        return "the device has not enough memory; lower batch_size."
    if isinstance(error, ConfigCompositionException) and isinstance(error.__cause__, OmegaConfBaseException):
        return f"{str(error).splitlines()[0]} There is no such setting; --help lists those there are."
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):  # which has no type of its own
        return "a process that decodes images has ended, perhaps for lack of memory; lower num_workers."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename!r}' if error.filename else ''}."
    if isinstance(error, refusals):
        return _one_line(error)
    return None


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).partition("Config search path:")[0].splitlines()]
    return " ".join(line for line in lines if line) or type(error).__name__


def _fault() -> str:
    bug = f"this is a bug in whycluster {version('whycluster')}: please report it, with the lines above."
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return f"another process of this run has ended, see what it said; resume=true goes on. If none has, {bug}"
    return bug
