"""Lloyd's algorithm as functions on batches: what each batch contributes, and what follows from the sums.

All of it works on several restarts at once, so that the data is read once an iteration, whatever `n_init`.
`R` restarts, `K` clusters, `D` features, `N` rows of a batch.
"""

from typing import NamedTuple

import numpy as np
import torch
from sklearn.cluster import kmeans_plusplus
from torch import Tensor

from whycluster.errors import UserError


class Sums(NamedTuple):
    """What one pass over rows adds up to; the sums of several passes or processes add up to the sums of all.

    Attributes:
        features: sum of the rows of each cluster, relative to the origin used, `(R, K, D)` float64.
        counts: rows of each cluster, `(R, K)` float64.
        inertia: sum of squared distances to the assigned centroids, `(R,)` float64.
    """

    features: Tensor
    counts: Tensor
    inertia: Tensor

    @classmethod
    def nothing(cls, centroids: Tensor) -> "Sums":
        """The sums of no rows, for centroids `(R, K, D)`."""
        zeros = torch.zeros_like(centroids, dtype=torch.float64)
        return cls(zeros, zeros[..., 0].clone(), zeros[..., 0, 0].clone())

    def __add__(self, other: "Sums") -> "Sums":  # type: ignore[override]  # a sum of sums, not a longer tuple
        return Sums(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def assign(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centroid of each row.

    Args:
        x: `(N, D)`, relative to an origin near the data, or float32 cancels.
        centroids: `(..., K, D)`, relative to the same origin.

    Returns:
        Cluster `(..., N)` and squared distance to it, `(..., N)`.

    Example:
        >>> assign(torch.tensor([[1.0], [7.0]]), torch.tensor([[0.0], [10.0]]))
        (tensor([0, 1]), tensor([1., 9.]))
    """
    norms = centroids.square().sum(-1)  # (..., K)
    products = torch.addmm(norms.flatten(), x, centroids.flatten(0, -2).T, alpha=-2)  # all restarts in one product
    lowest = products.view(len(x), *norms.shape).movedim(0, -2).min(-1)  # over (..., N, K)
    return lowest.indices, (lowest.values + torch.linalg.vector_norm(x, dim=1).square()).clamp(min=0)


def accumulate(x: Tensor, centroids: Tensor) -> tuple[Sums, Tensor]:
    """Assigns a batch and sums it up.

    Args:
        x: `(N, D)`, relative to the origin.
        centroids: `(R, K, D)`, likewise.

    Returns:
        The sums, and the squared distances `(R, N)`.
    """
    labels, distances = assign(x, centroids)
    restarts, clusters, _ = centroids.shape
    wanted = labels + clusters * torch.arange(restarts, device=x.device)[:, None]  # (R, N)
    # As a sparse matrix of ones this is a product of R·N·D steps, not R·N·K·D, and runs on all cores.
    rows = torch.arange(len(x), device=x.device).expand_as(wanted)
    members = torch.sparse_coo_tensor(
        torch.stack((wanted.flatten(), rows.flatten())),
        x.new_ones(wanted.numel()),
        (restarts * clusters, len(x)),
        check_invariants=False,
    )
    return (
        Sums(
            torch.sparse.mm(members, x).view_as(centroids).double(),
            torch.bincount(wanted.flatten(), minlength=restarts * clusters).view(restarts, clusters).double(),
            distances.sum(1, dtype=torch.float64),
        ),
        distances,
    )


def update(sums: Sums, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The means of the clusters; a cluster without rows stays where it was.

    Args:
        sums: of all rows.
        centroids: `(R, K, D)`, relative to the origin.

    Returns:
        New centroids, and how far they moved: `Σ_k |new - old|²`, `(R,)` float64.
    """
    means = sums.features / sums.counts.clamp(min=1)[..., None]
    new = torch.where(sums.counts[..., None] > 0, means, centroids.double()).to(centroids.dtype)
    return new, (new.double() - centroids.double()).square().sum((1, 2))


def reseed(sums: Sums, far: Tensor, far_clusters: Tensor) -> Sums:
    """Gives every empty cluster one of the rows that lie farthest from their centroids (as scikit-learn does).

    Args:
        sums: of all rows, one restart `(1, K, D)`.
        far: the rows, relative to the origin, farthest first, at least as many as there are empty clusters, `(F, D)`.
        far_clusters: the cluster each of them leaves, `(F,)`.

    Returns:
        The sums after the moves.
    """
    features, counts = sums.features.clone(), sums.counts.clone()
    donors = iter(zip(far.double(), far_clusters.tolist(), strict=True))
    for empty in (counts[0] == 0).nonzero()[:, 0].tolist():
        for row, donor in donors:
            if counts[0, donor] > 1:  # taking its only row would empty another cluster
                features[0, empty], counts[0, empty] = row, 1
                features[0, donor] -= row
                counts[0, donor] -= 1
                break
    return Sums(features, counts, sums.inertia)


def starts(sample: np.ndarray, n_clusters: int, n_init: int, seed: int) -> Tensor:
    """Greedy k-means++ starts.

    Args:
        sample: `(N, D)`.
        n_clusters: `K`, at most `N`.
        n_init: `R`.
        seed: same seed, same starts.

    Returns:
        `(R, K, D)` in the sample's type.

    Raises:
        UserError: if there are fewer rows than clusters.
    """
    if len(sample) < n_clusters:
        raise UserError(f"head.n_clusters={n_clusters} should be <= the number of images, {len(sample)}.")
    random = np.random.RandomState(seed)
    return torch.stack(
        [torch.as_tensor(kmeans_plusplus(sample, n_clusters, random_state=random)[0]) for _ in range(n_init)]
    )
