"""A clustering in TensorBoard: sizes, the most central images of each cluster, and an embedding of a sample."""

import numpy as np
from PIL import Image
from sklearn.decomposition import PCA
from torch.utils.tensorboard import SummaryWriter

from whycluster.data import PreparedImages
from whycluster.output.tensorboard import (
    GALLERY,
    PHOTOS,
    THUMBNAIL,
    gallery_tile,
    write_cluster_sizes,
    write_embedding,
    write_gallery,
)

EMBEDDED = 2000  # images in the projector, which becomes slow with more
COMPONENTS = 200  # most dimensions that the projector uses


def show_clusters(
    writer: SummaryWriter, images: PreparedImages, clusters: np.ndarray, distances: np.ndarray, n_clusters: int
) -> None:
    """Shows the size and the most central images of each cluster.

    Args:
        writer: of the run.
        images: the `N` images that were clustered.
        clusters: the cluster of each image, `(N,)`.
        distances: of each image to its centroid, `(N,)`.
        n_clusters: `K`.
    """
    write_cluster_sizes(writer, np.bincount(clusters, minlength=n_clusters).tolist())
    for cluster in range(n_clusters):
        members = np.flatnonzero(clusters == cluster)
        central = members[np.argsort(distances[members], kind="stable")][:GALLERY]
        names = [images.collection.paths[images.rows[at]] for at in central]
        tiles = [gallery_tile([photo(images, at)], name, PHOTOS) for at, name in zip(central, names, strict=True)]
        write_gallery(writer, cluster, tiles, PHOTOS)


def show_embedding(
    writer: SummaryWriter, images: PreparedImages, clusters: np.ndarray, sample: np.ndarray, features: np.ndarray
) -> None:
    """Shows a sample of the images in the projector, by the principal components of wide features.

    Args:
        writer: of the run.
        images: the `N` images that were clustered.
        clusters: the cluster of each image, `(N,)`.
        sample: places of the images to show, `(n,)`.
        features: of the sample, `(n, D)`.
    """
    if features.shape[1] > COMPONENTS < len(features):
        features = PCA(COMPONENTS, svd_solver="randomized", random_state=0).fit_transform(features)
    collection = images.collection
    rows = [(images.rows[at], clusters[at]) for at in sample]
    table = [[collection.paths[row], str(cluster), collection.labels[row]] for row, cluster in rows]
    pictures = [Image.fromarray(photo(images, at)).resize((THUMBNAIL, THUMBNAIL)) for at in sample]
    write_embedding(writer, features, pictures, table, ["path", "cluster", "label"])


def photo(images: PreparedImages, at: int) -> np.ndarray:
    """Returns an image as the network gets it, `(H, W, 3)` uint8; a grey pixel if it can no longer be read."""
    _, image = images[at]
    if isinstance(image, str):
        return np.full((1, 1, 3), 128, np.uint8)
    pixels: np.ndarray = image.permute(1, 2, 0).numpy()
    return pixels
