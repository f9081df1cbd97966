"""Kernel k-means with a Gaussian kernel, `k(x, u) = exp(-gamma |x - u|²)`, whose decision can be neuralized exactly.

A cluster is the set of its support points `u_j`. A point belongs to the cluster to which it is most similar on average,

    `argmax_k mean_{j in C_k} k(x, u_j) = argmin_k d_k(x)`,  `d_k(x) = -log(mean_j exp(-gamma |x - u_j|²)) / gamma`,

where the soft distance `d_k` is finite however far away the point is. That is the decision of the network in
arXiv 1906.07633, section III. Plain kernel k-means also counts the mean similarity within a cluster; the fit minimises
its objective first and then settles, so that all labels are decisions.

`R` restarts, `K` clusters, `N` rows, `M` supports.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Self
from warnings import warn

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

KEPT = 2**27  # entries of a kernel matrix that is kept; a larger one is computed again in each iteration
BLOCK = 2**22  # entries computed at once
DTYPES = [np.float64, np.float32]


def soft_minimum(values: Tensor, gamma: float) -> Tensor:
    """`-log(mean(exp(-gamma v))) / gamma` over the last dimension; from the mean (gamma → 0) to the minimum (→ ∞).

    Args:
        values: `(..., M)`.
        gamma: positive; no value of it overflows, and none cancels.

    Example:
        >>> soft_minimum(torch.tensor([1.0, 3.0]), 1e-9), soft_minimum(torch.tensor([1.0, 3.0]), 1e9)
        (tensor(2.), tensor(1.))
    """
    least = values.amin(-1, keepdim=True)
    mean = torch.expm1((values - least).mul_(-gamma)).mean(-1)  # of exp(…) - 1, exact where exp(…) is near 1
    return least[..., 0] - torch.log1p(mean) / gamma


def soft_distances(distances: Tensor, sizes: list[int], gamma: float) -> Tensor:
    """Soft distance to each cluster.

    Args:
        distances: squared, to supports that stand cluster by cluster, `(N, M)`; up to a constant for each row.
        sizes: supports of each cluster.
        gamma: of the kernel.

    Returns:
        `(N, K)`, up to the same constants.
    """
    return torch.stack([soft_minimum(part, gamma) for part in torch.split(distances, sizes, dim=1)], dim=1)


def assign_softly(x: Tensor, supports: Tensor, labels: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """The cluster of least soft distance of each row.

    Args:
        x: `(N, D)`.
        supports: `(M, D)`.
        labels: their clusters, `(M,)`, each at least once.
        gamma: of the kernel.

    Returns:
        Cluster and soft distance, `(N,)` each.
    """
    centre, order = supports.median(0).values, labels.argsort(stable=True)
    sizes: list[int] = torch.bincount(labels).tolist()
    near = (supports - centre)[order]
    blocks = torch.split(x, max(1, BLOCK // len(supports)))
    parts = [soft_distances(_squares(block - centre, near), sizes, gamma).min(1) for block in blocks]
    return torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts])


def auto_gamma(x: Tensor) -> float:
    """`1 / (D · variance of all entries)`, scikit-learn's `scale`; 1 where nothing varies."""
    spread = x.shape[1] * float(x.double().var(correction=0))
    return 1 / spread if spread > 0 else 1.0


class KernelFit(NamedTuple):
    """A fitted kernel k-means.

    Attributes:
        labels: cluster of each row, each of them a support, `(N,)`.
        inertia: sum of squared distances to the means in kernel space.
        n_iter: iterations of the best restart.
        converged: whether the labels are the decisions.
    """

    labels: Tensor
    inertia: float
    n_iter: int
    converged: bool


