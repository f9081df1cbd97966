"""Soft distances to sets of points, `d_k(x) = -log(mean_j exp(-gamma |x - u_j|²)) / gamma`, and the nearest set.

Their decision is that of a Gaussian kernel `k(x, u) = exp(-gamma |x - u|²)`, but they are finite for distant points:

    `argmax_k mean_{j in C_k} k(x, u_j) = argmin_k d_k(x)`.

`N` rows, `M` supports, `K` clusters.
"""

import torch
from torch import Tensor

MATRIX_ENTRIES = 2**22  # of a matrix of distances or of a kernel, that are computed at once


def soft_minimum(values: Tensor, gamma: float) -> Tensor:
    """Computes `-log(mean(exp(-gamma v))) / gamma` over the last dimension; from the mean (gamma → 0) to the minimum (→
    ∞).

    Args:
        values: `(..., M)`.
        gamma: positive; neither small nor large values overflow or cancel.

    Example:
        >>> soft_minimum(torch.tensor([1.0, 3.0]), 1e-9), soft_minimum(torch.tensor([1.0, 3.0]), 1e9)
        (tensor(2.), tensor(1.))
    """
    least = values.amin(-1, keepdim=True)
    mean = torch.expm1((values - least).mul_(-gamma)).mean(-1)  # of exp(…) - 1, exact where exp(…) is near 1
    return least[..., 0] - torch.log1p(mean) / gamma


def soft_distances(distances: Tensor, sizes: list[int], gamma: float) -> Tensor:
    """Computes the soft distance to each cluster.

    Args:
        distances: squared, to supports in the order of their clusters, `(N, M)`; up to a constant for each row.
        sizes: supports of each cluster.
        gamma: of the kernel.

    Returns:
        `(N, K)`, up to the same constants.
    """
    return torch.stack([soft_minimum(part, gamma) for part in torch.split(distances, sizes, dim=1)], dim=1)


def assign_softly(x: Tensor, supports: Tensor, labels: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Finds the cluster of least soft distance of each row.

    Args:
        x: `(N, D)`.
        supports: `(M, D)`.
        labels: their clusters, `(M,)`, each at least once.
        gamma: of the kernel.

    Returns:
        Cluster and soft distance, `(N,)` each.
    """
    centre, order = supports.median(0).values, labels.argsort(stable=True)
    sizes: list[int] = torch.bincount(labels).tolist()
    near = (supports - centre)[order]
    blocks = torch.split(x, max(1, MATRIX_ENTRIES // len(supports)))
    parts = [soft_distances(squares(block - centre, near), sizes, gamma).min(1) for block in blocks]
    return torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts])


def squares(x: Tensor, others: Tensor) -> Tensor:
    """Computes squared distances `(N, M)` of rows near the origin."""
    products = torch.addmm(others.square().sum(1), x, others.T, alpha=-2)
    return products.add_(x.square().sum(1, keepdim=True)).clamp_(min=0)
