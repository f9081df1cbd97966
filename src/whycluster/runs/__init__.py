"""What the commands do: parts put together, and their results written into a run folder."""

from whycluster.runs.command import plain_errors
from whycluster.runs.explain import explain
from whycluster.runs.fitting import KMeansHead
from whycluster.runs.train import train

__all__ = ["KMeansHead", "explain", "plain_errors", "train"]
