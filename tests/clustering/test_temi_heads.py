import math

import numpy as np
import pytest
import torch
from scipy.special import softmax

from whycluster.clustering.temi_heads import (
    TemiHeads,
    TemiSettings,
    cosine_spread,
    epoch_pairs,
    n_steps,
    pair_weights,
    pointwise_information,
    start_rows,
    temi_loss,
    warm_starts,
)
from whycluster.errors import UserError

H, B, K, D = 3, 7, 4, 5


def probabilities(seed, *shape):
    return softmax(np.random.RandomState(seed).randn(*shape) * 2, -1)


def unit(rows):
    return torch.nn.functional.normalize(torch.randn(rows, D))


def restated(student, student_near, teacher, teacher_near, marginal, beta):
    """The loss, written out term by term."""
    losses = np.zeros(H)
    for head in range(H):
        for row in range(B):
            weight = np.mean([teacher[h, row] @ teacher_near[h, row] for h in range(H)])
            there = sum(
                (student[head, row, c] * teacher_near[head, row, c]) ** beta / marginal[head, c] for c in range(K)
            )
            back = sum(
                (student_near[head, row, c] * teacher[head, row, c]) ** beta / marginal[head, c] for c in range(K)
            )
            losses[head] -= weight * (math.log(there) + math.log(back)) / 2 / B
    return losses


@pytest.mark.parametrize("beta", [0.5, 0.6, 1.0])
def test_the_loss_is_that_of_the_formula(beta):
    p, p_near, q, q_near = (probabilities(seed, H, B, K) for seed in range(4))
    marginal = probabilities(4, H, K)
    logs = [torch.from_numpy(np.log(each)) for each in (p, p_near, q, q_near, marginal)]
    ours = temi_loss(torch.cat(logs[:2], 1), torch.cat(logs[2:4], 1), logs[4], beta)
    np.testing.assert_allclose(ours, restated(p, p_near, q, q_near, marginal, beta), rtol=1e-12)


def test_information_of_sure_and_equal_clusters_is_log_of_their_number():
    log = torch.log_softmax(1e4 * torch.eye(K, dtype=torch.float64), -1)[None]  # (1, K, K), one-hot
    even = torch.full((1, K), -math.log(K), dtype=torch.float64)
    torch.testing.assert_close(pointwise_information(log, log, even, 1.0), torch.full((1, K), math.log(K)).double())
    assert pair_weights(log, log).tolist() == [1] * K
    assert pair_weights(log, log.roll(1, -1)).tolist() == [0] * K


