"""The base class of neuralized clusterings: public methods, the pooling over competitors, and the linear layer.

Forward, features `x` pass a linear layer, whose units are centroids, supports or splits; their scores give the scores
`s_k` of the clusters and the margins `h_k = s_c - s_k`, and the smallest margin is the discriminant `f_c`. Backward,
the relevance `R_k` of each competitor passes the linear layer: `R_i = Σ_k R_k / h_k · w_ik (x_i - m_ik)`.
Kauffmann et al., arXiv 1906.07633, section III.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Self, cast, get_args

import torch
from torch import Tensor, nn

from whycluster.errors import UserError
from whycluster.heads.arguments import as_clusters, as_features
from whycluster.heads.beta import Beta, checked_beta, user_beta
from whycluster.heads.pooling import Pooled, best_two, discriminants, logits, take_most

RuleName = Literal["midpoint", "zero"]
TARGETS = ("assigned", "runner_up")  # clusters that a target can name
HEAD_CLASSES: dict[str, type["Head"]] = {}


class HeadAttribution(NamedTuple):
    """Relevance at the features, and what biases absorbed; `explained = relevance.sum(1) + absorbed`."""

    relevance: Tensor  # (N, D)
    explained: Tensor  # the discriminant that was explained, (N,)
    absorbed: Tensor  # what biases absorbed of it, (N,)


class Forward(NamedTuple):
    """The values of a forward pass that the backward pass needs."""

    x: Tensor  # features, (N, D)
    layer: tuple[Tensor, Tensor]  # weights and biases of the linear layer, (S, D) and (S,)
    scores: Tensor  # of the units of the linear layer, (N, S)
    chosen: Tensor  # the cluster to explain, (N,)
    h: Tensor  # h_k of its competitors, (N, K); infinite for clusters that are excluded
    pooled: Pooled  # the minimum of h_k


# Computes Σ_k R_k / h_k · w_k ∘ m_k with the origin at the centre, (N, D), and the relevance of competitors that no
# border separates from the cluster, (N,).
Offset = Callable[[], tuple[Tensor, Tensor | float]]


class LayerRelevance(NamedTuple):
    """Relevance at the linear layer: the sums over competitors from which both of its rules are computed."""

    coefficients: Tensor  # of the weights of the units in Σ_k R_k / h_k · w_k, (N, S)
    offset: Offset  # only the midpoint rule uses it
    lost: Tensor | float = 0.0  # relevance of competitors that no unit gets, (N,)


def checked_rule(rule: Any) -> RuleName:
    """Returns the name of a rule of the linear layer; `UserError` for anything else."""
    if rule not in get_args(RuleName):
        raise UserError(f"rule={rule!r} is unknown; choose 'midpoint' or 'zero'.")
    return cast(RuleName, rule)


class Head(nn.Module, ABC):
    """A clustering as a neural network: features `->` discriminants, and relevance back to the features.

    Args:
        n_clusters: `K >= 2`.
        centre: of the clusters, `(D,)`; it is the origin of the computation, so that points near it lose no digits.
        beta: stiffness of the soft assignment and of the pooling over competitors, `>= 0`, or infinite.

    Attributes:
        feature_names_in_: names of the columns that the clustering was fitted with, if they had any.

    Raises:
        UserError: for a single cluster, or a negative `beta`.
    """

    centre: Tensor
    beta: Tensor
    feature_names_in_: Any = None

    def __init__(self, n_clusters: int, centre: Tensor, beta: float) -> None:
        super().__init__()
        if n_clusters < 2:
            raise UserError(f"n_clusters={n_clusters} should be >= 2, as one cluster alone has no competitor.")
        self.n_clusters = n_clusters
        self.register_buffer("centre", centre)
        self.register_buffer("beta", torch.tensor(checked_beta(beta), dtype=torch.float64))

    def __init_subclass__(cls) -> None:
        HEAD_CLASSES[cls.__name__] = cls

    @staticmethod
    def of(kind: str, n_clusters: int, buffers: dict[str, Tensor]) -> "Head":
        """Builds the head of the class named `kind` from its buffers; those that are missing are `None`."""
        head = HEAD_CLASSES[kind].__new__(HEAD_CLASSES[kind])
        nn.Module.__init__(head)
        head.n_clusters = n_clusters
        for name in (*HEAD_CLASSES[kind].__annotations__, *buffers):
            head.register_buffer(name, buffers.get(name))
        return head

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = {name: value for name, value in self._buffers.items() if value is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch does not annotate it
        is_half = self.centre.dtype.itemsize < 4
        for name, value in before.items():  # in half precision a small beta would become zero, and squares infinite
            if value.ndim == 0 or is_half:
                self._buffers[name] = value.to(self.centre.device)
        return self

    def extra_repr(self) -> str:
        return f"{self.n_features}, n_clusters={self.n_clusters}"

    @property
    def n_features(self) -> int:
        """The number of features, `D`."""
        return len(self.centre)

    @property
    def width(self) -> int:
        """How many numbers are computed for each row, which decides how many rows fit into memory at once."""
        return max(self.n_clusters, len(self._layer()[1]))

    @abstractmethod
    def _layer(self) -> tuple[Tensor, Tensor]:
        """Returns weights `(S, D)` and biases `(S,)` of the linear layer, with the origin at the centre."""

    @abstractmethod
    def _propagate(self, forward: Forward) -> LayerRelevance:
        """Passes the relevance of the competitors back to the units of the linear layer."""

    def _cluster_scores(self, scores: Tensor) -> Tensor:
        """Computes scores of the clusters `(N, K)`, the largest of which decides, from those of the units `(N, S)`."""
        return scores

    def _discriminants(self, scores: Tensor) -> Tensor:
        """Computes `f_c` for every cluster, `(N, K)`."""
        return discriminants(self._cluster_scores(scores))

    def _logits(self, scores: Tensor, stiffness: float) -> Tensor:
        """Computes `-log Σ_{k != c} exp(-β h_k)` for every cluster, `(N, K)`."""
        return logits(self._cluster_scores(scores), stiffness)

    def _margins(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """Computes `h_k` of every competitor, `(N, K)`; the entries of the chosen clusters `(N,)` themselves are
        undefined.
        """
        s = self._cluster_scores(scores)
        return s.gather(1, chosen[:, None]) - s

    def forward(self, x: Tensor) -> Tensor:
        """Computes discriminants `(N, K)` of features `(N, D)`; the largest is the clustering's own decision."""
        if torch.compiler.is_exporting():  # one operation of a graph (see `layers`)
            tensors = {name: value for name, value in self._buffers.items() if value is not None}
            head = list(tensors.values()), type(self).__name__, " ".join(tensors), self.n_clusters
            found: Tensor = torch.ops.whycluster.discriminants(x.to(self.centre.dtype), *head)
            return found
        return self._discriminants(self._scores(as_features(x, self.centre)))

    def logit(self, x: Tensor, stiffness: float | None = None) -> Tensor:
        """Computes soft discriminants `-log Σ_{k != c} exp(-β h_k)`, `(N, K)`, of features `(N, D)`.

        The stiffness `β` is finite; `None`: that of the head. Divided by `β`, logits approach the discriminants as it
        grows; the relevance of a logit is that of the discriminant at the same `β`, times logit over discriminant.

        Raises:
            UserError: if `β` is infinite.
        """
        s = self._stiffness(stiffness)
        if s == math.inf:
            raise UserError("with an infinite stiffness each logit is infinite; give a finite one, or use forward.")
        return self._logits(self._scores(as_features(x, self.centre)), s)

    def probability(self, x: Tensor, stiffness: float | None = None) -> Tensor:
        """Computes soft assignments `P_c`, with `logit = log(P_c / (1 - P_c))`, `(N, K)`; parameters as in `logit`."""
        s = self._stiffness(stiffness)
        if s == math.inf:
            return nn.functional.one_hot(self(x).argmax(1), self.n_clusters).to(self.centre.dtype)
        return self.logit(x, s).sigmoid()

    def competition(self, x: Tensor, target: Any = None, beta: Beta = None) -> Tensor:
        """Computes how much each competitor counts, `p_k`, `(N, K)`; parameters as in `attribute`."""
        return self._pass_forward(x, target, None, beta).pooled.weights

    def relevance(
        self, x: Tensor, target: Any = None, against: Any = None, rule: RuleName = "midpoint", beta: Beta = None
    ) -> Tensor:
        """Computes the relevance `(N, D)` of the features for a discriminant; parameters as in `attribute`."""
        return self.attribute(x, target, against, rule, beta).relevance

    def attribute(
        self, x: Tensor, target: Any = None, against: Any = None, rule: RuleName = "midpoint", beta: Beta = None
    ) -> HeadAttribution:
        """Explains a discriminant of each row by its features.

        Args:
            x: `(N, D)`.
            target: the cluster to explain, one or `(N,)`, or `runner_up`; `None` or `assigned`: the assigned one.
            against: the only competitor, one or `(N,)`; `None`: all others. Then `h_k` takes the place of `f_c`.
            rule: `midpoint` conserves the discriminant, and also gives relevance to features that are zero; `zero`
                gives none to these, and the bias absorbs its contribution. Section III-C of the paper.
            beta: stiffness of the pooling over competitors; `None` or `auto`: the head's own.

        Raises:
            UserError: for an unknown rule, a cluster that does not exist, a target against itself, or features that
                do not fit or are not finite.
        """
        return self._pass_backward(self._pass_forward(x, target, against, beta), checked_rule(rule))

    def relevance_by_competitor(
        self, x: Tensor, target: Any = None, rule: RuleName = "midpoint", beta: Beta = None
    ) -> Tensor:
        """Computes what each competitor adds to the relevance, `(N, K, D)`; the sum over `K` is `relevance(x, target)`.

        Competitor `k` adds `p_k f_c / h_k` times the relevance against it alone. Parameters as in `attribute`.
        """
        return self._by_competitor(self._pass_forward(x, target, None, beta), checked_rule(rule))

    def _by_competitor(self, forward: Forward, rule: RuleName) -> Tensor:
        explained, weights = forward.pooled
        alone = (Pooled(explained, weights * one) for one in torch.eye(self.n_clusters).to(weights))
        return torch.stack([self._pass_backward(forward._replace(pooled=p), rule).relevance for p in alone], dim=1)

    def _assigned(self, scores: Tensor) -> Tensor:
        """Returns the clusters that rows are assigned to, `(N,)`; of equal ones the first."""
        return self._cluster_scores(scores).max(1).indices

    def _scores(self, x: Tensor, layer: tuple[Tensor, Tensor] | None = None) -> Tensor:
        weight, bias = layer or self._layer()
        return torch.addmm(bias, x - self.centre, weight.T)

    def _pass_forward(self, x: Any, target: Any, against: Any, beta: Beta) -> Forward:
        x, layer = as_features(x, self.centre), self._layer()
        scores = self._scores(x, layer)
        chosen = self._chosen(scores, target)
        h = self._compete(self._margins(scores, chosen), chosen, against)
        return Forward(x, layer, scores, chosen, h, take_most(h, self._stiffness(beta)))

    def _pass_backward(self, forward: Forward, rule: RuleName) -> HeadAttribution:
        """Computes `R_i = Σ_k R_k / h_k · w_ik (x_i - m_ik)`, with midpoints or with zero for `m_k`."""
        coefficients, offset, absorbed = self._propagate(forward)
        (weight, bias), explained = forward.layer, forward.pooled.explained[:, 0]
        direction = coefficients @ weight
        if rule == "midpoint":
            moved, without_border = offset()
            relevance = (forward.x - self.centre) * direction - moved
            absorbed = absorbed + without_border
        else:
            relevance = forward.x * direction
            absorbed = absorbed + coefficients @ bias - direction @ self.centre
        return HeadAttribution(relevance, explained, torch.zeros_like(explained) + absorbed)

    def _chosen(self, scores: Tensor, target: Any) -> Tensor:
        """Returns the clusters to explain, `(N,)`."""
        if target is not None and not isinstance(target, str):
            return as_clusters("target", target, len(scores), self.n_clusters).to(scores.device)
        if target is not None and target not in TARGETS:
            raise UserError(f"target={target!r} is unknown; choose a cluster, {' or '.join(TARGETS)}.")
        return best_two(self._discriminants(scores))[1] if target == "runner_up" else self._assigned(scores)

    def _compete(self, h: Tensor, chosen: Tensor, against: Any) -> Tensor:
        """Returns `h_k` of the competitors, infinite for all other clusters, `(N, K)`; may overwrite `h`."""
        if against is None:
            return h.scatter_(1, chosen[:, None], math.inf)
        competitor = as_clusters("against", against, len(chosen), self.n_clusters).to(chosen)
        if (competitor == chosen).any():
            raise UserError("a cluster cannot be explained against itself; choose another `against`.")
        alone = competitor[:, None]
        return torch.full_like(h, math.inf).scatter_(1, alone, h.gather(1, alone))

    def _stiffness(self, beta: Beta) -> float:
        number = user_beta(beta)
        return float(self.beta) if number is None else number
