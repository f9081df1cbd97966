"""Kernel k-means as a neural network of four layers, with exactly its decision.

Formulas: Kauffmann et al., arXiv 1906.07633, section III. With supports `u_i` of the target `C_c` and `u_j` of its
competitors `C_k`: `h_ij = w_ij·x + b_ij`, `w_ij = 2 (u_i - u_j)`, `b_ij = |u_j|² - |u_i|²`; a soft maximum over `i`, a
soft minimum over `j`, and the minimum over `k`. As `h_ij = |x - u_j|² - |x - u_i|²`, both soft pools come apart into
soft distances, one for each cluster, and their weights are `a_i = softmax(-gamma |x - u_i|²)` within a cluster.

No tensor here has more than `N·M`, `N·D` or `M·D` entries, or `BLOCK`; or what one row needs, where that is more.
"""

import torch
from torch import Tensor

from whycluster.clustering.soft_distances import soft_distances
from whycluster.heads.head import Head, Passed
from whycluster.heads.kmeans import scores
from whycluster.heads.points import checked_points, duals, middle
from whycluster.heads.pooling import SMALLEST_DENOMINATOR, Pooled

BLOCK = 2**18  # pairs of supports whose borders are looked at together: as many as stay in a cache


class NeuralizedKernelKMeans(Head):
    """The neuralized kernel k-means (Gaussian) of given supports.

    Args:
        supports: `(M, D)`, finite.
        labels: their clusters, `(M,)`, from 0 to `K - 1`, each at least once.
        gamma: of the kernel `exp(-gamma |x - u|²)`, positive.
        beta: stiffness of the soft assignment and of the pooling over competitors, `>= 0`.
        projection: as in `NeuralizedKMeans`.

    Raises:
        ValueError: for supports or labels of another shape or that are not finite, fewer than two clusters, a cluster
            without supports, a `gamma` that is not positive, or a negative `beta`.

    Example:
        >>> head = NeuralizedKernelKMeans(torch.tensor([[0.], [1.], [9.]]), torch.tensor([0, 0, 1]), gamma=1.0)
        >>> head(torch.tensor([[0.0], [9.0]])).argmax(1)
        tensor([0, 1])
    """

    near: Tensor
    labels: Tensor
    gamma: Tensor
    duals: Tensor | None

    def __init__(
        self, supports: Tensor, labels: Tensor, gamma: float, beta: float = 1.0, projection: Tensor | None = None
    ) -> None:
        supports = checked_points("supports", supports)
        if labels.shape != supports.shape[:1]:
            raise ValueError(
                f"labels of shape {tuple(labels.shape)} should be one for each of {len(supports)} supports."
            )
        if not len(labels) or labels.min() < 0 or (torch.bincount(labels) == 0).any():
            raise ValueError("labels should run from 0 to K - 1, and each cluster should have supports.")
        if not 0 < gamma < torch.inf:
            raise ValueError(f"gamma={gamma} should be a number > 0.")
        super().__init__(int(labels.max()) + 1, middle(supports), beta)
        order = labels.argsort(stable=True)  # cluster by cluster
        self.register_buffer("gamma", torch.tensor(float(gamma), dtype=torch.float64))
        self.register_buffer("near", (supports - self.centre)[order])  # supports, with the origin at the centre
        self.register_buffer("labels", labels[order].long())
        mapped = None if projection is None else duals(self.near, projection)
        self.register_buffer("duals", mapped)

    @property
    def supports(self) -> Tensor:
        """`(M, D)`, cluster by cluster."""
        return self.near + self.centre

    @property
    def sizes(self) -> list[int]:
        """Supports of each cluster."""
        return torch.bincount(self.labels, minlength=self.n_clusters).tolist()

    @property
    def width(self) -> int:
        return len(self.near)

    def _evidence(self, x: Tensor) -> Tensor:
        """Squared distances to the supports, up to a constant for each row, `(N, M)`."""
        return scores(x, self.near, self.duals)

    def _distances(self, evidence: Tensor) -> Tensor:
        return soft_distances(evidence, self.sizes, float(self.gamma))

    def _pass(self, evidence: Tensor, chosen: Tensor, pooled: Pooled, h: Tensor) -> Passed:
        parts, gamma = torch.split(evidence, self.sizes, dim=1), float(self.gamma)
        weights = torch.cat([(-gamma * part).softmax(1) for part in parts], 1)  # (N, M), of sum 1 in each cluster
        relevance = pooled.explained * pooled.weights  # (N, K)
        coefficients = torch.zeros_like(evidence)  # (N, M), of the supports in Σ_ij R_ij / h_ij · w_ij
        crossed = evidence.new_zeros(len(evidence), self.n_features)
        lost = evidence.new_zeros(len(evidence))
        for cluster in torch.unique(chosen).tolist():
            own = (self.labels == cluster).nonzero()[:, 0]
            rows = (chosen == cluster).nonzero()[:, 0]
            for some in torch.split(rows, max(1, BLOCK // (len(own) * max(self.near.shape)))):
                inverse, shares, lost[some] = self._pairs(
                    own, evidence[some], weights[some], relevance[some], pooled.explained[some]
                )
                part = -shares * inverse.sum(1)
                part[:, own] = (inverse @ shares[..., None])[..., 0]
                coefficients[some] = part
                if self.duals is not None:
                    crossed[some] = self._crossed(own, inverse * shares[:, None])
        by = self.near if self.duals is None else self.duals
        return Passed(2 * (coefficients @ by), coefficients @ (self.near * by) + crossed, lost)

    def _pairs(
        self, own: Tensor, distances: Tensor, weights: Tensor, relevance: Tensor, explained: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Relevance `(n, K)` of rows with one target at the pairs of its supports `own` (I of them) and all others.

        Returns:
            The factors of `R_ij / h_ij`, `(n, I, M)` and `(n, M)`, and what no pair could take, `(n,)`.
        """
        h = distances[:, None, :] - distances[:, own, None]  # (n, I, M)
        size, precision = h.abs(), torch.finfo(h.dtype)
        noise = 8 * precision.eps * distances.abs().amax(1)  # rounding; all there is between equal supports
        h.masked_fill_(size <= noise[:, None, None], 0)
        # A pair at whose border a row lies counts the less, the nearer: by (h / floor)², if that is below 1.
        floor = (SMALLEST_DENOMINATOR * explained.abs()).clamp(min=precision.tiny)[..., None]
        size.clamp_(min=floor)
        inverse = (h / size).div_(size).mul_(weights[:, own, None])
        inverse[:, :, own] = 0
        counting = h.mul_(inverse).sum(1).mul_(weights)  # (n, M)
        counted = torch.zeros_like(relevance).index_add_(1, self.labels, counting)  # (n, K), mostly 1
        shares = (relevance / counted).masked_fill_(counted == 0, 0)
        return inverse, weights * shares[:, self.labels], torch.where(counted == 0, relevance, 0).sum(1)

    def _crossed(self, own: Tensor, q: Tensor) -> Tensor:
        """`Σ_ij q_ij ((G u_i)∘u_j - (G u_j)∘u_i)`, which cancels where G is diagonal; `q` is `(n, I, M)`."""
        u, g = self.near, self.duals
        assert g is not None  # as there is a projection
        return torch.einsum("nij,jd,id->nd", q, u, g[own]) - torch.einsum("nij,jd,id->nd", q, g, u[own])
