"""Folding of the affine steps of a scikit-learn pipeline into one projection of the original columns."""

from collections.abc import Callable
from functools import reduce
from itertools import starmap
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD
from sklearn.feature_selection import SelectorMixin
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from whycluster.errors import UserError
from whycluster.heads.arguments import as_tensor


class Folded:
    """A fitted model, or pipeline that ends in one, split into the model and the affine map `A x + a` before it.

    Attributes:
        estimator: the clustering or classifier at the end.
        projection: `A`, `(D,)` for a scaling, or `(D', D)`; `None` if there are no steps.

    Raises:
        UserError: for a step that is not affine.
    """

    def __init__(self, model: Any) -> None:
        steps = _named_steps(model) if isinstance(model, Pipeline) else [("", model)]
        if not steps:
            raise UserError("this pipeline is empty; let it end in a k-means.")
        *before, (_, self.estimator) = steps
        self._steps = [step for _, step in before]
        self.projection = torch.as_tensor(reduce(_composed, starmap(_linear_part, before))) if before else None

    def back(self, points: np.ndarray) -> Tensor:
        """Finds points in original columns that the map takes to these points; `UserError` if there are none."""
        if self.projection is None:
            return as_tensor(points)
        original = points.astype(np.float64)  # offsets may be large
        for step in reversed(self._steps):
            original = step.inverse_transform(original)
        rows, a = as_tensor(original), self.projection
        moved, wanted = (rows - rows[0]).double(), torch.as_tensor(points - points[0]).double()
        again = moved * a if a.ndim == 1 else moved @ a.double().T
        if not torch.allclose(again, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max())):
            raise UserError("the steps of this pipeline cannot be undone; transform the data with them first.")
        return rows

    def scores_back(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Computes weights `(K, D)` and biases `(K,)` in original columns of linear scores that follow the map."""
        if self.projection is None:
            return weight, bias
        origin, a = np.zeros((1, self._steps[0].n_features_in_)), self.projection.double()
        for step in self._steps:
            origin = step.transform(origin)
        return weight * a if a.ndim == 1 else weight @ a, bias + weight @ as_tensor(origin)[0].double()


def fitted_names(model: Any) -> Any:
    """Returns the names of the columns that a model or pipeline was fitted with, `None` if they had none."""
    steps = _named_steps(model)
    return getattr(steps[0][1], "feature_names_in_", None) if steps else None


def _named_steps(model: Any, name: str = "") -> list[tuple[str, Any]]:
    """Lists the steps of a pipeline and of pipelines within it, without `passthrough`; a model is one step."""
    if isinstance(model, Pipeline):
        return [one for name, step in model.steps for one in _named_steps(step, name)]
    return [] if model is None or (isinstance(model, str) and model == "passthrough") else [(name, model)]


def _linear_part(name: str, step: Any) -> np.ndarray:
    for kinds, linear_part in LINEAR_PARTS.items():
        if isinstance(step, kinds) and not getattr(step, "clip", False):
            check_is_fitted(step)
            return np.asarray(linear_part(step))
    raise UserError(
        f"step {name!r} of the pipeline, {type(step).__name__}, is no affine map that could be folded; "
        "transform the data up to there first, and neuralize the steps after it."
    )


def _composed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Composes two projections, of which one may scale and the other mix features."""
    if first.ndim == second.ndim == 2:
        return np.asarray(second @ first)
    return np.asarray(second[:, None] * first if first.ndim == 2 else second * first)


def _divisors(step: Any) -> np.ndarray:
    return np.ones(step.n_features_in_) if step.scale_ is None else np.asarray(1 / step.scale_)


def _components(step: Any) -> np.ndarray:
    if not getattr(step, "whiten", False):
        return np.asarray(step.components_)
    spread = np.sqrt(step.explained_variance_)
    return np.asarray(step.components_ / np.maximum(spread, np.finfo(spread.dtype).eps)[:, None])


LINEAR_PARTS: dict[tuple[type, ...], Callable[[Any], np.ndarray]] = {
    (StandardScaler, RobustScaler, MaxAbsScaler): _divisors,
    (MinMaxScaler,): lambda step: step.scale_,
    (PCA, IncrementalPCA, TruncatedSVD): _components,
    (SelectorMixin,): lambda step: np.eye(step.n_features_in_)[step.get_support()],
}
