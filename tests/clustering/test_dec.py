import numpy as np
import pytest
import torch

from whycluster.clustering.dec import (
    divergence,
    log_soft_assignment,
    squared_distances,
    target_distribution,
)


def random(*shape):
    return torch.from_numpy(np.random.default_rng(0).normal(size=shape))


def test_squared_distances_do_not_cancel_far_from_zero():
    x, centroids = random(20, 5).float() + 1000, random(3, 5).float() + 1000
    expected = ((x.double()[:, None] - centroids.double()[None]) ** 2).sum(2)
    torch.testing.assert_close(squared_distances(x, centroids).double(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("alpha", [1.0, 7.5])
def test_soft_assignment_is_equation_1(alpha):
    squared = random(6, 4).square()
    kernel = np.empty((6, 4))
    for i in range(6):
        for j in range(4):
            kernel[i, j] = (1 + float(squared[i, j]) / alpha) ** (-(alpha + 1) / 2)
    expected = kernel / kernel.sum(1, keepdims=True)
    np.testing.assert_allclose(log_soft_assignment(squared, alpha).exp().numpy(), expected, rtol=1e-12)


def test_target_is_equation_3():
    q = random(6, 4).softmax(1)
    frequencies = q.sum(0)
    expected = np.empty((6, 4))
    for i in range(6):
        shares = [float(q[i, j]) ** 2 / sum(float(q[row, j]) for row in range(6)) for j in range(4)]
        expected[i] = [share / sum(shares) for share in shares]
    np.testing.assert_allclose(target_distribution(q, frequencies).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(target_distribution(q[2:4], frequencies).numpy(), expected[2:4], rtol=1e-12)


def test_target_of_a_cluster_that_nobody_is_in_is_finite():
    q = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert target_distribution(q, q.sum(0)).tolist() == q.tolist()


def test_divergence_is_equation_2():
    p, q = random(6, 4).softmax(1), random(6, 4).flip(0).softmax(1)
    expected = [
        sum(float(a) * np.log(float(a) / float(b)) for a, b in zip(*rows, strict=True))
        for rows in zip(p, q, strict=True)
    ]
    np.testing.assert_allclose(divergence(p, q.log()).numpy(), expected, rtol=1e-12)
    assert divergence(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]).log()).item() == pytest.approx(np.log(2))
