"""Loading of images: collections, decoding, and the reasons why files are skipped."""

from whycluster.data.collections import Collection, Digits, Folder, describe_labels, has_labels
from whycluster.data.decoding import UnreadableImageError, read_image
from whycluster.data.images import Batch, PreparedImages, image_loader, share_of_rank
from whycluster.data.opening import open_collection
from whycluster.data.scenes import Scenes
from whycluster.data.shards import Shards

__all__ = [
    "Batch",
    "Collection",
    "Digits",
    "Folder",
    "PreparedImages",
    "Scenes",
    "Shards",
    "UnreadableImageError",
    "describe_labels",
    "has_labels",
    "image_loader",
    "open_collection",
    "read_image",
    "share_of_rank",
]
