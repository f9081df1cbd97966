"""Runs a command in one child after another, and kills each at a random moment, until one gets to the end; and again.

    python killing.py wanted script [settings …]

Children are forked from a process that has all modules imported, or most of the time would go into that. The first run
is left alone and timed, so that kills fall into the run on a machine of any speed. Each line that is printed says in
which folder a run has ended, and by which signals its predecessors did.
"""

import json
import os
import random
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

import whycluster.runs  # all that a command needs

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


def run(script: str, settings: list[str], log: Path) -> None:
    """In a child: the command, taking note of what is done all the time, as otherwise a killed second is lost."""
    status = 128 + signal.SIGINT  # of an interrupt before the command can say anything, or after it has
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        torch.set_num_threads(1)
        sys.argv = [script, *settings]
        runpy.run_path(script, run_name="__main__")
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except Exception:
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        os._exit(status)


def killed(chance: random.Random, most: float, script: str, settings: list[str], log: Path) -> list[str]:
    """Runs until one gets to the end; returns the signals that ended the others.

    A run that is never given as long as it takes to the first thing done would never end: each gets a little longer.

    Raises:
        RuntimeError: if it ends by an error.
    """
    signals: list[str] = []
    while True:
        child = os.fork()
        if not child:
            run(script, settings, log)
        time.sleep(chance.uniform(0, most * (1 + len(signals) / 8)))
        sent = chance.choice(SIGNALS)
        ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            os.kill(child, sent)
            _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            return signals
        if code not in (-sent, 128 + sent, 128 + signal.SIGINT):
            raise RuntimeError(f"{script} ended with status {code} after {sent.name}: {log.read_text()[-3000:]}")
        signals.append(sent.name)


def seconds(script: str, settings: list[str], log: Path) -> float:
    """How long a run takes that nobody kills."""
    since = time.monotonic()
    child = os.fork()
    if not child:
        run(script, settings, log)
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"{script} ended with status {status}: {log.read_text()[-3000:]}")
    return time.monotonic() - since


def main(wanted: str, script: str, *settings: str) -> None:
    """Kills as many as are wanted."""
    name = Path(script).stem
    most = seconds(script, [*settings, f"hydra.run.dir={name}0"], Path(f"{name}0.log"))
    print(json.dumps({"folder": f"{name}0", "signals": []}), flush=True)
    whycluster.runs.trainers.SAVE_SECONDS = 0  # so that fits are gone on with, short as they are
    chance, n_killed, number = random.Random(0), 0, 0
    while n_killed < int(wanted):
        number += 1
        folder = f"{name}{number}"
        signals = killed(chance, most, script, [*settings, f"hydra.run.dir={folder}"], Path(f"{folder}.log"))
        n_killed += len(signals)
        print(json.dumps({"folder": folder, "signals": signals}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
