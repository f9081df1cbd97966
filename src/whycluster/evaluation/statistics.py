"""Statistics: means with bootstrap intervals, and the rank correlation of heatmaps."""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

CONFIDENCE = 0.95
RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean over images with its 95 % bootstrap confidence interval; the bounds are NaN for a single image."""

    value: float
    low: float
    high: float


def interval(values: Tensor, units: Tensor | None = None, seed: int = 0) -> Interval:
    """Mean of `values` `(N,)`, divided by the mean of `units` `(N,)`, with a percentile bootstrap over images.

    Images whose value is NaN are left out; if none remain, the result is NaN.

    Example:
        >>> interval(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([2.0, 2.0, 2.0]))
        Interval(value=0.5, low=0.5, high=0.5)
    """
    kept = values.isfinite()
    numbers = values[kept].double().cpu().numpy()
    scale = np.ones_like(numbers) if units is None else units[kept].double().cpu().numpy()
    if len(numbers) < 2:
        return Interval(float(numbers[0] / scale[0]) if len(numbers) else math.nan, math.nan, math.nan)
    if np.ptp(numbers) == np.ptp(scale) == 0:
        return Interval(*[float(numbers[0] / scale[0])] * 3)
    bounds = stats.bootstrap(
        (numbers, scale),
        lambda a, b, axis: a.mean(axis) / b.mean(axis),
        paired=True,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(numbers.mean() / scale.mean()), float(bounds.low), float(bounds.high))


def rank_correlation(one: Tensor, other: Tensor) -> Tensor:
    """Spearman's correlation of the pixels of two heatmaps `(N, H, W)`, `(N,)`; NaN where one of them is constant."""
    ranks = [stats.rankdata(heatmaps.flatten(1).cpu().numpy(), axis=1) for heatmaps in (one, other)]
    centred = [rank - rank.mean(1, keepdims=True) for rank in ranks]
    covariance = (centred[0] * centred[1]).sum(1)
    spread = np.sqrt((centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1))
    with np.errstate(invalid="ignore"):
        return torch.from_numpy(covariance / spread)
