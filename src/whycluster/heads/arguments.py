"""Checks and conversions of the features, points and clusters that users pass to a head."""

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from whycluster.errors import UserError

COMPUTABLE = (torch.float64, torch.float32, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def as_tensor(values: Any, name: str = "features") -> Tensor:
    """Converts tensors, arrays, frames, sparse matrices or lists to a tensor of a type in `COMPUTABLE`.

    Types of fewer digits than float32 become float32, those of more digits than float64 become float64.

    Raises:
        UserError: if they do not hold real numbers.
    """
    if isinstance(values, Tensor):
        return _computable(values, name)
    array = np.asarray(values.toarray() if sparse.issparse(values) else values)
    if array.dtype.kind not in "fiub":
        raise UserError(f"{name} of type {array.dtype} should be {'real ' * (array.dtype.kind == 'c')}numbers.")
    dtype = np.dtype(np.float64) if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    # Frames are not writable, flips run backwards.
    return _computable(torch.as_tensor(np.require(array, dtype, requirements=["C", "W"])), name)


def _computable(tensor: Tensor, name: str) -> Tensor:
    if tensor.dtype in COMPUTABLE:
        return tensor
    try:
        if tensor.is_complex() or tensor.is_quantized:
            raise NotImplementedError
        wide = tensor.to(torch.float32 if tensor.is_floating_point() else torch.int64)
    except NotImplementedError:  # bits, and numbers of 4 bits
        raise UserError(f"{name} of type {tensor.dtype} should be real numbers.") from None
    return tensor.double() if tensor.dtype == torch.uint64 and (wide < 0).any() else wide


def as_features(values: Any, like: Tensor) -> Tensor:
    """Converts to features `(N, D)`, on the device and of the type of a head's centre `(D,)`; `UserError` for another
    shape, NaN or infinity.
    """
    features = as_tensor(values)
    shape = tuple(features.shape)
    if len(shape) != 2 or shape[1] != len(like):
        raise UserError(f"features of shape {shape} do not fit this model, which takes (N, {len(like)}).")
    features = features.to(like)
    if not features.isfinite().all():
        row = int((~features.isfinite()).any(1).nonzero()[0])
        raise UserError(f"the features of row {row} contain NaN or infinity.")
    return features


def checked_points(name: str, points: Tensor) -> Tensor:
    """Copies points `(M, D)` to float32 or float64; `UserError` for another shape, or if they are not finite."""
    points = as_tensor(points, name)
    if points.ndim != 2 or not points.shape[1]:
        raise UserError(f"{name} of shape {tuple(points.shape)} should have the shape (K, D).")
    if not points.is_floating_point():
        points = points.double()
    if not points.isfinite().all():
        raise UserError(f"the {name} contain NaN or infinity.")
    return points.detach().clone()


def as_clusters(name: str, value: Any, n_rows: int, n_clusters: int) -> Tensor:
    """Expands one cluster, or one for each row, to `(N,)`; `UserError` for another number, or an unknown cluster."""
    clusters = as_tensor(value, name)
    if clusters.dtype == torch.bool or not torch.can_cast(clusters.dtype, torch.int64):
        raise UserError(f"{name}={value!r:.60} should be a cluster number, or one for each row.")
    if clusters.ndim > 1 or clusters.numel() not in (1, n_rows):
        raise UserError(
            f"{name} of shape {tuple(clusters.shape)} should be one cluster, or one for each of {n_rows} rows."
        )
    clusters = clusters.long().expand(n_rows)
    wrong = clusters[(clusters < 0) | (clusters >= n_clusters)]
    if len(wrong):
        raise UserError(f"{name}={int(wrong[0])} is no cluster of this model; it has clusters 0 to {n_clusters - 1}.")
    return clusters
