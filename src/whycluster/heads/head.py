"""What all neuralized clusterings share: questions, the pooling over competitors, and the way back to the features."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from whycluster.heads.beta import Beta, checked_beta, given_beta
from whycluster.heads.pooling import Pooled, best_two, discriminants, logits, take_most

Rule = Literal["midpoint", "zero"]
NAMED = ("assigned", "runner_up")  # targets


KINDS: dict[str, type["Head"]] = {}


class HeadAttribution(NamedTuple):
    """Relevance at the features and what became of the rest; `explained = relevance.sum(1) + absorbed`.

    Attributes:
        relevance: `(N, D)`.
        explained: the discriminant that was explained, `(N,)`.
        absorbed: what biases kept of it, `(N,)`.
    """

    relevance: Tensor
    explained: Tensor
    absorbed: Tensor


class Passed(NamedTuple):
    """What a linear layer hands back of `R_k`: the sums over competitors that both rules are made of.

    Attributes:
        direction: `Σ_k R_k / h_k · w_k`, `(N, D)`.
        offset: `Σ_k R_k / h_k · w_k ∘ m_k`, with the origin at the head's centre, `(N, D)`.
        lost: relevance of competitors that no unit stands for, `(N,)`.
    """

    direction: Tensor
    offset: Tensor
    lost: Tensor | float = 0.0


class Head(nn.Module, ABC):
    """A clustering as a neural network: features `->` discriminants, and relevance back to the features.

    Args:
        n_clusters: `K >= 2`.
        centre: of the clusters, `(D,)`; what is near it loses no digits.
        beta: stiffness of the soft assignment and of the pooling over competitors, `>= 0`, or infinite.

    Attributes:
        feature_names_in_: names of the columns that the clustering was fitted with, if they had any.

    Raises:
        ValueError: for a single cluster, or a negative `beta`.
    """

    centre: Tensor
    beta: Tensor
    feature_names_in_: Any = None

    def __init__(self, n_clusters: int, centre: Tensor, beta: float) -> None:
        super().__init__()
        if n_clusters < 2:
            raise ValueError(f"n_clusters={n_clusters} should be >= 2, as one cluster alone has no competitor.")
        self.n_clusters = n_clusters
        self.register_buffer("centre", centre)
        self.register_buffer("beta", torch.tensor(checked_beta(beta), dtype=torch.float64))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        scalars = {name: value for name, value in self._buffers.items() if value is not None and value.ndim == 0}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch does not annotate it
        for name, value in scalars.items():  # in half precision a small beta would become zero
            self._buffers[name] = value.to(self.centre.device)
        return self

    def __init_subclass__(cls) -> None:
        KINDS[cls.__name__] = cls

    @staticmethod
    def of(kind: str, n_clusters: int, buffers: dict[str, Tensor]) -> "Head":
        """The head of a kind that has these buffers."""
        head = KINDS[kind].__new__(KINDS[kind])
        nn.Module.__init__(head)
        head.n_clusters = n_clusters
        for name in (*KINDS[kind].__annotations__, *buffers):  # those that are not there are None
            head.register_buffer(name, buffers.get(name))
        return head

    def extra_repr(self) -> str:
        return f"{self.n_features}, n_clusters={self.n_clusters}"

    @property
    def n_features(self) -> int:
        """`D`."""
        return len(self.centre)

    @property
    def width(self) -> int:
        """How many numbers are computed of each row; for how many rows at once fit into memory."""
        return self.n_clusters

    # Each clustering says what it computes of features once (its evidence), and what follows from it.

    @abstractmethod
    def _evidence(self, x: Tensor) -> Tensor:
        """What all discriminants are made of, from centred features `(N, D)`."""

    def _distances(self, evidence: Tensor) -> Tensor:
        """What margins are differences of, `h_k = d_k - d_c`, `(N, K)`; the smallest decides."""
        return evidence

    def _discriminants(self, evidence: Tensor) -> Tensor:
        """`f_c` for every cluster, `(N, K)`."""
        return discriminants(self._distances(evidence))

    def _logits(self, evidence: Tensor, stiffness: float) -> Tensor:
        """`-log Σ_{k != c} exp(-s h_k)` for every cluster, `(N, K)`."""
        return logits(self._distances(evidence), stiffness)

    def _margins(self, evidence: Tensor, chosen: Tensor) -> Tensor:
        """`h_k` of every competitor, `(N, K)`; of the chosen clusters `(N,)` themselves anything."""
        d = self._distances(evidence)
        return d - d.gather(1, chosen[:, None])

    @abstractmethod
    def _pass(self, evidence: Tensor, chosen: Tensor, pooled: Pooled, h: Tensor) -> Passed:
        """Relevance through the linear layer, and through what lies between it and the competitors."""

    # What users ask.

    def forward(self, x: Tensor) -> Tensor:
        """Discriminants `(N, K)` of features `(N, D)`; the largest is the clustering's own decision."""
        if torch.compiler.is_exporting():  # one operation of a graph (see `layers`)
            tensors = {name: value for name, value in self._buffers.items() if value is not None}
            numbers = type(self).__name__, " ".join(tensors), self.n_clusters
            found: Tensor = torch.ops.whycluster.discriminants(
                x.to(self.centre.dtype), list(tensors.values()), *numbers
            )
            return found
        return self._discriminants(self._evidence(self._checked(x) - self.centre))

    def logit(self, x: Tensor, stiffness: float | None = None) -> Tensor:
        """Soft discriminants `-log Σ_{k != c} exp(-s h_k)`, `(N, K)`; over `s`, they approach the discriminants.

        Their relevance is that of the discriminant at `beta = s`, times logit over discriminant.

        Args:
            x: `(N, D)`.
            stiffness: `s`; `None`: the head's `beta`.

        Raises:
            ValueError: if `s` is infinite.
        """
        s = self._stiffness(stiffness)
        if s == math.inf:
            raise ValueError("with an infinite stiffness each logit is infinite; give a finite one, or use forward.")
        return self._logits(self._evidence(self._checked(x) - self.centre), s)

    def probability(self, x: Tensor, stiffness: float | None = None) -> Tensor:
        """Soft assignment `P_c`, with `logit = log(P_c / (1 - P_c))`, `(N, K)`; parameters as in `logit`."""
        s = self._stiffness(stiffness)
        if s == math.inf:
            return torch.nn.functional.one_hot(self(x).argmax(1), self.n_clusters).to(self.centre.dtype)
        return self.logit(x, s).sigmoid()

    def competition(self, x: Tensor, target: Any = None, beta: Beta = None) -> Tensor:
        """How much each competitor counts, `p_k`, `(N, K)`; parameters as in `attribute`."""
        _, evidence, chosen = self._opened(x, target)
        return self._pooled(evidence, chosen, None, beta)[0].weights

    def relevance(
        self,
        x: Tensor,
        target: Tensor | int | str | None = None,
        against: Tensor | int | None = None,
        rule: Rule = "midpoint",
        beta: Beta = None,
    ) -> Tensor:
        """Relevance `(N, D)` of the features for a discriminant; parameters as in `attribute`."""
        return self.attribute(x, target, against, rule, beta).relevance

    def attribute(
        self,
        x: Tensor,
        target: Tensor | int | str | None = None,
        against: Tensor | int | None = None,
        rule: Rule = "midpoint",
        beta: Beta = None,
    ) -> HeadAttribution:
        """Explains a discriminant of each row by its features.

        Args:
            x: `(N, D)`.
            target: the cluster to explain, one or `(N,)`, or `runner_up`; `None` or `assigned`: the assigned one.
            against: the only competitor, one or `(N,)`; `None`: all others. Then `h_k` takes the place of `f_c`.
            rule: `midpoint` conserves the discriminant, and counts what is absent too; `zero` gives nothing to
                features that are zero, and the bias keeps its share. Section III-C of the paper.
            beta: stiffness of the pooling over competitors; `None` or `auto`: the head's own.

        Raises:
            ValueError: for an unknown rule, a cluster that does not exist, a target against itself, or features that
                do not fit or are not finite.
        """
        check_rule(rule)
        x, evidence, chosen = self._opened(x, target)
        pooled, h = self._pooled(evidence, chosen, against, beta)
        passed = self._pass(evidence, chosen, pooled, h)
        relevance, by_bias = self._by_rule(x, passed, rule)
        return HeadAttribution(relevance, pooled.explained[:, 0], by_bias + passed.lost)

    def relevance_by_competitor(
        self,
        x: Tensor,
        target: Tensor | int | str | None = None,
        rule: Rule = "midpoint",
        beta: Beta = None,
    ) -> Tensor:
        """What each competitor adds to the relevance, `(N, K, D)`; the sum over `K` is `relevance(x, target)`.

        That of competitor `k` is `p_k f_c / h_k` times the relevance against it alone. Parameters as in `attribute`.
        """
        check_rule(rule)
        x, evidence, chosen = self._opened(x, target)
        pooled, h = self._pooled(evidence, chosen, None, beta)
        return self._pass_apart(x, evidence, chosen, pooled, h, rule)

    def _pass_apart(self, x: Tensor, evidence: Tensor, chosen: Tensor, pooled: Pooled, h: Tensor, rule: Rule) -> Tensor:
        """Relevance of the features from each competitor, `(N, K, D)`: one pass each, unless a head knows better."""
        clusters = torch.arange(self.n_clusters, device=x.device)
        alone = (Pooled(pooled.explained, pooled.weights * (clusters == k)) for k in clusters)
        return torch.stack([self._by_rule(x, self._pass(evidence, chosen, one, h), rule)[0] for one in alone], dim=1)

    def _by_rule(self, x: Tensor, passed: Passed, rule: Rule) -> tuple[Tensor, Tensor]:
        """`Σ_k R_k / h_k · w_k ∘ (x - m_k)` with the midpoints or with zero for `m_k`, and what biases keep `(N,)`."""
        direction, offset, _ = passed
        if rule == "midpoint":
            return (x - self.centre).mul_(direction).sub_(offset), x.new_zeros(len(x))
        return x * direction, -(offset + direction * self.centre).sum(1)

    def _opened(self, x: Any, target: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Features that are fit for use, the evidence in them, and the clusters to explain `(N,)`."""
        x = self._checked(x)
        evidence = self._evidence(x - self.centre)
        if target is None or isinstance(target, str):
            clusters = dict(zip(NAMED, best_two(self._discriminants(evidence)), strict=True))
            if target is not None and target not in clusters:
                raise ValueError(f"target={target!r} is unknown; choose a cluster, {' or '.join(NAMED)}.")
            return x, evidence, clusters[target or "assigned"]
        return x, evidence, self._clusters("target", target, x)

    def _pooled(self, evidence: Tensor, chosen: Tensor, against: Any, beta: Beta) -> tuple[Pooled, Tensor]:
        """The minimum over all who compete, and their `h_k`, infinite for those who do not."""
        h = self._margins(evidence, chosen).masked_fill_(self._silent(chosen, against), torch.inf)
        return take_most(h, self._stiffness(beta)), h

    def _silent(self, chosen: Tensor, against: Any) -> Tensor:
        """The clusters `(N, K)` that do not compete with the chosen ones."""
        clusters = torch.arange(self.n_clusters, device=chosen.device)
        if against is None:
            return clusters == chosen[:, None]
        competitor = self._clusters("against", against, chosen)
        if bool((competitor == chosen).any()):
            raise ValueError("a cluster cannot be explained against itself; choose another `against`.")
        return clusters != competitor[:, None]

    def _clusters(self, name: str, value: Any, rows: Tensor) -> Tensor:
        """One cluster or `(N,)` as `(N,)`, each of them existing."""
        clusters = torch.as_tensor(np.array(value) if isinstance(value, list | tuple | str) else value)
        if clusters.is_floating_point() or clusters.is_complex() or clusters.dtype == torch.bool:
            raise ValueError(f"{name}={value!r:.60} should be a cluster number, or one for each row.")
        clusters = clusters.to(rows.device, torch.int64)
        if clusters.ndim > 1 or clusters.numel() not in (1, len(rows)):
            raise ValueError(
                f"{name} of shape {tuple(clusters.shape)} should be one cluster, or one for each of {len(rows)} rows."
            )
        wrong = clusters[(clusters < 0) | (clusters >= self.n_clusters)]
        if wrong.numel():
            raise ValueError(
                f"{name}={int(wrong.flatten()[0])} is no cluster of this model; "
                f"it has clusters 0 to {self.n_clusters - 1}."
            )
        return clusters.expand(len(rows))

    def _stiffness(self, beta: Beta) -> float:
        given = given_beta(beta)
        return float(self.beta) if given is None else given

    def _checked(self, x: Any) -> Tensor:
        rows = as_rows(x)
        if rows.ndim != 2 or rows.shape[1] != self.n_features:
            raise ValueError(
                f"features of shape {tuple(rows.shape)} do not fit this model, which takes (N, {self.n_features})."
            )
        rows = rows.to(self.centre.device, self.centre.dtype)
        if not rows.isfinite().all():
            row = int((~rows.isfinite()).any(1).nonzero()[0])
            raise ValueError(f"the features of row {row} contain NaN or infinity.")
        return rows


def as_rows(x: Any) -> Tensor:
    """A tensor of numbers from what people hold their data in: tensors, arrays, frames, sparse matrices.

    Raises:
        ValueError: if it does not hold numbers.
    """
    if isinstance(x, Tensor):
        return x
    array = np.asarray(x.toarray() if sparse.issparse(x) else x)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"features of type {array.dtype} should be numbers.")
    return torch.as_tensor(np.require(array, requirements=["C", "W"]))  # frames are not writable, flips run backwards


def check_rule(rule: str) -> None:
    """Raises:
    ValueError: for an unknown rule.
    """
    if rule not in ("midpoint", "zero"):
        raise ValueError(f"rule={rule!r} is unknown; choose 'midpoint' or 'zero'.")