def fit_kernel_kmeans(x: Tensor, n_clusters: int, gamma: float, n_init: int, max_iter: int, seed: Any) -> KernelFit:
    """Fits by alternating assignments, all restarts at once, each from a k-means++ start in kernel space.

    Args:
        x: `(N, D)`.
        n_clusters: `K`, at most `N`.
        gamma: of the kernel.
        n_init: `R`; the one of least inertia wins.
        max_iter: iterations at most.
        seed: whatever scikit-learn's `check_random_state` takes.
    """
    kernel, random = _Kernel(x, gamma), check_random_state(seed)
    labels = torch.stack([_start(kernel, n_clusters, random) for _ in range(n_init)])  # (R, N)
    iterations = torch.zeros(n_init, dtype=torch.long)
    settling, done = torch.zeros(2, n_init, dtype=torch.bool)  # by mean similarity alone; and no longer moving
    for _ in range(max_iter):
        going = (~done).nonzero()[:, 0]
        if not len(going):
            break
        similarity, within, counts = _similarities(kernel, labels[going], n_clusters)
        settled = settling[going].to(x.device)[:, None, None]
        new = torch.where(settled, similarity, 2 * similarity - within[:, None]).argmax(2)
        new = _filled(new, similarity, n_clusters)
        unchanged = (new == labels[going]).all(1).cpu()
        done[going] = unchanged & settling[going]
        settling[going] |= unchanged
        labels[going] = new
        iterations[going] += 1
    _, within, counts = _similarities(kernel, labels, n_clusters)
    inertia = len(x) - (counts * within).sum(1, dtype=torch.float64)
    best = int(inertia.argmin())
    return KernelFit(labels[best], float(inertia[best]), int(iterations[best]), bool(done[best]))


