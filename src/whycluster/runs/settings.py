"""Numbers as users set them."""

import os
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch

from whycluster.errors import whole_number

MOST_WORKERS = 8  # more rarely decode faster than one machine's devices compute


def make_trainer(accelerator: str = "auto", **settings: Any) -> pl.Trainer:
    """A Lightning trainer; `auto` is CUDA or the CPU, as other devices lack the double precision needed here."""
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    return pl.Trainer(accelerator=accelerator, **settings)


def images_per_second(n_images: int, times: Mapping[str, float]) -> float:
    """Of all images, whatever happened to them; times in seconds."""
    return round(n_images / max(sum(times.values()), 1e-6), 2)


def full_precision() -> None:
    """Convolutions on the GPU in float32 proper: in TF32 they would differ from the CPU's in the fourth digit."""
    torch.backends.cudnn.allow_tf32 = False


def decoding_workers(wanted: int | None, n_images: int, batch_size: int) -> int:
    """`wanted`, or, where the user leaves it open, one for every second core; none where a batch or two is all.

    Raises:
        UserError: if `wanted` is negative.
    """
    if wanted is not None:
        return whole_number("num_workers", wanted, 0)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if n_images <= 2 * batch_size else min(MOST_WORKERS, cores // 2)
