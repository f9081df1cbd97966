"""What people look at: heatmaps, tables, TensorBoard, and folders of clusters."""
