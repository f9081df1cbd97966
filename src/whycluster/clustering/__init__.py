"""Features and clusterings: k-means and kernel k-means as functions, and the LightningModules that extract and fit."""
