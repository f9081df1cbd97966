"""The frame around the commands: one sentence where a request cannot be met, a traceback where the program is wrong."""

import argparse
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import FrameType

import hydra
import pytorch_lightning as pl
import torch
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

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
    r".*module\(s\) in eval mode at the start of training.*",  # a backbone stays in it while its weights are trained
)
# What ends a command with one sentence; all else is a fault of the program.
REFUSALS = (UserError, OSError, MemoryError, torch.OutOfMemoryError, HydraException, OmegaConfBaseException)

_interrupts: list[int] = []  # signals to end that this process got, and has not answered yet
_jobs: list[HydraConf] = []  # Hydra's own settings of each job that has begun; between those of a sweep it has none


class FailedJobError(Exception):
    """A job of a sweep that was told of already: Hydra goes on with the next one."""


def run(command: str) -> None:
    """Runs a command, `train` or `explain`, with the settings in `sys.argv`."""
    _jobs.clear()
    for message in IGNORED:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric.strategies.launchers").setLevel(logging.INFO)  # it tells of killed processes
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and leaves the telling to us
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    if not is_first():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process hears it, too, and ends the others
        end_with_parent()
    if sys.version_info >= (3, 14):  # which checks help texts at once, and one of Hydra 1.3 is none until it is printed
        argparse.ArgumentParser._check_help = lambda *_: None
    main = hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)(_job)
    if not succeeds(main, (*REFUSALS, ValueError)):  # of which Hydra raises some while it composes
        raise SystemExit(1)


def succeeds(work: Callable[[], object], refusals: tuple[type[Exception], ...] = REFUSALS) -> bool:
    """Runs a part of a command; where that fails, prints one sentence, or a traceback if the program is at fault.

    It goes around the Hydra main function, for what cannot be composed, and inside it, for what cannot be run: between
    the two Hydra would add lines of its own. Set `WHYCLUSTER_TRACEBACK=1` to see where a sentence came from.

    Raises:
        SystemExit: after an interrupt, whatever the libraries that it went through have made of it.
    """
    try:
        work()
    except FailedJobError:
        return False
    except BaseException as error:
        if _interrupts:
            if is_first():  # which says it for all
                print(f"interrupted; {_way_on()}", file=sys.stderr, flush=True)
            raise SystemExit(128 + _interrupts.pop()) from None
        if not isinstance(error, Exception):
            raise
        sentence = _sentence(error, refusals)
        if sentence is None or os.environ.get("WHYCLUSTER_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {sentence}" if sentence else _fault(), file=sys.stderr, flush=True)
        return False
    return True


def _job(config: DictConfig) -> None:
    _jobs.append(HydraConfig.get())
    if not succeeds(lambda: _execute(config)):
        raise FailedJobError if HydraConfig.get().mode == RunMode.MULTIRUN else SystemExit(1)


def _execute(config: DictConfig) -> None:
    """Builds what the config names, and runs it."""
    settings = HydraConfig.get()
    os.chdir(settings.runtime.cwd)  # hydra.job.chdir moves elsewhere; paths are those of the user
    request = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    if whole_number("seed", config.get("seed", 0), 0) >= 2**32:
        raise UserError(f"seed={config.seed} should be below {2**32}.")
    launched = any(one.detect() and one().world_size() > 1 for one in (TorchElasticEnvironment, SLURMEnvironment))
    if launched and not any(word.startswith("hydra.run.dir=") for word in settings.overrides.hydra):
        raise UserError("processes that are started at once, as by torchrun, need a folder: hydra.run.dir=...")
    pl.seed_everything(config.get("seed", 0), workers=True, verbose=False)
    hydra.utils.instantiate(config)(folder=Path(settings.runtime.output_dir), request=request)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # who asks twice means it
    _interrupts.append(number)
    raise KeyboardInterrupt


def _way_on() -> str:
    """How to go on with the run, in one line."""
    if not _jobs:
        return "nothing was done."
    settings = _jobs[-1]
    key, folder = "hydra.run.dir", settings.runtime.output_dir
    if settings.mode == RunMode.MULTIRUN:
        key, folder = "hydra.sweep.dir", settings.sweep.dir
    changed = (f"{key}=", "resume=", "--config-name=")
    words = [shell_word(word) for word in sys.argv[1:] if not word.startswith(changed)]
    words += [override(key, short(Path(folder))), "resume=true"]
    words.sort(key=lambda word: word[0] == "-" or "=" not in word)  # Hydra wants settings side by side
    return f"go on by: {' '.join([typed(str(settings.job.config_name)), *words])}"


def _sentence(error: BaseException, refusals: tuple[type[Exception], ...]) -> str | None:
    """What to tell the user; `None` where the error is a fault of the program."""
    cause = error.__cause__
    if isinstance(error, InstantiationException) and cause and cause.__traceback__ and cause.__traceback__.tb_next:
        return _sentence(cause, refusals)  # Hydra wraps what a part raises; if it cannot call it, Hydra says why
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is missing; give it as {error.full_key}=..."
    unknown = re.match(r"Could not override '([^']+)'\.", str(error))
    if unknown:  # Hydra advises to append it with a plus, which no setting of ours needs
        return f"there is no setting {unknown[1]}; --help lists all of them."
    if isinstance(error, torch.OutOfMemoryError):
        return "the device has not enough memory; lower batch_size."
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid"):  # it has no type of its own
        return "a process that decodes images has ended, perhaps for lack of memory; lower num_workers."
    if not isinstance(error, refusals):
        return None
    lines = str(error).partition("Config search path:")[0].splitlines()
    return " ".join(filter(None, map(str.strip, lines))) or type(error).__name__


def _fault() -> str:
    bug = f"this is a bug in whycluster {version('whycluster')}: please report it, with the lines above."
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return f"another process of this run has ended, see what it said; resume=true goes on. If none has, {bug}"
    return bug
