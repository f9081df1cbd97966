import subprocess
import sys
import warnings

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn.cluster import KMeans as ScikitKMeans
from sklearn.datasets import load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning

from whycluster.clustering import features, kmeans
from whycluster.clustering.features import FeatureStore
from whycluster.clustering.kmeans import KMeans
from whycluster.clustering.lloyd import starts
from whycluster.runs.trainers import checkpointing


def stored(path, x):
    return FeatureStore.write(path / "features.npy", [torch.from_numpy(np.asarray(x, np.float32))], *x.shape)


def starting(x, n_clusters, seed):
    """The start of a single restart."""
    origin = np.median(x, axis=0)
    return (starts(x - origin, n_clusters, 1, seed)[0].double() + torch.from_numpy(origin)).numpy()


def fitted(store, epochs=None, checkpoint=None, **settings):
    module = KMeans(store, **settings)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs or module.max_iter + 1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **(checkpointing(checkpoint) if checkpoint else {"enable_checkpointing": False}),
    )
    trainer.fit(module, ckpt_path=checkpoint if checkpoint and checkpoint.exists() else None)
    return module


@pytest.mark.parametrize("load", [load_digits, load_wine])
@pytest.mark.parametrize("batch_rows", [50, 100_000])
def test_each_restart_takes_the_way_of_scikit_learn(tmp_path, monkeypatch, load, batch_rows):
    x = load().data.astype(np.float32)
    monkeypatch.setattr(features, "BATCH_BYTES", 4 * x.shape[1] * batch_rows)
    ours = fitted(stored(tmp_path, x), n_clusters=8, n_init=3, tol=0, seed=4)
    origin = np.median(x, axis=0)
    centred = x - origin
    theirs = [
        ScikitKMeans(8, init=start.numpy(), n_init=1, algorithm="lloyd", tol=0, max_iter=300).fit(centred)
        for start in starts(centred, 8, 3, 4)
    ]
    np.testing.assert_allclose(ours.measured, [each.inertia_ for each in theirs], rtol=1e-5)
    best = min(theirs, key=lambda each: each.inertia_)
    np.testing.assert_allclose(ours.centroids, best.cluster_centers_ + origin, atol=1e-3 * x.std())
    assert ours.inertia == ours.measured.min()


@pytest.mark.parametrize("epochs", [1, 4, 9, 300])
def test_a_fit_goes_on_from_a_checkpoint_bit_for_bit(tmp_path, monkeypatch, epochs):
    store = stored(tmp_path, load_digits().data.astype(np.float32))
    settings = {"n_clusters": 10, "n_init": 4, "tol": 1e-3, "seed": 1}
    whole = fitted(store, **settings)
    assert not whole.active.tolist()
    checkpoint = tmp_path / "lloyd.ckpt"
    half = fitted(store, epochs, checkpoint, **settings)
    assert checkpoint.exists()
    assert half.trainer.current_epoch == min(epochs, whole.trainer.current_epoch)
    monkeypatch.setattr(kmeans, "starts", None)  # nothing is drawn again
    again = fitted(store, None, checkpoint, **settings)
    assert again.trainer.current_epoch == whole.trainer.current_epoch > 9
    assert torch.equal(again.centroids, whole.centroids)
    assert torch.equal(again.measured, whole.measured)
    assert torch.equal(again.iterations, whole.iterations)


def test_inertia_is_that_of_the_final_centroids(tmp_path):
    x = load_digits().data.astype(np.float32)
    ours = fitted(stored(tmp_path, x), n_clusters=10, n_init=2, max_iter=3)
    squared = torch.cdist(torch.from_numpy(x).double(), ours.centroids).square().min(1).values
    assert ours.n_iter == 3
    assert ours.inertia == pytest.approx(squared.sum().item(), rel=1e-5)


def test_far_from_the_origin_nothing_cancels(tmp_path):
    random = np.random.RandomState(0)
    x = (random.randn(300, 4) * 0.05 + random.randint(0, 3, (300, 1)) + 2000).astype(np.float32)
    ours = fitted(stored(tmp_path, x), n_clusters=3, n_init=4)
    theirs = ScikitKMeans(3, n_init=4, random_state=0).fit(x.astype(np.float64))
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-3)


def test_empty_clusters_are_filled(tmp_path, monkeypatch):
    x = np.repeat(np.array([[0.0], [1.0], [50.0], [51.0]], np.float32), 5, 0)
    start = torch.tensor([0.5, 50.5, -900.0, -901.0])[None, :, None]  # two centroids where nothing is
    monkeypatch.setattr(kmeans, "starts", lambda *_: start - np.median(x))
    ours = fitted(stored(tmp_path, x), n_clusters=4, n_init=1)
    assert sorted(ours.centroids[:, 0].tolist()) == pytest.approx([0, 1, 50, 51])
    assert ours.inertia == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("scale", [0.01, 1, 100])
def test_the_tolerance_is_relative_to_the_variance(tmp_path, scale):
    x = load_digits().data.astype(np.float32) * scale
    rough, fine = (fitted(stored(tmp_path, x), n_clusters=10, n_init=1, tol=tol, seed=1) for tol in (1e-2, 0.0))
    theirs = ScikitKMeans(10, init=starting(x, 10, 1), n_init=1, algorithm="lloyd", tol=1e-2).fit(x)
    assert rough.n_iter == theirs.n_iter_ < fine.n_iter
    assert rough.threshold == pytest.approx(1e-2 * x.var(0, dtype=np.float64).mean(), rel=1e-6)