def test_a_step_is_that_of_adam_on_the_loss_and_teachers_follow():
    settings = TemiSettings(temperature=0.6, exponent=0.7, momentum=0.8, learning_rate=0.05, epochs=2)
    random = np.random.RandomState(0)
    starts, batches = random.randn(H, K, D), random.randn(6, 2, B, D)
    batches /= np.linalg.norm(batches, axis=-1, keepdims=True)
    heads = TemiHeads(torch.from_numpy(starts), settings, spread=0.5)
    optimizer = heads.optimizer()
    student = torch.tensor(starts / np.linalg.norm(starts, axis=-1, keepdims=True), requires_grad=True)
    teacher, marginal, seen = student.detach().clone(), torch.full((H, K), 1 / K).double(), []
    theirs = torch.optim.Adam([student])
    for step, (x, near) in enumerate(torch.from_numpy(batches)):

        def log_probabilities(prototypes, rows):
            similar = torch.nn.functional.cosine_similarity(prototypes[:, None], rows[None, :, None], dim=-1)
            return (similar / 0.3).log_softmax(-1)

        both = torch.cat((x, near))
        q = log_probabilities(teacher, both)
        marginal = 0.9 * marginal + 0.1 * q.exp().mean(1)
        losses = temi_loss(log_probabilities(student, both), q, marginal.log(), 0.7)
        theirs.param_groups[0]["lr"] = 0.025 * (1 + math.cos(math.pi * step / 6))
        theirs.zero_grad()
        losses.sum().backward()
        theirs.step()
        teacher = 0.8 * teacher + 0.2 * student.detach()
        seen.append(losses.detach())
        ours = heads.learn(x.float(), near.float(), optimizer, 3)
        torch.testing.assert_close(ours.double(), losses.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(heads.student.double(), student, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(heads.teacher.double(), teacher, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(heads.marginal.double(), marginal, rtol=1e-3, atol=1e-4)
    mean = sum(seen[:3]) / 3
    for losses in seen[3:]:
        mean = mean + (losses - mean) / 3
    torch.testing.assert_close(heads.loss.double(), mean, rtol=1e-3, atol=1e-4)
    best = teacher[mean.argmin()]
    torch.testing.assert_close(heads.prototypes, best / best.norm(dim=-1, keepdim=True), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_length_of_starts_does_not_count(scale):
    z, near, starts = unit(B), unit(B), torch.randn(H, K, D)
    first, second = (TemiHeads(starts * factor, TemiSettings(), 0.2) for factor in (1.0, scale))
    losses = [heads.learn(z, near, heads.optimizer(), 1) for heads in (first, second)]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(first.student, second.student, rtol=1e-3, atol=1e-5)


def test_rows_of_zeros_and_a_tiny_temperature_leave_numbers_finite():
    z = unit(B)
    z[2] = 0
    heads = TemiHeads(torch.randn(H, K, D), TemiSettings(), spread=1e-4)
    optimizer = heads.optimizer()
    for _ in range(3):
        assert heads.learn(z, z.flip(0), optimizer, 1).isfinite().all()
    assert heads.student.isfinite().all()


def test_an_epoch_draws_each_row_once_with_one_of_its_neighbours():
    neighbours = np.random.default_rng(0).permuted(np.tile(np.arange(100, 130), (50, 1)), axis=1)[:, :6]
    pairs = epoch_pairs(neighbours, 3, seed=5, epoch=2)
    assert [part.shape for part in pairs] == [(2, 17), (2, 17), (2, 16)]
    rows, near = np.concatenate(pairs, axis=1)
    assert sorted(rows) == list(range(50))
    assert rows.tolist() != sorted(rows)
    assert all(partner in neighbours[row] for row, partner in zip(rows, near, strict=True))
    assert len({neighbours[row].tolist().index(partner) for row, partner in zip(rows, near, strict=True)}) == 6
    np.testing.assert_array_equal(np.concatenate(epoch_pairs(neighbours, 1, 5, 2), axis=1)[0], rows)
    for seed, epoch in ((5, 3), (6, 2)):
        assert np.concatenate(epoch_pairs(neighbours, 3, seed, epoch), axis=1)[0].tolist() != rows.tolist()


def test_starts_are_the_best_of_several_k_means():
    z = torch.nn.functional.normalize(torch.randn(200, 3)).numpy()
    settings = TemiSettings(n_init=12, n_heads=3)
    starts = warm_starts(z, 9, settings, 1)
    assert starts.shape == (3, 9, 3)

    def inertia(centroids):
        return ((z[:, None] - centroids.numpy()) ** 2).sum(-1).min(1).sum()

    every = sorted(inertia(centroids) for centroids in warm_starts(z, 9, TemiSettings(n_init=12, n_heads=12), 1))
    np.testing.assert_allclose([inertia(centroids) for centroids in starts], every[:3], rtol=1e-5)
    assert every[0] < every[-1]
    assert torch.equal(warm_starts(z, 9, settings, 1), starts)
    assert not torch.equal(warm_starts(z, 9, settings, 2), starts)


@pytest.mark.parametrize("n_rows", [2, 50, 4500])
def test_the_spread_is_that_of_cosines_between_different_rows(n_rows):
    z = torch.nn.functional.normalize(torch.randn(n_rows, 3) + 0.5)
    some = z.double().numpy()[:: {2: 1, 50: 1, 4500: 3}[n_rows]]
    cosines = (some @ some.T)[np.tril_indices(len(some), -1)]
    assert cosine_spread(z) == pytest.approx(max(np.std(cosines), 1e-4), rel=1e-9)


def test_many_rows_are_sampled_for_the_starts():
    assert start_rows(7, 4, 3, 0).tolist() == list(range(7))
    some = start_rows(30_000, 4, 3, 0)
    assert len(set(some.tolist())) == 10_000
    assert (np.diff(some) > 0).all()
    assert some[-1] > 29_000
    assert len(start_rows(30_000, 4, 2_000, 0)) == 20_000


def test_steps_have_about_as_many_rows_as_they_should():
    assert [n_steps(rows) for rows in (2, 512, 2303, 2305, 100_000)] == [2, 4, 4, 5, 195]


@pytest.mark.parametrize(
    ("name", "value", "rest"),
    [
        ("n_heads", 0, "a whole number >= 1."),
        ("n_init", 0, "a whole number >= 1."),
        ("n_heads", 33, "<= head.n_init=32, as each head begins from a restart of k-means of its own."),
        ("n_neighbours", 2.5, "a whole number >= 1."),
        ("epochs", True, "a whole number >= 1."),
        ("temperature", 0, "a number > 0."),
        ("temperature", math.inf, "a number > 0."),
        ("temperature", "cold", "a number > 0."),
        ("learning_rate", math.nan, "a number > 0."),
        ("exponent", 0.0, "a number > 0 and <= 1."),
        ("exponent", 1.1, "a number > 0 and <= 1."),
        ("momentum", 1, "a number > 0 and < 1."),
        ("momentum", None, "a number > 0 and < 1."),
    ],
)
def test_settings_that_make_no_sense(name, value, rest):
    with pytest.raises(UserError) as raised:
        TemiSettings(**{name: value}).check("head.")
    assert str(raised.value) == f"head.{name}={value!r} should be {rest}"


def test_limits_of_settings():
    TemiSettings(exponent=1, momentum=np.float32(0.5), n_init=np.int64(32)).check()
