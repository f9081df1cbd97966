"""Clusters images: `python train.py --help`."""

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
