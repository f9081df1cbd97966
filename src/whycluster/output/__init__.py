"""Results for people to look at: heatmaps, tables, TensorBoard, and folders of clusters."""
