"""Put a folder of photos in; get clusters out, and for every photo the pixels that put it in its cluster."""

from whycluster.clustering.kernel_kmeans import KernelKMeans
from whycluster.clustering.temi_clustering import TemiClustering
from whycluster.errors import UserError
from whycluster.explain import ClusterModel, Explainer
from whycluster.explain.table import explain_table
from whycluster.heads import neuralize
from whycluster.output.bars import plot_relevance

__all__ = [
    "ClusterModel",
    "Explainer",
    "KernelKMeans",
    "TemiClustering",
    "UserError",
    "explain_table",
    "neuralize",
    "plot_relevance",
]