def test_fewer_distinct_rows_than_clusters_are_said(tmp_path):
    x = np.repeat(np.array([[0.0, 1.0], [5.0, 2.0], [9.0, 9.0]], np.float32), 4, 0)
    with pytest.warns(ConvergenceWarning, match=r"\(3\) found smaller than n_clusters \(5\)"):
        assert fitted(stored(tmp_path, x), n_clusters=5).inertia == pytest.approx(0, abs=1e-9)
    with warnings.catch_warnings(action="error", category=ConvergenceWarning):
        fitted(stored(tmp_path, x), n_clusters=3)


def test_as_many_clusters_as_rows(tmp_path):
    x = np.arange(6, dtype=np.float32)[:, None]
    assert fitted(stored(tmp_path, x), n_clusters=6).inertia == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_fewer_rows_in_a_process_than_clusters(tmp_path):
    # Of five rows, two of them twice there, two processes see two and three: not enough to fill four clusters alone.
    stored(tmp_path, np.array([[0.0], [0.0], [1.0], [1.0], [9.0]], np.float32))
    (tmp_path / "fit.py").write_text(TWO_PROCESSES)
    subprocess.run([sys.executable, "fit.py", str(tmp_path), "2", "4"], cwd=tmp_path, check=True, timeout=120)
    assert np.isfinite(np.load(tmp_path / "centroids_2_0.npy")).all()


def test_equal_rows_do_not_hang(tmp_path):
    assert fitted(stored(tmp_path, np.ones((9, 3), np.float32)), n_clusters=3).inertia == pytest.approx(0, abs=1e-9)


def test_same_seed_same_centroids(tmp_path):
    store = stored(tmp_path, load_wine().data.astype(np.float32))
    first, second = (fitted(store, n_clusters=5, n_init=2, seed=3).centroids for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_clusters": 1}, "head.n_clusters=1 should be a whole number >= 2"),
        ({"n_clusters": 10}, "head.n_clusters=10 should be <= the number of images, 9"),
        ({"n_clusters": 2, "n_init": 0}, "head.n_init=0"),
        ({"n_clusters": 2, "max_iter": 0}, "head.max_iter=0"),
        ({"n_clusters": 2, "tol": -1.0}, "head.tol=-1.0"),
    ],
)
def test_impossible_settings_are_named(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        KMeans(stored(tmp_path, np.ones((9, 3), np.float32)), **settings)


def test_features_that_are_not_finite_are_an_error(tmp_path):
    x = np.ones((9, 3), np.float32)
    x[4, 1] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        KMeans(stored(tmp_path, x), n_clusters=2)


TWO_PROCESSES = """
import sys
from pathlib import Path
import pytorch_lightning as pl
from whycluster.clustering import features
from whycluster.clustering.features import FeatureStore
from whycluster.clustering.kmeans import KMeans
import numpy as np

if __name__ == "__main__":
    features.BATCH_BYTES = 4 * 64 * 100
    folder, devices = Path(sys.argv[1]), int(sys.argv[2])
    kmeans = KMeans(FeatureStore(folder / "features.npy"), n_clusters=int(sys.argv[3]), n_init=3, seed=1)
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=301, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, use_distributed_sampler=False,
    )
    trainer.fit(kmeans)
    np.save(folder / f"centroids_{devices}_{trainer.global_rank}.npy", kmeans.centroids)
"""


# With 150, some clusters run empty on the way and are re-seeded.
@pytest.mark.parametrize("n_clusters", [10, pytest.param(150, marks=pytest.mark.slow)])
def test_two_processes_find_the_centroids_of_one(tmp_path, n_clusters):
    x = load_digits().data.astype(np.float32)[:901]  # does not divide by two
    stored(tmp_path, x if n_clusters == 10 else np.round(x[:, :3] / 6).repeat(3, 1))
    (tmp_path / "fit.py").write_text(TWO_PROCESSES.replace("* 64 *", f"* {64 if n_clusters == 10 else 9} *"))
    for devices in (1, 2):
        command = [sys.executable, "fit.py", str(tmp_path), str(devices), str(n_clusters)]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    one, first, second = (np.load(tmp_path / f"centroids_{name}.npy") for name in ("1_0", "2_0", "2_1"))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, one)


def test_spherical_k_means_restated(tmp_path):
    x = load_digits().data.astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    ours = fitted(stored(tmp_path, x), n_clusters=8, n_init=1, tol=0, seed=4, spherical=True)
    centroids = starting(x, 8, 4)
    for _ in range(300):
        nearest = ((x[:, None].astype(np.float64) - centroids) ** 2).sum(2).argmin(1)
        sums = np.stack([x[nearest == cluster].sum(0, dtype=np.float64) for cluster in range(8)])
        before, centroids = centroids, sums / np.linalg.norm(sums, axis=1, keepdims=True)
        if np.allclose(before, centroids, rtol=0, atol=1e-14):
            break
    np.testing.assert_allclose(ours.centroids, centroids, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.centroids.norm(dim=1), 1, rtol=1e-12)
    assert (nearest == (x @ centroids.T).argmax(1)).mean() > 0.999  # the nearest is that of the largest cosine
    np.testing.assert_allclose(ours.inertia, ((x - centroids[nearest]) ** 2).sum(), rtol=1e-6)
