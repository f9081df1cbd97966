import math

import pytest
import torch
from torch import Tensor

from whycluster.heads.pooling import Pooled, discriminants, logits, quotients, take_most

INF = math.inf


def distances(n: int = 30, k: int = 6) -> Tensor:
    return torch.rand(n, k, dtype=torch.float64) * 9


def test_discriminants_of_equal_distances() -> None:
    assert discriminants(-torch.tensor([[2.0, 2.0, 5.0], [1.0, 2.0, 2.0]])).tolist() == [[0, 0, -3], [1, -1, -1]]


def test_discriminants_leave_the_scores_as_they_are() -> None:
    scores = -distances()
    before = scores.clone()
    discriminants(scores)
    assert torch.equal(scores, before)


def test_take_most() -> None:
    h = torch.tensor([[1.0, 3.0, INF], [INF, -2.0, 5.0]], dtype=torch.float64)
    f, p = take_most(h, 0.5)
    assert f.tolist() == [[1.0], [-2.0]]
    share = 1 / (1 + math.exp(-0.5 * 2))
    torch.testing.assert_close(p[0], torch.tensor([share, 1 - share, 0], dtype=torch.float64))
    assert take_most(h, 0)[1].tolist() == [[0.5, 0.5, 0], [0, 0.5, 0.5]]
    assert take_most(h, INF)[1].tolist() == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("beta", [0, 0.3, 7, INF])
def test_quotients_times_h_are_the_minimum(beta: float) -> None:
    h = torch.randn(200, 6, dtype=torch.float64)
    h[:20, 1] = torch.linspace(-1e-3, 1e-3, 20)
    h[0, 1] = 0
    h[:, 5] = INF
    pooled = take_most(h, beta)
    q = quotients(pooled, h)
    assert q.isfinite().all()
    torch.testing.assert_close((q * h.masked_fill(h == INF, 0)).sum(1), h.amin(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(pooled.weights.sum(1), torch.ones(200, dtype=torch.float64))


def test_quotients_of_clusters_at_one_place() -> None:
    h = torch.tensor([[0.0, 0.0, 4.0]])
    assert quotients(take_most(h, 0), h).tolist() == [[pytest.approx(1 / 3), pytest.approx(1 / 3), 0]]
    assert quotients(Pooled(h[:, :1], torch.tensor([[0.0, 0.0, 1.0]])), h).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("stiffness", [0.0, 1e-9, 0.1, 1.0, 30.0])
def test_logits_are_soft_minima_of_the_same_h(stiffness: float) -> None:
    d = distances()
    for c in range(6):
        h = torch.stack([d[:, k] - d[:, c] for k in range(6) if k != c], 1)
        expected = -torch.logsumexp(-stiffness * h, 1)
        torch.testing.assert_close(logits(-d, stiffness)[:, c], expected, rtol=1e-10, atol=1e-10)


def test_logits_are_those_of_the_probability() -> None:
    d = distances()
    torch.testing.assert_close(logits(-d, 0.4).sigmoid(), (-0.4 * d).softmax(1))
    far = torch.tensor([[0.0, 900.0, 900.0]], dtype=torch.float64)  # where 1 - P is not even a subnormal number
    torch.testing.assert_close(logits(-far, 1.0)[0, 0], torch.tensor(900 - math.log(2), dtype=torch.float64))


def test_logits_approach_the_discriminants() -> None:
    d = distances()
    errors = [float((logits(-d, s) / s - discriminants(-d)).abs().max()) for s in (1.0, 10.0, 100.0, 1e6)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1
    assert errors[-1] < 1e-5
