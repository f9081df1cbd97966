"""k-means as a neural network: discriminants with exactly its decision, and their relevance at the features.

Formulas: Kauffmann et al., arXiv 1906.07633, section III. With centroids `mu`, target `c` and competitors `k != c`,
`h_k = w_k·x + b_k`, `w_k = 2 (mu_c - mu_k)`, `b_k = |mu_k|² - |mu_c|²`, and `f_c = min_k h_k`.

No tensor here has more than `N·K`, `N·D` or `K·D` entries: the weights `w` are never built.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

Rule = Literal["midpoint", "zero"]

# A competitor at whose border the features lie has h_k near 0, and R_k / h_k without bound. Where |h_k| is below this
# share of |f_c| it is raised to it. For the assigned cluster h_k >= f_c > 0, so nothing is ever raised.
SMALLEST_DENOMINATOR = 1e-2


class HeadAttribution(NamedTuple):
    """Relevance at the features and what became of the rest; `explained = relevance.sum(1) + absorbed`.

    Attributes:
        relevance: `(N, D)`.
        explained: the discriminant that was explained, `(N,)`.
        absorbed: what biases and the stabiliser kept of it, `(N,)`.
    """

    relevance: Tensor
    explained: Tensor
    absorbed: Tensor


def scores(x: Tensor, centroids: Tensor) -> Tensor:
    """`|x - mu_k|² - |x|²`: what distances to centroids differ by.

    Centroids should be centred near the features, or float32 cancels.

    Args:
        x: `(N, D)`.
        centroids: `(K, D)`.

    Returns:
        `(N, K)`; the smallest is the assignment.
    """
    return torch.addmm(centroids.square().sum(1), x, centroids.T, alpha=-2)


def discriminants(distances: Tensor) -> Tensor:
    """How much nearer each cluster is than its nearest competitor.

    Args:
        distances: squared distances `(N, K)`, up to a constant for each row; `K >= 2`.

    Returns:
        `f_c = min_{k != c} d_k - d_c`, `(N, K)`; `argmax f = argmin d`.

    Example:
        >>> discriminants(torch.tensor([[1., 4., 9.]]))
        tensor([[ 3., -3., -8.]])
    """
    nearest = distances.topk(2, dim=1, largest=False)
    best, second = nearest.values[:, :1], nearest.values[:, 1:]
    others: Tensor = best.expand_as(distances).scatter(1, nearest.indices[:, :1], second)
    return others - distances


def take_most(h: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Spreads the smallest `h_k` over the competitors, most to the nearest.

    Args:
        h: `(N, K)`; infinite for clusters that do not compete.
        beta: stiffness, from 0 (all competitors alike) to infinity (the nearest alone).

    Returns:
        `f = min_k h_k`, `(N, 1)`, and `p = softmax(-beta h)`, `(N, K)`.
    """
    f, nearest = h.min(dim=1, keepdim=True)
    if beta == torch.inf:
        return f, torch.zeros_like(h).scatter(1, nearest, 1)
    logits = torch.where(h == torch.inf, -torch.inf, -beta * (h - f))
    return f, logits.softmax(dim=1)


