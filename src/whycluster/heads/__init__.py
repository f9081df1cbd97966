"""Neuralized models: features `->` discriminants, and relevance back to the features."""

from whycluster.heads.beta import Beta, heuristic_beta
from whycluster.heads.bisecting_kmeans import NeuralizedBisectingKMeans, Split
from whycluster.heads.head import Head, HeadAttribution, RuleName
from whycluster.heads.kernel_kmeans import NeuralizedKernelKMeans
from whycluster.heads.kmeans import NeuralizedKMeans
from whycluster.heads.layers import ClusterLayer, Midpoint, Zero
from whycluster.heads.linear import NeuralizedLinear
from whycluster.heads.neuralize import neuralize

__all__ = [
    "Beta",
    "ClusterLayer",
    "Head",
    "HeadAttribution",
    "Midpoint",
    "NeuralizedBisectingKMeans",
    "NeuralizedKMeans",
    "NeuralizedKernelKMeans",
    "NeuralizedLinear",
    "RuleName",
    "Split",
    "Zero",
    "heuristic_beta",
    "neuralize",
]
