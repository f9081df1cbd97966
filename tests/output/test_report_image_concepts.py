import numpy as np
import pytest

from whycluster.output.report.image_concepts import concepts_of_images, departures, strongest_of_each


def test_the_strongest_channels_and_their_shares_of_positive_relevance():
    relevance = np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32)
    channels, shares = strongest_of_each(relevance)
    for row, own in enumerate(relevance.astype(np.float64)):
        expected = sorted(range(20), key=lambda channel: -own[channel])[:3]
        assert channels[row].tolist() == expected
        assert shares[row] == pytest.approx([own[channel] / own[own > 0].sum() for channel in expected])


def test_what_speaks_against_or_is_not_there_has_no_share():
    channels, shares = strongest_of_each(np.array([[-1.0, 2.0], [-1.0, -2.0]]))
    assert channels.tolist() == [[1, 0], [0, 1]]
    assert shares.tolist() == [[1, 0], [0, 0]]


def test_rows_are_read_in_the_order_asked_for(monkeypatch):
    monkeypatch.setattr("whycluster.output.report.image_concepts.ROWS", 2)
    relevance = np.eye(5, dtype=np.float32) + np.eye(5, k=1, dtype=np.float32) / 2
    channels, shares = concepts_of_images(relevance, np.array([3, 0, 2]))
    assert [own[:2] for own in channels] == [[3, 4], [0, 1], [2, 3]]
    assert shares[0] == [0.667, 0.333, 0]


def test_departures_are_the_largest_differences_of_directions():
    cluster = np.array([[2.0, 2.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [30.0, 30.0, 0.0, 0.0]])
    [[first, second]] = departures(np.array([[3.0, 0.0, 0.0, -4.0]]), cluster, most=2)
    assert (first.channel, first.image, first.cluster) == pytest.approx((3, -0.8, 0.0))
    assert (second.channel, second.image, second.cluster) == pytest.approx((1, 0.0, 0.5**0.5))