class NeuralizedKMeans(nn.Module):
    """The neuralized k-means of given centroids.

    Args:
        centroids: `(K, D)`, finite, `K >= 2`.
        beta: stiffness of the soft assignment and of the pooling over competitors, `>= 0`; by the paper's heuristic
            `1 / E[f_c]` over the training data.

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
    beta: Tensor

    def __init__(self, centroids: Tensor, beta: float = 1.0) -> None:
        super().__init__()
        if centroids.ndim != 2 or len(centroids) < 2:
            raise ValueError(
                f"centroids of shape {tuple(centroids.shape)}: a head needs (K, D) with K >= 2, "
                "as one cluster alone has no competitor."
            )
        if not centroids.is_floating_point():
            centroids = centroids.double()
        if not centroids.isfinite().all():
            raise ValueError("the centroids contain NaN or infinity.")
        if not beta >= 0:
            raise ValueError(f"beta={beta} should be >= 0.")
        self.register_buffer("centroids", centroids.detach().clone())
        self.register_buffer("beta", torch.tensor(beta, dtype=torch.float64))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        beta = self.beta
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.beta = beta.to(self.beta.device)  # in half precision a small one would become zero
        return self

    @property
    def n_clusters(self) -> int:
        """`K`."""
        return len(self.centroids)

    def distances(self, x: Tensor) -> Tensor:
        """Squared distances to the centroids, up to a constant for each row, `(N, K)`."""
        centre = self.centroids.mean(0)  # far from the origin the squares would cancel in float32
        return scores(self._checked(x) - centre, self.centroids - centre)

    def forward(self, x: Tensor) -> Tensor:
        """Discriminants `(N, K)` of features `(N, D)`."""
        return discriminants(self.distances(x))

    def probability(self, x: Tensor) -> Tensor:
        """Soft assignment `softmax(-beta d)`, `(N, K)`."""
        return take_most(self.distances(x), float(self.beta))[1]

    def relevance(
        self,
        x: Tensor,
        target: Tensor | int | None = None,
        against: Tensor | int | None = None,
        rule: Rule = "midpoint",
        beta: float | None = None,
    ) -> Tensor:
        """Relevance `(N, D)` of the features for a discriminant; parameters as in `attribute`."""
        return self.attribute(x, target, against, rule, beta).relevance

    def attribute(
        self,
        x: Tensor,
        target: Tensor | int | None = None,
        against: Tensor | int | None = None,
        rule: Rule = "midpoint",
        beta: float | None = None,
    ) -> HeadAttribution:
        """Explains a discriminant of each row by its features.

        Args:
            x: `(N, D)`.
            target: the cluster to explain, one or `(N,)`; `None`: the assigned one.
            against: the only competitor, one or `(N,)`; `None`: all others. Then `h_k` takes the place of `f_c`.
            rule: `midpoint` conserves the discriminant, and counts what is absent too; `zero` gives nothing to
                features that are zero, and the bias keeps its share. Section III-C of the paper.
            beta: stiffness of the pooling over competitors; `None`: the head's own.

        Raises:
            ValueError: for an unknown rule, a cluster that does not exist, or a target against itself.
        """
        if rule not in ("midpoint", "zero"):
            raise ValueError(f"rule={rule!r} is unknown; choose 'midpoint' or 'zero'.")
        if beta is not None and not beta >= 0:
            raise ValueError(f"beta={beta} should be >= 0.")
        x = self._checked(x)
        distances = self.distances(x)
        chosen = distances.argmin(1) if target is None else self._clusters("target", target, x)
        h = distances - distances.gather(1, chosen[:, None])
        h = h.masked_fill(self._silent(chosen, against, x), torch.inf)
        f, p = take_most(h, float(self.beta) if beta is None else beta)
        q = p * _ratio(f, h)
        relevance, to_bias = self._distribute(x, chosen, q, rule)
        to_stabilizer = (f * p - q * h.masked_fill(q == 0, 0)).sum(1)
        return HeadAttribution(relevance, f[:, 0], to_bias + to_stabilizer)

    def _distribute(self, x: Tensor, chosen: Tensor, q: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
        """`Σ_k q_k w_k ∘ (x - m_k)` with the midpoints or with zero for `m_k`, and what the biases keep `(N,)`."""
        centre = self.centroids.mean(0)
        mu, total = self.centroids - centre, q.sum(1, keepdim=True)
        own = mu[chosen]
        direction = 2 * (total * own - q @ mu)  # Σ_k q_k w_k; the same wherever the origin is
        squares = total * own.square() - q @ mu.square()  # Σ_k q_k w_k ∘ m_k, with the origin at the centre
        if rule == "midpoint":
            return (x - centre) * direction - squares, x.new_zeros(len(x))
        return x * direction, -(squares + direction * centre).sum(1)

    def _silent(self, chosen: Tensor, against: Tensor | int | None, x: Tensor) -> Tensor:
        """The clusters `(N, K)` that do not compete with the chosen ones."""
        clusters = torch.arange(self.n_clusters, device=x.device)
        if against is None:
            return clusters == chosen[:, None]
        competitor = self._clusters("against", against, x)
        if bool((competitor == chosen).any()):
            raise ValueError("a cluster cannot be explained against itself; choose another `against`.")
        return clusters != competitor[:, None]

    def _clusters(self, name: str, value: Tensor | int, x: Tensor) -> Tensor:
        """One cluster or `(N,)` as `(N,)`, each of them existing."""
        clusters = torch.as_tensor(value, dtype=torch.int64, device=x.device).expand(len(x))
        wrong = clusters[(clusters < 0) | (clusters >= self.n_clusters)]
        if len(wrong):
            raise ValueError(
                f"{name}={int(wrong[0])} is no cluster of this model; it has clusters 0 to {self.n_clusters - 1}."
            )
        return clusters

    def _checked(self, x: Tensor) -> Tensor:
        x = torch.as_tensor(x, device=self.centroids.device)  # an array does as well
        if x.ndim != 2 or x.shape[1] != self.centroids.shape[1]:
            raise ValueError(
                f"features of shape {tuple(x.shape)} do not fit this model, which takes (N, {self.centroids.shape[1]})."
            )
        return x.to(self.centroids.dtype)


def _ratio(f: Tensor, h: Tensor) -> Tensor:
    """`f / h_k`, with small `h_k` raised; 1 where both are zero (duplicated centroids), 0 where `h_k` is infinite."""
    floor = SMALLEST_DENOMINATOR * f.abs()
    raised = torch.where(h < 0, -1.0, 1.0) * h.abs().clamp(min=floor)
    return torch.where(f == h, 1.0, f / raised)
