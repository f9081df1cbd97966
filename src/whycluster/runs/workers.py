"""How many processes decode images."""

import os

MOST = 8  # more rarely decode faster than one machine's devices compute


def decoding_workers(wanted: int | None, n_images: int, batch_size: int) -> int:
    """`wanted`, or, where the user leaves it open, one for every second core; none where a batch or two is all.

    Raises:
        ValueError: if `wanted` is negative.
    """
    if wanted is not None:
        if wanted < 0:
            raise ValueError(f"num_workers={wanted} should be >= 0.")
        return wanted
    return 0 if n_images <= 2 * batch_size else min(MOST, (os.cpu_count() or 1) // 2)
