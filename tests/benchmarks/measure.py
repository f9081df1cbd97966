"""Time and memory of a run; memory on Linux only, where it is that of the process."""

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path

import torch

CPU = torch.device("cpu")
CLEAR = Path("/proc/self/clear_refs")


def seconds(run: Callable[[], object], device: torch.device = CPU) -> float:
    """How long a run takes."""
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def peak(run: Callable[[], object], device: torch.device = CPU) -> float:
    """Peak memory of a run, in MiB above what was there before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)  # or what earlier runs freed would hide what this one takes
    CLEAR.write_text("5")
    before = status("VmRSS")
    run()
    return (status("VmHWM") - before) / 2**20


def status(key: str) -> int:
    """Of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024
