"""Kernel k-means with a Gaussian kernel, `k(x, u) = exp(-gamma |x - u|²)`, whose decision can be neuralized exactly.

A cluster is the set of its support points. A point belongs to the cluster to which it is most similar on average, which
is the one of least soft distance: the decision of the network in Kauffmann et al., arXiv 1906.07633, section III.
"""

from typing import Any, Literal, Self
from warnings import warn

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from whycluster.clustering.kernel_fit import fit_kernel_kmeans, representatives
from whycluster.clustering.soft_distances import assign_softly
from whycluster.errors import UserError, whole_number

DTYPES = [np.float64, np.float32]


class KernelKMeans(ClusterMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Kernel k-means with a Gaussian kernel, as a scikit-learn estimator.

    Args:
        n_clusters: `K`.
        gamma: of the kernel `exp(-gamma |x - u|²)`; `auto`: `1 / (D · variance of all entries)`.
        n_init: restarts; the one of least inertia wins.
        max_iter: iterations at most.
        max_supports: number of representative rows to keep as supports; `None`: all rows.
        random_state: as in scikit-learn.

    Attributes:
        labels_: cluster of each row, `(N,)`, as `predict` returns it.
        supports_: the support points of the clusters, `(M, D)`.
        support_labels_: their clusters, `(M,)`.
        gamma_: the `gamma` that was used.
        inertia_: sum of squared distances to the means in kernel space, with all rows as supports.
        n_iter_: iterations of the best restart.
        agreement_: fraction of the rows that are assigned as with all rows as supports.

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
            UserError: for invalid settings, more clusters than rows, or rows that are not finite.
        """
        self._check_settings()
        x = torch.as_tensor(validate_data(self, readable(X), dtype=DTYPES, copy=True))
        if len(x) < self.n_clusters:
            raise UserError(f"n_samples={len(x)} should be >= n_clusters={self.n_clusters}.")
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
        """Assigns rows to clusters, `(N,)`.

        Raises:
            UserError: for rows of another width, or not finite; scikit-learn's `NotFittedError` before `fit`.
        """
        check_is_fitted(self)
        return self._decide(torch.as_tensor(validate_data(self, readable(X), dtype=DTYPES, copy=True, reset=False)))

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
            whole_number(name, getattr(self, name), value)
        check_gamma(self.gamma)


def readable(x: Any) -> Any:
    """Converts tensors to arrays that scikit-learn can read, in float32 where NumPy lacks their type; returns all else
    as it is.

    Raises:
        UserError: for complex numbers and bits.
    """
    dtype = getattr(x, "dtype", None)
    try:
        if isinstance(x, Tensor) and not x.is_complex():
            x = x.detach().cpu()
            return x.float().numpy() if x.is_floating_point() and x.element_size() < 4 else x.numpy()
        if not np.iscomplexobj(x) and not isinstance(x, Tensor):
            return x
    except (TypeError, NotImplementedError):
        pass
    raise UserError(f"Complex data not supported: X of type {dtype} should be real numbers.")


def auto_gamma(x: Tensor) -> float:
    """Computes `1 / (D · variance of all entries)`, scikit-learn's `scale`; 1 where nothing varies."""
    spread = x.shape[1] * float(x.double().var(correction=0))
    return 1 / spread if spread > 0 else 1.0


def check_gamma(gamma: Any) -> None:
    """Checks the setting `gamma`.

    Raises:
        UserError: unless it is `auto`, or a number above 0.
    """
    number = isinstance(gamma, int | float | np.number) and not isinstance(gamma, bool)
    auto = isinstance(gamma, str) and gamma == "auto"
    if not auto and not (number and 0 < gamma < np.inf):
        raise UserError(f"gamma={gamma!r} should be a number > 0, or 'auto'.")
