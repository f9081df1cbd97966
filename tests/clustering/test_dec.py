from dataclasses import replace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from whycluster.clustering.dec import (
    PATIENCE,
    DecSettings,
    DeepEmbeddedClustering,
    divergence,
    log_soft_assignment,
    squared_distances,
    target_distribution,
)
from whycluster.clustering.features import FeatureStore
from whycluster.data.augmentation import RowBatch
from whycluster.runs.trainers import checkpointing


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


def test_gradients_are_equations_4_and_5():
    alpha, z, centroids = 3.0, random(8, 5).requires_grad_(), (2 * random(3, 5)).requires_grad_()
    log_q = log_soft_assignment(squared_distances(z, centroids), alpha)
    p = target_distribution(log_q.exp(), log_q.exp().sum(0)).detach()
    divergence(p, log_q).sum().backward()
    with torch.no_grad():
        difference = z[:, None] - centroids[None]  # (N, K, D)
        pull = (alpha + 1) / alpha * (p - log_q.exp()) / (1 + difference.square().sum(2) / alpha)
        torch.testing.assert_close(z.grad, (pull[..., None] * difference).sum(1))
        torch.testing.assert_close(centroids.grad, -(pull[..., None] * difference).sum(0))


class StoppedError(RuntimeError):
    pass


class StopsAfter(pl.Callback):
    """Stops a fit when an epoch begins, as a kill would."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == self.epochs:
            raise StoppedError


SETTINGS = DecSettings(1.0, 0.5, 4.0, 0.5, 1e-2, 1e-2, batch_size=16, tol=0.0, seed=0)


@pytest.fixture
def points(tmp_path):
    """Two groups of points on a plane that overlap, as inputs and as features."""
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 4))).float()
    x[:25, 0] += 2
    return x, FeatureStore.write(tmp_path / "features.npy", [x], 50, 4)


def module(points, settings=SETTINGS, num_workers=0):
    x, store = points
    embed = torch.nn.Linear(4, 4)
    with torch.no_grad():
        embed.weight.copy_(torch.eye(4))
        embed.bias.zero_()

    def augmented(rows, epoch):
        noise = np.random.default_rng((epoch, *rows)).normal(0, 0.1, (len(rows), 4))
        return x[rows] + torch.from_numpy(noise).float()

    return DeepEmbeddedClustering(embed, lambda rows, _: x[rows], augmented, store, x[[0, 40]], settings, num_workers)


def fit(learned, tmp_path, epochs, *callbacks):
    kept = checkpointing(tmp_path / "fit.ckpt")
    kept["callbacks"] += callbacks
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False}
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, **quiet, **kept)
    trainer.fit(learned, ckpt_path=tmp_path / "fit.ckpt" if (tmp_path / "fit.ckpt").exists() else None)
    return learned


def learned_values(learned):
    return [*learned.embed.parameters(), learned.centroids, learned.q]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_fit_that_was_stopped_ends_as_an_undisturbed_one(points, tmp_path, num_workers):
    expected = fit(module(points, replace(SETTINGS, tol=-1.0)), tmp_path / "whole", 4)
    with pytest.raises(StoppedError):
        fit(module(points, replace(SETTINGS, tol=-1.0), num_workers), tmp_path, 4, StopsAfter(2))
    resumed = fit(module(points, replace(SETTINGS, tol=-1.0), num_workers), tmp_path, 4)
    for one, other in zip(learned_values(expected), learned_values(resumed), strict=True):
        assert torch.equal(one, other)
    assert (resumed.n_iter, resumed.changed) == (expected.n_iter, expected.changed)
    again = fit(module(points, replace(SETTINGS, tol=-1.0)), tmp_path, 4)  # nothing is left to do
    assert torch.equal(again.centroids, expected.centroids)
    assert not torch.equal(expected.embed.weight, torch.eye(4))


def test_a_checkpoint_holds_what_is_learned_alone(points, tmp_path):
    learned = module(points)
    learned.embed.bias.requires_grad_(False)
    fit(learned, tmp_path, 1)
    checkpoint = torch.load(tmp_path / "fit.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) == {"moved", "embed.weight"}


def test_soft_assignments_are_those_of_the_last_weights(points, tmp_path):
    learned = fit(module(points), tmp_path, 2)
    with torch.no_grad():
        z = learned.embed(points[0]).double()
        squared = ((z[:, None] - learned.centroids.double()[None]) ** 2).sum(2) / 0.5 * 4
        expected = 1 / (1 + squared)  # alpha is 1
    torch.testing.assert_close(learned.q.double(), expected / expected.sum(1, keepdim=True), rtol=1e-4, atol=1e-5)
    assert learned.clusters.tolist() == squared.argmin(1).tolist()


def test_the_first_loss_is_that_of_the_formulas(points, tmp_path):
    x, _ = points
    learned = module(points, replace(SETTINGS, batch_size=50))
    learned.augmented = lambda rows, _: x[rows] + 1  # so that the anchor counts, too
    fit(learned, tmp_path, 1)

    def q(z):
        kernel = 1 / (1 + ((z[:, None] - x.double()[[0, 40]][None]) ** 2).sum(2) / 0.5 * 4)
        return kernel / kernel.sum(1, keepdim=True)

    of_clean, of_augmented = q(x.double()), q(x.double() + 1)
    p = of_clean**2 / of_clean.sum(0)
    p /= p.sum(1, keepdim=True)
    expected = (p * (p / of_augmented).log()).sum(1) + 0.5 * 4 / 0.5  # each of 4 features has moved by 1
    assert float(learned.loss) / 50 == pytest.approx(float(expected.mean()), rel=1e-5)


def test_a_fit_ends_when_clusters_stay(points, tmp_path):
    learned = fit(module(points, replace(SETTINGS, tol=1.0)), tmp_path, 50)
    assert learned.n_iter == PATIENCE
    assert fit(module(points, replace(SETTINGS, tol=1.0)), tmp_path, 50).n_iter == PATIENCE


def test_a_loss_that_is_not_finite_names_the_learning_rate(points, tmp_path):
    learned = module(points, replace(SETTINGS, learning_rate=1e30))
    with pytest.raises(ValueError, match=r"not finite in epoch \d; lower head.learning_rate=1e\+30"):
        fit(learned, tmp_path, 5)


@pytest.mark.parametrize(
    "limit", [{"limit_val_batches": 1}, {"limit_val_batches": 0}, {"limit_train_batches": 1}, {"max_steps": 2}]
)
def test_images_that_are_left_out_are_noticed(points, tmp_path, limit):
    learned = module(points)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    with pytest.raises(ValueError, match="left out images"):
        pl.Trainer(max_epochs=1, **limit, **quiet, **checkpointing(tmp_path / "fit.ckpt")).fit(learned)


def test_row_numbers_stay_where_the_soft_assignments_are(points):
    batch = RowBatch(torch.arange(3), torch.rand(3, 4), 3)
    moved = module(points).transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert (moved.rows.device.type, moved.inputs.device.type) == ("cpu", "meta")
