"""Affine steps of a scikit-learn pipeline, folded into one projection of the original columns."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD
from sklearn.feature_selection import SelectorMixin
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from whycluster.heads.head import as_rows


class Folded:
    """A model taken apart: the clustering at its end, and the affine map before it.

    Args:
        model: a fitted clustering, or a pipeline of affine steps that ends in one.

    Attributes:
        estimator: the clustering.
        projection: `A`, the linear part of the map, `(D,)` or `(D', D)`; `None` if there is none.

    Raises:
        ValueError: for a step that is not affine.
    """

    def __init__(self, model: Any) -> None:
        *self._steps, (_, self.estimator) = _flat(model) if isinstance(model, Pipeline) else [("", model)]
        parts = [_linear_part(name, step) for name, step in self._steps]
        self.projection = torch.as_tensor(reduce(_after, parts)) if parts else None

    def back(self, points: np.ndarray) -> Tensor:
        """Points in original columns that the map takes to these.

        Raises:
            ValueError: if there are none.
        """
        original = points.astype(np.float64) if self._steps else points  # offsets may be large
        for _, step in reversed(self._steps):
            original = step.inverse_transform(original)
        rows = as_rows(original)
        if self.projection is not None:
            a, moved, wanted = self.projection, (rows - rows[0]).double(), torch.as_tensor(points - points[0]).double()
            again = moved * a if a.ndim == 1 else moved @ a.double().T
            if not torch.allclose(again, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max())):
                raise ValueError("the steps of this pipeline cannot be undone; transform the data with them first.")
        return rows

    def offset(self, n_features: int) -> Tensor:
        """Where the map takes the origin of the original columns, `(D',)`; without steps, `n_features` zeros."""
        values = np.zeros((1, self._steps[0][1].n_features_in_ if self._steps else n_features))
        for _, step in self._steps:
            values = step.transform(values)
        return as_rows(values)[0].double()


def fitted_names(model: Any) -> Any:
    """Names of the columns that a model or pipeline was fitted with, `None` if they had none."""
    while isinstance(model, Pipeline):
        model = next((step for _, step in model.steps if step is not None and not isinstance(step, str)), None)
    return getattr(model, "feature_names_in_", None)


def _flat(pipeline: Pipeline) -> list[tuple[str, Any]]:
    """Steps, also of pipelines within, without those that pass everything."""
    steps = []
    for name, step in pipeline.steps:
        if isinstance(step, Pipeline):
            steps += _flat(step)
        elif step is not None and step != "passthrough":
            steps.append((name, step))
    if not steps:
        raise ValueError("this pipeline is empty; let it end in a k-means.")
    return steps


def _linear_part(name: str, step: Any) -> np.ndarray:
    for kind, linear_part in LINEAR_PARTS.items():
        if isinstance(step, kind) and not getattr(step, "clip", False):
            check_is_fitted(step)
            return np.asarray(linear_part(step))
    raise ValueError(
        f"step {name!r} of the pipeline, {type(step).__name__}, is no affine map that could be folded; "
        "transform the data up to there first, and neuralize the steps after it."
    )


def _after(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The projection that is one after the other."""
    if first.ndim == 2 and second.ndim == 2:
        return np.asarray(second @ first)
    return np.asarray(second[:, None] * first if first.ndim == 2 else second * first)


def _scale(step: Any) -> np.ndarray:
    """Of scalers that divide."""
    return np.ones(step.n_features_in_) if step.scale_ is None else np.asarray(1 / step.scale_)


def _components(step: Any) -> np.ndarray:
    if not getattr(step, "whiten", False):
        return np.asarray(step.components_)
    spread = np.sqrt(step.explained_variance_)
    return np.asarray(step.components_ / np.maximum(spread, np.finfo(spread.dtype).eps)[:, None])


LINEAR_PARTS: dict[type, Callable[[Any], np.ndarray]] = {
    StandardScaler: _scale,
    RobustScaler: _scale,
    MaxAbsScaler: _scale,
    MinMaxScaler: lambda step: step.scale_,
    PCA: _components,
    IncrementalPCA: _components,
    TruncatedSVD: _components,
    SelectorMixin: lambda step: np.eye(step.n_features_in_)[step.get_support()],
}
