"""Put a folder of photos in; get clusters out, and for every photo the pixels that put it in its cluster."""

from whycluster.explain import ClusterModel, Explainer
from whycluster.heads import neuralize

__all__ = ["ClusterModel", "Explainer", "neuralize"]
