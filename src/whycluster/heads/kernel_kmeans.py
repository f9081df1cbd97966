"""Kernel k-means as a neural network of four layers that makes exactly the same decisions."""

import torch
from torch import Tensor

from whycluster.clustering.soft_distances import soft_distances
from whycluster.errors import UserError
from whycluster.heads.arguments import checked_points
from whycluster.heads.head import Forward, Head, LayerRelevance
from whycluster.heads.kmeans import crossed, distance_layer, middle, projected_duals
from whycluster.heads.pooling import SMALLEST_DENOMINATOR

PAIR_ENTRIES = 2**18  # entries for pairs of supports that are computed at once: as many as stay in a cache


class NeuralizedKernelKMeans(Head):
    """The neuralized kernel k-means (Gaussian) of support points: Kauffmann et al., arXiv 1906.07633, section III.

    With supports `u_i` of the target and `u_j` of competitor `k`, `h_ij = |x - u_j|² - |x - u_i|²`; a soft maximum over
    `i`, a soft minimum over `j`, and the minimum over `k`. As `h_ij` is a difference, both soft pools separate into
    soft distances, one for each cluster, and their weights are `a_i = softmax(-gamma |x - u_i|²)` within a cluster.

    No tensor has more than `N·M`, `N·D` or `M·D` entries, or `PAIR_ENTRIES`; or what one row needs, where that is more.

    Args:
        supports: `(M, D)`, finite.
        labels: their clusters, `(M,)`, from 0 to `K - 1`, each at least once.
        gamma: of the kernel `exp(-gamma |x - u|²)`, positive.
        beta: as in `Head`.
        projection: as in `NeuralizedKMeans`.

    Raises:
        UserError: for supports or labels of another shape or that are not finite, fewer than two clusters, a cluster
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
            shape = tuple(labels.shape)
            raise UserError(f"labels of shape {shape} should be one for each of {len(supports)} supports.")
        if not len(labels) or labels.min() < 0 or (torch.bincount(labels) == 0).any():
            raise UserError("labels should run from 0 to K - 1, and each cluster should have supports.")
        if not 0 < gamma < torch.inf:
            raise UserError(f"gamma={gamma} should be a number > 0.")
        super().__init__(int(labels.max()) + 1, middle(supports), beta)
        order = labels.argsort(stable=True)  # cluster by cluster
        self.register_buffer("gamma", torch.tensor(float(gamma), dtype=torch.float64))
        self.register_buffer("near", (supports - self.centre)[order])  # supports, with the origin at the centre
        self.register_buffer("labels", labels[order].long())
        self.register_buffer("duals", projected_duals(self.near, projection))

    @property
    def supports(self) -> Tensor:
        """The supports `(M, D)`, cluster by cluster."""
        return self.near + self.centre

    @property
    def sizes(self) -> list[int]:
        """The number of supports of each cluster."""
        return torch.bincount(self.labels, minlength=self.n_clusters).tolist()

    def _layer(self) -> tuple[Tensor, Tensor]:
        return distance_layer(self.near, self.duals)

    def _cluster_scores(self, scores: Tensor) -> Tensor:
        return -soft_distances(-scores, self.sizes, float(self.gamma))

    def _propagate(self, forward: Forward) -> LayerRelevance:
        coefficients = torch.zeros_like(forward.scores)  # (N, M)
        offset, lost = torch.zeros_like(forward.x), forward.x.new_zeros(len(forward.x))
        parts = torch.split(float(self.gamma) * forward.scores, self.sizes, dim=1)
        activations = torch.cat([part.softmax(1) for part in parts], dim=1)  # a, (N, M), of sum 1 in each cluster
        for cluster in torch.unique(forward.chosen).tolist():
            own = (self.labels == cluster).nonzero()[:, 0]  # (I,)
            rows = (forward.chosen == cluster).nonzero()[:, 0]
            for some in torch.split(rows, max(1, PAIR_ENTRIES // (len(own) * max(self.near.shape)))):
                explained, weights = (part[some] for part in forward.pooled)
                q, lost[some] = self._pair_quotients(own, forward.scores[some], activations[some], explained, weights)
                coefficients[some] = -q.sum(1)
                coefficients[some[:, None], own] = q.sum(2)
                if self.duals is not None:
                    offset[some] = crossed(q, own, self.near, self.duals)
        squares = self.near * (self.near if self.duals is None else self.duals)
        return LayerRelevance(coefficients, lambda: (offset + coefficients @ squares, 0.0), lost)

    def _pair_quotients(
        self, own: Tensor, scores: Tensor, activations: Tensor, explained: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Computes `q_ij = R_ij / h_ij` of rows with one target, for its supports `i` in `own` and all supports `j` of
        others.

        `R_ij` is the part `a_i a_j` of `R_k`. Where `|h_ij|` is below `floor`, the row is near the border of the pair,
        which is then weighted by `(h_ij / floor)²`, as competitors are in `take_most`.

        Returns:
            `q_ij`, `(n, I, M)`, and the relevance of competitors all of whose pairs have weight 0, `(n,)`.
        """
        h = scores[:, own, None] - scores[:, None, :]
        size, precision = h.abs(), torch.finfo(h.dtype)
        rounding = 8 * precision.eps * scores.abs().amax(1)  # equal supports differ by no more
        h.masked_fill_(size <= rounding[:, None, None], 0)
        floor = (SMALLEST_DENOMINATOR * explained.abs()).clamp(min=precision.tiny)
        size.clamp_(min=floor[..., None])
        q = (h / size).div_(size).mul_(activations[:, own, None])  # a_i (h / max(|h|, floor))² / h
        counting = h.mul_(q).sum(1).mul_(activations)  # (n, M)
        counted = torch.zeros_like(weights).index_add_(1, self.labels, counting)  # (n, K), mostly 1
        relevance = explained * weights  # (n, K); 0 for the target, so that its own pairs get nothing
        by_count = (relevance / counted).masked_fill_(counted == 0, 0)
        q.mul_((activations * by_count[:, self.labels])[:, None])
        return q, torch.where(counted == 0, relevance, 0).sum(1)
