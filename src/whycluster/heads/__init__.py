"""Neuralized models: features `->` discriminants, and relevance back to the features."""

from whycluster.heads.kmeans import HeadAttribution, NeuralizedKMeans
from whycluster.heads.neuralize import neuralize

__all__ = ["HeadAttribution", "NeuralizedKMeans", "neuralize"]
