"""Features `->` centroids: Lloyd's algorithm as functions, and the LightningModules that extract and fit."""
