import math

import numpy as np
import pytest
import torch
from scipy import stats

from whycluster.evaluation.statistics import interval, rank_correlation


def test_a_mean_and_its_interval():
    values = torch.from_numpy(np.random.default_rng(0).normal(3, 1, 400))
    value, low, high = interval(values)
    assert value == pytest.approx(float(values.mean()))
    half = 1.96 * float(values.std()) / 20
    assert low == pytest.approx(value - half, abs=0.03)
    assert high == pytest.approx(value + half, abs=0.03)
    assert interval(values) == (value, low, high)


def test_a_ratio_of_means():
    units = torch.from_numpy(np.random.default_rng(0).uniform(1, 9, 50))
    value, low, high = interval(0.25 * units, units)
    assert (value, low, high) == pytest.approx((0.25, 0.25, 0.25))


def test_intervals_cover_the_truth_as_often_as_they_say():
    random = np.random.default_rng(1)
    samples = [interval(torch.from_numpy(random.exponential(size=60))) for _ in range(150)]
    assert 0.85 < np.mean([low <= 1 <= high for _, low, high in samples]) <= 1


def test_what_is_no_number_is_left_out():
    assert interval(torch.tensor([1.0, math.nan, 1.0])).value == 1
    assert math.isnan(interval(torch.tensor([math.nan])).value)
    assert interval(torch.tensor([math.nan, 1.0, 2.0]), torch.tensor([100.0, 2.0, 4.0])).value == 0.5


def test_a_single_image_has_no_interval():
    value, low, high = interval(torch.tensor([2.0]), torch.tensor([4.0]))
    assert value == 0.5
    assert math.isnan(low)
    assert math.isnan(high)


def test_rank_correlation_is_spearmans():
    one = torch.randn(3, 4, 5).round(decimals=1)  # with ties
    other = one + torch.randn(3, 4, 5).round(decimals=1)
    for n, correlation in enumerate(rank_correlation(one, other)):
        expected = stats.spearmanr(one[n].flatten(), other[n].flatten()).statistic
        assert float(correlation) == pytest.approx(expected)
    assert rank_correlation(torch.zeros(1, 2, 2), one[:1, :2, :2]).isnan().all()
