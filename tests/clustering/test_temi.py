import subprocess
import sys

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits, make_blobs

from whycluster.clustering.features import FeatureStore
from whycluster.clustering.temi import Temi
from whycluster.clustering.temi_heads import TemiSettings
from whycluster.errors import UserError
from whycluster.runs.trainers import checkpointing

X = load_digits().data.astype(np.float32)[:600]
SETTINGS = TemiSettings(n_init=3, n_heads=2, n_neighbours=5, epochs=6, learning_rate=0.01)


def stored(folder, x=X):
    return FeatureStore.write(folder / "features.npy", [torch.from_numpy(x)], *x.shape)


def fitted(store, epochs=None, checkpoint=None, settings=SETTINGS, **trainer):
    module = Temi(store, 10, torch.from_numpy(store.open().mean(0, dtype=np.float64) / 2), settings, seed=1)
    kept = checkpointing(checkpoint) if checkpoint else {"enable_checkpointing": False}
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs or settings.epochs,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **{"logger": False, **trainer},
        **kept,
    )
    trainer.fit(module, ckpt_path=checkpoint if checkpoint and checkpoint.exists() else None)
    return module


@pytest.mark.parametrize("epochs", [1, 4, 6])
def test_a_fit_goes_on_from_a_checkpoint_bit_for_bit(tmp_path, monkeypatch, epochs):
    monkeypatch.setattr("whycluster.clustering.temi_heads.LEAST_STEPS", 3)
    store = stored(tmp_path)
    whole = fitted(store)
    half = fitted(store, epochs, tmp_path / "temi.ckpt")
    assert half.heads.step == 3 * epochs
    monkeypatch.setattr("whycluster.clustering.temi.warm_starts", None)  # nothing is drawn again
    again = fitted(store, None, tmp_path / "temi.ckpt")
    state = whole.state_dict()
    assert state["heads.step"] == 18
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_clusters_that_lie_apart_are_found(tmp_path):
    corners = 9 * np.eye(10)
    x, blob = make_blobs(400, centers=corners, random_state=0)
    module = fitted(stored(tmp_path, x.astype(np.float32)))
    clusters = ((torch.from_numpy(x) - module.origin) @ module.heads.prototypes.T).argmax(1).numpy()
    assert len(set(zip(clusters, blob, strict=True))) == 10
    assert module.heads.loss.min() < -2  # -log 10 at the best


def test_curves_are_logged(tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path / "logs")
    fitted(stored(tmp_path), logger=logger)
    header, *lines = (tmp_path / "logs/lightning_logs/version_0/metrics.csv").read_text().splitlines()
    assert set(header.split(",")) == {"step", "temi/loss", "temi/entropy", "temi/largest_cluster"}
    assert len(lines) == SETTINGS.epochs


def test_fewer_rows_than_neighbours(tmp_path):
    with pytest.raises(UserError, match=r"head.n_neighbours=5 should be < the number of images, 5\."):
        Temi(stored(tmp_path, X[:5]), 2, torch.zeros(64), SETTINGS)


def test_a_trainer_that_limits_steps_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("whycluster.clustering.temi_heads.LEAST_STEPS", 3)
    with pytest.raises(UserError, match="the trainer left out steps of TEMI"):
        fitted(stored(tmp_path), limit_train_batches=2)


TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
import test_temi
from whycluster.clustering import neighbours
from whycluster.clustering.features import FeatureStore

if __name__ == "__main__":
    neighbours.QUERY_ROWS = 100
    folder, devices = Path(sys.argv[1]), int(sys.argv[2])
    module = test_temi.fitted(
        FeatureStore(folder / "features.npy"), devices=devices, strategy="ddp" if devices > 1 else "auto"
    )
    torch.save(
        {**module.state_dict(), "near": torch.from_numpy(module.neighbours)},
        folder / f"{devices}_{module.trainer.global_rank}.pt",
    )
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path):
    stored(tmp_path)
    (tmp_path / "fit.py").write_text(
        f"import sys; sys.path.insert(0, {str(__file__).rpartition('/')[0]!r})\n" + TWO_PROCESSES
    )
    for devices in (1, 2):
        command = [sys.executable, "fit.py", str(tmp_path), str(devices)]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1_0", "2_0", "2_1"))
    for name, tensor in one.items():
        assert torch.equal(first[name], tensor), name
        assert torch.equal(second[name], tensor), name
