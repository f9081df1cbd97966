"""A pass over the images of a run, going on behind those that are done."""

import time

import pytorch_lightning as pl

from whycluster.data.image_pass import ImagePass
from whycluster.errors import UserError
from whycluster.output.console import say
from whycluster.runs.ranks import is_first


def run_pass(trainer: pl.Trainer, images: ImagePass) -> dict[str, float]:
    """Computes what is not done, by all processes of the trainer together.

    Returns:
        How many seconds it took, and how many images went through in one; empty where all was done before.

    Raises:
        UserError: if the trainer stops early, or none of the images can be read.
    """
    shards = images.shards
    n_done = int(shards.done().sum())
    n_left = shards.n_images - n_done
    if n_done and is_first():
        say(f"going on: {n_done} of {shards.n_images} images were done")
    since = time.monotonic()
    trainer.predict(images, return_predictions=False)  # also if none is left: the processes meet here
    trainer.strategy.barrier()
    if not shards.done().all():
        raise UserError("the trainer stopped before all images were done; leave out what limits its batches.")
    seconds = time.monotonic() - since
    unread = shards.skipped()
    if len(unread) == shards.n_images:
        trainer.strategy.barrier()  # all have read why
        if is_first():
            shards.remove()  # so that they are read again, should they have been put right
        number, reason = next(iter(unread.items()))
        path = images.images.collection.paths[number]
        raise UserError(f"none of the {len(unread)} files can be read as an image; {path!r}: {reason}.")
    return {"seconds": round(seconds, 3), "images_per_second": round(n_left / seconds, 2)} if n_left else {}
