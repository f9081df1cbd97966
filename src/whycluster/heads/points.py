"""Points that clusterings are given by, and the linear layer of squared distances to them.

`|x - u|² = |x|² - 2 u·x + |u|²`, so `s_u = w_u·x + b_u` with `w_u = 2 u` and `b_u = -|u|²` is the negative squared
distance up to `|x|²`, which no difference of scores contains. Behind a projection `A` of the features, with `G = AᵀA`,
distances are `(x - u)·G (x - u)`, `w_u = 2 G u` and `b_u = -u·G u`. The `G u` are called duals; without a projection
they are the points.
"""

import torch
from torch import Tensor


def checked_points(name: str, points: Tensor) -> Tensor:
    """A copy of points `(M, D)` in floating point.

    Raises:
        ValueError: for another shape, or if they are not finite.
    """
    if points.ndim != 2 or not points.shape[1]:
        raise ValueError(f"{name} of shape {tuple(points.shape)} should have the shape (K, D).")
    if not points.is_floating_point():
        points = points.double()
    if not points.isfinite().all():
        raise ValueError(f"the {name} contain NaN or infinity.")
    return points.detach().clone()


def middle(points: Tensor) -> Tensor:
    """Where most of the points `(M, D)` are, `(D,)`: unlike the mean, one that is far away does not move it."""
    return points.median(0).values if len(points) else points.sum(0)


def projected_duals(points: Tensor, projection: Tensor | None) -> Tensor | None:
    """`AᵀA u` of points `(M, D)`, for a projection that scales features, `(D,)`, or mixes them, `(D', D)`."""
    if projection is None:
        return None
    a = projection.to(points)
    return points * a.square() if a.ndim == 1 else points @ a.T @ a


def distance_layer(points: Tensor, duals: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weights `(M, D)` and biases `(M,)` of negative squared distances to points `(M, D)`, which lie near the origin.

    Example:
        >>> distance_layer(torch.tensor([[1.0, 2.0]]), None)
        (tensor([[2., 4.]]), tensor([-5.]))
    """
    duals = points if duals is None else duals
    return 2 * duals, -(points * duals).sum(1)


def crossed(q: Tensor, own: Tensor, points: Tensor, duals: Tensor) -> Tensor:
    """`Σ_ij q_ij ((G u_i) ∘ u_j - (G u_j) ∘ u_i)`, `(N, D)`; zero where `G` is diagonal.

    It completes `Σ_ij q_ij w_ij ∘ m_ij = Σ_ij q_ij (G (u_i - u_j)) ∘ (u_i + u_j)`, of which the rest is a difference
    of one term for each point: `(G u_i) ∘ u_i - (G u_j) ∘ u_j`.

    Args:
        q: `(N, I, M)`.
        own: numbers of the points `u_i`, `(I,)` or `(N, I)`.
        points: all points `u_j`, `(M, D)`.
        duals: `G u_j`, `(M, D)`.
    """
    return ((q @ points) * duals[own] - (q @ duals) * points[own]).sum(1)
