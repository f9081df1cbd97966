"""`head=temi` as a command: what it writes, and how it goes on."""

import json

import numpy as np
import pytest
import torch

from whycluster import ClusterModel
from whycluster.clustering.temi_heads import TemiHeads
from whycluster.heads import NeuralizedLinear
from whycluster.runs import TemiClusterer, trainers

SMALL = ("data.limit=150", "head=temi", "head.n_clusters=6", "head.n_init=3", "head.n_heads=2", "head.epochs=4")
TIMES = ("seconds", "images_per_second")


@pytest.fixture(scope="module")
def learned(run, tmp_path_factory):
    return run("train", tmp_path_factory.mktemp("temi"), *SMALL)


def metrics_of(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in metrics.items() if not name.endswith(TIMES)}


def test_the_model_decides_by_the_most_similar_prototype(learned):
    metrics, head = metrics_of(learned), ClusterModel.load(learned).head
    assert isinstance(head, NeuralizedLinear)
    assert metrics["disagreements"] == 0
    x = torch.from_numpy(np.load(learned / "features.npy")).double()
    moved = x - x.mean(0) / 2
    cosines = moved @ head.weight.T / moved.norm(dim=1, keepdim=True)
    clusters = cosines.argmax(1)
    assert torch.equal(head(x).argmax(1), clusters)
    assert metrics["cluster_sizes"] == torch.bincount(clusters, minlength=6).tolist()
    two = (moved @ head.weight.T).topk(2, 1).values
    assert metrics["beta"] == pytest.approx(1 / float((two[:, 0] - two[:, 1]).mean()), rel=1e-4)


def test_k_means_is_the_baseline(learned, run, tmp_path):
    kmeans = metrics_of(run("train", tmp_path, "data.limit=150", "head.n_clusters=6"))
    found = metrics_of(learned)["kmeans"]
    assert found["nmi"] == pytest.approx(kmeans["nmi"])
    assert 0 < found["ari_with_it"] <= 1


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("at", [1, 9])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(learned, run, tmp_path, monkeypatch, at):
    def stop(heads, *arguments):
        if heads.step >= at:
            raise StoppedError
        return learn(heads, *arguments)

    monkeypatch.setattr(trainers, "SAVE_SECONDS", 0)
    learn = TemiHeads.learn
    monkeypatch.setattr(TemiHeads, "learn", stop)
    with pytest.raises(StoppedError):
        run("train", tmp_path / "run", *SMALL)
    assert (tmp_path / "run" / "unfinished" / "temi.ckpt").exists() == (at > 4)  # steps of an epoch
    monkeypatch.setattr(TemiHeads, "learn", learn)
    run("train", tmp_path / "run", *SMALL, "resume=true")
    for name in ("model.ckpt", "assignments.csv", "features.npy"):
        assert (tmp_path / "run" / name).read_bytes() == (learned / name).read_bytes()
    assert metrics_of(tmp_path / "run") == metrics_of(learned)


def test_the_end_of_a_run_names_both(run, tmp_path, capsys):
    run("train", tmp_path, *SMALL)
    metrics = metrics_of(tmp_path)
    said = f"NMI {metrics['nmi']:.2f} with the labels (raw pixels: {metrics['raw_pixels']['nmi']:.2f}, "
    assert f"{said}k-means on the same features: {metrics['kmeans']['nmi']:.2f})" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_clusters": 1},
        {"n_clusters": "auto"},
        {"temperature": 0},
        {"beta": -1},
        {"epochs": 0},
        {"n_neighbours": "many"},
    ],
)
def test_impossible_settings_are_refused_before_any_work(wrong):
    with pytest.raises(ValueError, match=f"head.{next(iter(wrong))}="):
        TemiClusterer(**{"n_clusters": 3, **wrong})


def test_more_neighbours_than_images_are_refused_before_any_work(run, tmp_path):
    with pytest.raises(ValueError, match=r"head.n_neighbours=150 should be < the number of files, 150\."):
        run("train", tmp_path / "run", *SMALL, "head.n_neighbours=150")
    assert not (tmp_path / "run" / "unfinished").exists()  # before any work
