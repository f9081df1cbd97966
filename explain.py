"""Explains the clusters of images: `python explain.py --help`."""

from whycluster.runs import run

if __name__ == "__main__":
    run("explain")
