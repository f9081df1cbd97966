"""k-means as a neural network: discriminants with exactly its decision, and their relevance at the features.

Formulas: Kauffmann et al., arXiv 1906.07633, section III. With centroids `mu`, target `c` and competitors `k != c`,
`h_k = w_k·x + b_k`, `w_k = 2 (mu_c - mu_k)`, `b_k = |mu_k|² - |mu_c|²`, and `f_c = min_k h_k`.

No tensor here has more than `N·K`, `N·D` or `K·D` entries: the weights `w_k` of all pairs are never built.
"""

import torch
from torch import Tensor

from whycluster.heads.head import Forward, Head, LayerRelevance
from whycluster.heads.points import checked_points, crossed, distance_layer, middle, projected_duals
from whycluster.heads.pooling import quotients, score_coefficients


class NeuralizedKMeans(Head):
    """The neuralized k-means of given centroids.

    Two equal centroids are at no distance from each other: `h_k` between them is 0 for every row, and so are the
    discriminants and the relevance of both, which tie.

    Args:
        centroids: `(K, D)`, finite, `K >= 2`.
        beta: stiffness of the soft assignment and of the pooling over competitors, `>= 0`; by the paper's heuristic
            `1 / E[f_c]` over the training data.
        projection: `A`, where distances are those of `A x`: `(D,)` for a scaling of each feature, or `(D', D)`. The
            centroids are in the space of `x` all the same.

    Raises:
        ValueError: for centroids of another shape, fewer than two, or not finite; for a negative `beta`.

    Example:
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
            raise ValueError(
                f"centroids of shape {tuple(centroids.shape)}: a head needs (K, D) with K >= 2, "
                "as one cluster alone has no competitor."
            )
        super().__init__(len(centroids), middle(centroids), beta)
        self.register_buffer("centroids", centroids)
        self.register_buffer("duals", projected_duals(centroids - self.centre, projection))

    def _layer(self) -> tuple[Tensor, Tensor]:
        return distance_layer(self.centroids - self.centre, self.duals)

    def _propagate(self, forward: Forward) -> LayerRelevance:
        q = quotients(forward.pooled, forward.h)
        coefficients = score_coefficients(q, forward.chosen)
        mu, duals = self.centroids - self.centre, self.duals
        if duals is None:
            return LayerRelevance(coefficients, coefficients @ mu.square())
        offset = coefficients @ (mu * duals) + crossed(q[:, None], forward.chosen[:, None], mu, duals)
        return LayerRelevance(coefficients, offset)
