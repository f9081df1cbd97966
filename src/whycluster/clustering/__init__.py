"""Features `->` centroids: Lloyd's algorithm as functions, and the LightningModules that extract and fit."""

from whycluster.clustering.extraction import FeatureExtractor, FeatureWriter
from whycluster.clustering.features import FeatureStore
from whycluster.clustering.lloyd import KMeans

__all__ = ["FeatureExtractor", "FeatureStore", "FeatureWriter", "KMeans"]
