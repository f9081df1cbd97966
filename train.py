"""Clusters images: `python train.py --help`."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while libraries load, Ctrl-C ends it without a traceback

import hydra
import pytorch_lightning as pl
from omegaconf import DictConfig

from whycluster.runs import plain_errors


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    """Builds what the config names, and runs it."""
    with plain_errors():
        pl.seed_everything(config.seed, workers=True, verbose=False)
        hydra.utils.instantiate(config)()


if __name__ == "__main__":
    with plain_errors():
        main()
