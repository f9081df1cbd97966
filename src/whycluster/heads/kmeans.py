"""k-means as a neural network: discriminants with exactly its decision, and their relevance at the features.

Formulas: Kauffmann et al., arXiv 1906.07633, section III. With centroids `mu`, target `c` and competitors `k != c`,
`h_k = w_k·x + b_k`, `w_k = 2 (mu_c - mu_k)`, `b_k = |mu_k|² - |mu_c|²`, and `f_c = min_k h_k`.

No tensor here has more than `N·K`, `N·D` or `K·D` entries: the weights `w` are never built.
"""

import torch
from torch import Tensor

from whycluster.heads.head import Head, Passed, Rule
from whycluster.heads.points import checked_points, duals, middle
from whycluster.heads.pooling import Pooled, quotients


def scores(x: Tensor, centroids: Tensor, duals: Tensor | None = None) -> Tensor:
    """`|x - mu_k|² - |x|²`: what distances to centroids differ by.

    Centroids should be centred near the features, or float32 cancels.

    Args:
        x: `(N, D)`.
        centroids: `(K, D)`.
        duals: `G mu`, where distances are measured as `(x - mu)·G (x - mu)`; `None`: as usual, `G = 1`.

    Returns:
        `(N, K)`; the smallest is the assignment.
    """
    duals = centroids if duals is None else duals
    return torch.addmm((centroids * duals).sum(1), x, duals.T, alpha=-2)


class NeuralizedKMeans(Head):
    """The neuralized k-means of given centroids.

    Args:
        centroids: `(K, D)`, finite, `K >= 2`.
        beta: stiffness of the soft assignment and of the pooling over competitors, `>= 0`; by the paper's heuristic
            `1 / E[f_c]` over the training data.
        projection: `A`, where distances are those of `A x`: `(D,)` for a scaling of each feature, or `(D', D)`. The
            centroids are in the space of `x` all the same.

    Two equal centroids are at no distance from each other: `h_k` between them is 0 for every row, and so are the
    discriminants and the relevance of both, which tie.

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
        self.register_buffer("duals", None if projection is None else duals(centroids - self.centre, projection))

    def _evidence(self, x: Tensor) -> Tensor:
        """Squared distances to the centroids, up to a constant for each row, `(N, K)`."""
        return scores(x, self.centroids - self.centre, self.duals)

    def _pass(self, evidence: Tensor, chosen: Tensor, pooled: Pooled, h: Tensor) -> Passed:
        q = quotients(pooled, h)
        # As coefficients of the centroids: Σ_k q_k for the chosen one, -q_k for its competitors.
        coefficients = q.neg_().scatter_(1, chosen[:, None], -q.sum(1, keepdim=True))
        mu = self.centroids - self.centre
        if self.duals is None:
            return Passed(2 * (coefficients @ mu), coefficients @ mu.square())
        offset = coefficients @ (mu * self.duals)
        by_duals = coefficients @ self.duals
        # (G mu_c)∘mu_k - (G mu_k)∘mu_c: it cancels where G is diagonal.
        offset += mu[chosen] * by_duals - self.duals[chosen] * (coefficients @ mu)
        return Passed(2 * by_duals, offset)

    def _pass_apart(self, x: Tensor, evidence: Tensor, chosen: Tensor, pooled: Pooled, h: Tensor, rule: Rule) -> Tensor:
        g = self.centroids if self.duals is None else self.duals
        relevance = x.new_empty(*h.shape, self.n_features)
        for row, c, q, out in zip(x, chosen, quotients(pooled, h), relevance, strict=True):  # (K, D) each: cacheable
            torch.sub(g[c], g, out=out).mul_(2 * q[:, None])
            out.mul_(row if rule == "zero" else row - (self.centroids + self.centroids[c]) / 2)
        return relevance