def representatives(x: Tensor, labels: Tensor, gamma: float, max_supports: int) -> Tensor:
    """Rows whose mean kernels come near those of whole clusters: kernel herding (Chen, Welling, Smola 2010).

    Args:
        x: `(N, D)`.
        labels: `(N,)`, every cluster with at least one row.
        gamma: of the kernel.
        max_supports: how many rows in all, at least `K`; each cluster gets its share, and at least one.

    Returns:
        Row numbers, ascending, `(M,)`.
    """
    kernel, counts = _Kernel(x, gamma), torch.bincount(labels)
    chosen = []
    for cluster, wanted in enumerate(_quotas(counts, max_supports)):
        rows = (labels == cluster).nonzero()[:, 0]
        goal = torch.cat([kernel.between(part, rows).mean(1) for part in torch.split(rows, max(1, BLOCK // len(rows)))])
        covered = torch.zeros_like(goal)
        for number in range(1, wanted + 1):
            at = (goal - covered / number).argmax()
            covered += kernel.between(rows, rows[at : at + 1])[:, 0]
            goal[at] = -torch.inf  # taken
            chosen.append(rows[at])
    return torch.stack(chosen).sort().values


class KernelKMeans(ClusterMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Kernel k-means with a Gaussian kernel, as a scikit-learn estimator.

    Args:
        n_clusters: `K`.
        gamma: of the kernel `exp(-gamma |x - u|²)`; `auto`: `1 / (D · variance of all entries)`.
        n_init: restarts; the one of least inertia wins.
        max_iter: iterations at most.
        max_supports: keep so many representative rows only, not all; `None`: all.
        random_state: as in scikit-learn.

    Attributes:
        labels_: cluster of each row, `(N,)`; what `predict` says of it.
        supports_: the rows that stand for the clusters, `(M, D)`.
        support_labels_: their clusters, `(M,)`.
        gamma_: that was used.
        inertia_: sum of squared distances to the means in kernel space, with all rows as supports.
        n_iter_: iterations of the best restart.
        agreement_: share of the rows that are assigned as with all rows as supports.

    Example:
        >>> from sklearn.datasets import make_circles
        >>> x, ring = make_circles(200, factor=0.3, noise=0.03, random_state=0)
        >>> model = KernelKMeans(2, gamma=5, random_state=0).fit(x)
        >>> bool((model.labels_ == ring).all() or (model.labels_ != ring).all())
        True
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        gamma: float | Literal["auto"] = "auto",
        n_init: int = 10,
        max_iter: int = 300,
        max_supports: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.gamma = gamma
        self.n_init = n_init
        self.max_iter = max_iter
        self.max_supports = max_supports
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803
        """Fits rows `(N, D)`.

        Raises:
            ValueError: for settings that make no sense, more clusters than rows, or rows that are not finite.
        """
        self._check_settings()
        x = torch.as_tensor(validate_data(self, X, dtype=DTYPES, copy=True))
        if len(x) < self.n_clusters:
            raise ValueError(f"n_samples={len(x)} should be >= n_clusters={self.n_clusters}.")
        self.gamma_ = auto_gamma(x) if self.gamma == "auto" else float(self.gamma)
        fit = fit_kernel_kmeans(x, self.n_clusters, self.gamma_, self.n_init, self.max_iter, self.random_state)
        if not fit.converged:
            warn(
                f"the best restart did not settle in max_iter={self.max_iter} iterations.",
                ConvergenceWarning,
                stacklevel=2,
            )
        self.inertia_, self.n_iter_, self.agreement_ = fit.inertia, fit.n_iter, 1.0
        self._keep(x, fit.labels, torch.arange(len(x)))
        self.labels_ = self._decide(x)
        if self.max_supports is not None and self.max_supports < len(x):
            self._keep(x, fit.labels, representatives(x, fit.labels, self.gamma_, self.max_supports))
            full, self.labels_ = self.labels_, self._decide(x)
            self.agreement_ = float((full == self.labels_).mean())
        found = len(np.unique(self.labels_))
        if found < self.n_clusters:
            warn(
                f"only {found} of n_clusters={self.n_clusters} clusters have rows of their own; rows may be alike.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """The cluster of each row, `(N,)`.

        Raises:
            ValueError: for rows of another width, or not finite; scikit-learn's `NotFittedError` before `fit`.
        """
        check_is_fitted(self)
        return self._decide(torch.as_tensor(validate_data(self, X, dtype=DTYPES, copy=True, reset=False)))

    def _decide(self, x: Tensor) -> np.ndarray:
        supports, labels = torch.as_tensor(self.supports_, dtype=x.dtype), torch.as_tensor(self.support_labels_)
        return assign_softly(x, supports, labels, self.gamma_)[0].numpy()

    def _keep(self, x: Tensor, labels: Tensor, rows: Tensor) -> None:
        self.supports_, self.support_labels_ = x[rows].numpy(), labels[rows].numpy()

    def _check_settings(self) -> None:
        least = {"n_clusters": 1, "n_init": 1, "max_iter": 1}
        if self.max_supports is not None:
            least["max_supports"] = self.n_clusters
        for name, value in least.items():
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < value:
                raise ValueError(f"{name}={given!r} should be a whole number >= {value}.")
        check_gamma(self.gamma)


def check_gamma(gamma: Any) -> None:
    """Raises:
    ValueError: unless it is `auto`, or a number above 0.
    """
    number = isinstance(gamma, int | float | np.number) and not isinstance(gamma, bool)
    auto = isinstance(gamma, str) and gamma == "auto"
    if not auto and not (number and 0 < gamma < np.inf):
        raise ValueError(f"gamma={gamma!r} should be a number > 0, or 'auto'.")


class _Kernel:
    """The kernel matrix of all rows, block by block.

    Args:
        x: `(N, D)`.
        gamma: of the kernel.
    """

    def __init__(self, x: Tensor, gamma: float) -> None:
        self.x, self.gamma = x - x.median(0).values, gamma
        self.step = max(1, BLOCK // len(x))
        self._kept: list[Tensor] = []

    def blocks(self) -> Iterator[Tensor]:
        """All rows in order, `(n, N)` each."""
        if self._kept:
            yield from self._kept
            return
        keep = len(self.x) ** 2 <= KEPT
        for part in torch.split(self.x, self.step):
            block = self._similar(part, self.x)
            if keep:
                self._kept.append(block)
            yield block

    def between(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Similarity of some rows and others, by their numbers."""
        return self._similar(self.x[rows], self.x[columns])

    def _similar(self, x: Tensor, others: Tensor) -> Tensor:
        return _squares(x, others).mul_(-self.gamma).exp_()


def _squares(x: Tensor, others: Tensor) -> Tensor:
    """Squared distances `(N, M)` of rows near the origin."""
    squares = torch.addmm(others.square().sum(1), x, others.T, alpha=-2)
    return squares.add_(x.square().sum(1, keepdim=True)).clamp_(min=0)


def _start(kernel: _Kernel, n_clusters: int, random: np.random.RandomState) -> Tensor:
    """Labels `(N,)` from greedy k-means++ in kernel space."""
    rows = torch.arange(len(kernel.x), device=kernel.x.device)
    similarity = [kernel.between(rows, rows[random.randint(len(rows))][None])[:, 0]]
    distance = (2 - 2 * similarity[0]).clamp(min=0).double()
    trials = 2 + int(np.log(n_clusters))
    for _ in range(n_clusters - 1):
        weights = distance.cpu().numpy()
        shares = weights / weights.sum() if weights.sum() > 0 else None  # None: all rows are alike
        drawn = torch.as_tensor(random.choice(len(rows), trials, p=shares), device=rows.device)
        candidates = kernel.between(rows, drawn)  # (N, trials)
        nearer = torch.minimum(distance[:, None], (2 - 2 * candidates).clamp(min=0).double())
        best = nearer.sum(0).argmin()
        similarity.append(candidates[:, best])
        distance = nearer[:, best]
    return _filled(torch.stack(similarity, 1).argmax(1)[None], torch.stack(similarity, 1)[None], n_clusters)[0]


def _similarities(kernel: _Kernel, labels: Tensor, n_clusters: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean similarity of each row to each cluster `(R, N, K)`, its mean within clusters `(R, K)`, and their sizes."""
    members = torch.nn.functional.one_hot(labels, n_clusters).to(kernel.x.dtype)  # (R, N, K)
    counts = members.sum(1)
    means = (members / counts[:, None].clamp(min=1)).movedim(1, 0).flatten(1)  # (N, R·K)
    similarity = torch.cat([block @ means for block in kernel.blocks()])
    similarity = similarity.view(-1, *counts.shape).movedim(0, 1)
    within = (similarity * members).sum(1, dtype=torch.float64) / counts.clamp(min=1)
    return similarity, within.to(similarity.dtype), counts


def _filled(labels: Tensor, similarity: Tensor, n_clusters: int) -> Tensor:
    """Labels `(R, N)` in which every empty cluster gets the row that is least similar to its own cluster."""
    labels = labels.clone()
    for restart in range(len(labels)):
        counts = torch.bincount(labels[restart], minlength=n_clusters)
        if counts.all():
            continue
        own = similarity[restart].gather(1, labels[restart][:, None])[:, 0]
        strangers = iter(own.argsort(stable=True).tolist())
        for empty in (counts == 0).nonzero()[:, 0].tolist():
            row = next(row for row in strangers if counts[labels[restart, row]] > 1)
            counts[labels[restart, row]] -= 1
            counts[empty] += 1
            labels[restart, row] = empty
    return labels


def _quotas(counts: Tensor, total: int) -> list[int]:
    """How many of `total` supports each cluster gets: in proportion to its rows, at least one, at most all of them."""
    wanted = counts.double() / counts.sum() * total
    quotas = wanted.floor().clamp(min=1).long()
    while quotas.sum() > total:  # as some were lifted to one
        quotas[(quotas - wanted).masked_fill(quotas == 1, -torch.inf).argmax()] -= 1
    for cluster in (wanted - quotas).argsort(descending=True)[: int(total - quotas.sum())]:
        quotas[cluster] += 1
    return torch.minimum(quotas, counts).tolist()
