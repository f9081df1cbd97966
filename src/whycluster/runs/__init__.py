"""What the commands do: parts put together, and their results written into a run folder."""

from whycluster.runs.clusterers import (
    GroupMeansClusterer,
    KernelKMeansClusterer,
    KMeansClusterer,
    SphericalKMeansClusterer,
)
from whycluster.runs.command import run
from whycluster.runs.dec_clusterer import DecClusterer
from whycluster.runs.explaining import explain
from whycluster.runs.temi_clusterer import TemiClusterer
from whycluster.runs.trainers import make_trainer
from whycluster.runs.training import train

__all__ = [
    "DecClusterer",
    "GroupMeansClusterer",
    "KMeansClusterer",
    "KernelKMeansClusterer",
    "SphericalKMeansClusterer",
    "TemiClusterer",
    "explain",
    "make_trainer",
    "run",
    "train",
]
