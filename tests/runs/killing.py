"""Runs a command in one child after another, and kills each at a random moment, until one gets to the end.

    python killing.py seed most_seconds script [settings …]

Children are forked from a process that has all modules imported, or most of the time would go into that. Prints how
many were killed, and by what.
"""

import json
import os
import random
import runpy
import signal
import sys
import time
from pathlib import Path

import torch

import whycluster.runs
from whycluster.clustering import lloyd
from whycluster.data import progress

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


def run(script: str, settings: list[str], log: Path) -> None:
    """In a child: the command, taking note of what is done all the time, as otherwise a killed second is lost."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(1)
    progress.EVERY = lloyd.SAVED_EVERY = 0.02
    sys.argv = [script, *settings]
    status = 1
    try:
        runpy.run_path(script, run_name="__main__")
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:  # before the command can say anything, or after it has
        status = 128 + signal.SIGINT
    finally:
        sys.stdout.flush()
        os._exit(status)


def main(seed: str, most: str, script: str, *settings: str) -> None:
    """Prints signals that ended children, and the exit status of the last."""
    chance, killed = random.Random(int(seed)), []
    log = Path(f"killed.{seed}.log")
    while True:
        child = os.fork()
        if not child:
            run(script, list(settings), log)
        time.sleep(chance.uniform(0, float(most)))
        sent = chance.choice(SIGNALS)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        os.kill(child, sent)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) not in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            break  # it came to its end, or to an error, before the signal
        killed.append(signal.Signals(sent).name)
    print(json.dumps({"killed": killed, "status": os.waitstatus_to_exitcode(status)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
