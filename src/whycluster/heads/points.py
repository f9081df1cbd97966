"""Points that heads are made of: centroids, supports, weights."""

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


def duals(points: Tensor, projection: Tensor) -> Tensor:
    """`Aᵀ A u` of points `(M, D)`, for a projection `A` that scales, `(D,)`, or mixes features, `(D', D)`."""
    a = projection.to(points)
    return points * a.square() if a.ndim == 1 else points @ a.T @ a
