"""k-means as a neural network that makes exactly the same decisions, and the relevance of features for them.

As `|x - u|² = |x|² - 2 u·x + |u|²`, scores `s_u = w_u·x + b_u` with `w_u = 2 u`, `b_u = -|u|²` are negative squared
distances up to `|x|²`, which cancels in `h = s_i - s_j`. After a projection `A` of the features the squared distance is
`(x - u)·G (x - u)`, `G = AᵀA`; then `w_u = 2 G u`, `b_u = -u·G u`. The `G u` are the duals; `None` where `G = 1`.
"""

import torch
from torch import Tensor

from whycluster.errors import UserError
from whycluster.heads.arguments import checked_points
from whycluster.heads.head import Forward, Head, LayerRelevance, RuleName
from whycluster.heads.pooling import quotients, score_coefficients


def middle(points: Tensor) -> Tensor:
    """Computes the median of points `(M, D)` in each dimension, `(D,)`; unlike the mean, it does not follow a
    distant point.
    """
    return points.median(0).values if len(points) else points.sum(0)


def projected_duals(points: Tensor, projection: Tensor | None) -> Tensor | None:
    """Computes `AᵀA u` of points `(M, D)`, for a projection that scales features, `(D,)`, or mixes them, `(D', D)`."""
    if projection is None:
        return None
    a = projection.to(points)
    return points * a.square() if a.ndim == 1 else points @ a.T @ a


def distance_layer(points: Tensor, duals: Tensor | None) -> tuple[Tensor, Tensor]:
    """Computes weights `w_u` `(M, D)` and biases `b_u` `(M,)` of negative squared distances to points `(M, D)`."""
    duals = points if duals is None else duals
    return 2 * duals, -(points * duals).sum(1)


def crossed(q: Tensor, own: Tensor, points: Tensor, duals: Tensor) -> Tensor:
    """Computes `Σ_ij q_ij ((G u_i) ∘ u_j - (G u_j) ∘ u_i)`, `(N, D)`; zero where `G` is diagonal.

    These are the summands of `Σ_ij q_ij w_ij ∘ m_ij = Σ_ij q_ij (G (u_i - u_j)) ∘ (u_i + u_j)` that mix two points.
    Takes `q` `(N, I, M)`, the numbers of the points `u_i`, `(I,)` or `(N, I)`, and all points and duals, `(M, D)`.
    """
    return ((q @ points) * duals[own] - (q @ duals) * points[own]).sum(1)


class NeuralizedKMeans(Head):
    """The neuralized k-means of a set of centroids.

    `h_k = s_c - s_k = |x - mu_k|² - |x - mu_c|²` and `f_c = min_{k != c} h_k` (Kauffmann et al., arXiv 1906.07633,
    section III). No tensor has more than `N·K`, `N·D` or `K·D` entries, as weights of pairs are never built. Two equal
    centroids tie: `h_k` between them is 0 for every row, and so are the discriminants and the relevance of both.

    Args:
        centroids: `(K, D)`, finite, `K >= 2`.
        beta: as in `Head`; by the paper's heuristic `1 / E[f_c]` over the training data.
        projection: `A`, where distances are those of `A x`: `(D,)` for a scaling of each feature, or `(D', D)`. The
            centroids are in the space of `x` all the same.

    Raises:
        UserError: for centroids of another shape, fewer than two, or not finite; for a negative `beta`.

    Example:
        >>> import torch
        >>> head = NeuralizedKMeans(torch.tensor([[0., 0.], [4., 0.], [0., 6.]]))
        >>> head(torch.tensor([[1., 1.]])).round().int()
        tensor([[  8,  -8, -24]], dtype=torch.int32)
        >>> head.relevance(torch.tensor([[1., 1.]]), beta=torch.inf).round().int()
        tensor([[8, 0]], dtype=torch.int32)
    """

    centroids: Tensor
    duals: Tensor | None

    def __init__(self, centroids: Tensor, beta: float = 1.0, projection: Tensor | None = None) -> None:
        centroids = checked_points("centroids", centroids)
        if len(centroids) < 2:
            shape = tuple(centroids.shape)
            raise UserError(f"centroids of shape {shape} should have K >= 2, as one cluster alone has no competitor.")
        super().__init__(len(centroids), middle(centroids), beta)
        self.register_buffer("centroids", centroids)
        self.register_buffer("duals", projected_duals(centroids - self.centre, projection))

    def _layer(self) -> tuple[Tensor, Tensor]:
        return distance_layer(self.centroids - self.centre, self.duals)

    def _propagate(self, forward: Forward) -> LayerRelevance:
        q = quotients(forward.pooled, forward.h)
        coefficients = score_coefficients(q, forward.chosen)

        def offset() -> tuple[Tensor, float]:
            mu, duals = self.centroids - self.centre, self.duals
            if duals is None:
                return coefficients @ mu.square(), 0.0
            return coefficients @ (mu * duals) + crossed(q[:, None], forward.chosen[:, None], mu, duals), 0.0

        return LayerRelevance(coefficients, offset)

    def _by_competitor(self, forward: Forward, rule: RuleName) -> Tensor:
        (x, _, _, chosen, h, pooled), mu = forward, self.centroids - self.centre
        duals = mu if self.duals is None else self.duals
        relevance = x.new_empty(*h.shape, self.n_features)
        for row, c, q, out in zip(x, chosen, quotients(pooled, h), relevance, strict=True):  # (K, D) each
            inputs = row if rule == "zero" else row - self.centre - (mu + mu[c]) / 2
            torch.sub(duals[c], duals, out=out).mul_(2 * q[:, None]).mul_(inputs)
        return relevance
