"""Clusters images: `python train.py --help`."""

from whycluster.runs import run

if __name__ == "__main__":
    run("train")
