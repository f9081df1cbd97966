"""Runs that train the backbone: what they write, and that they go on where they were stopped."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

from whycluster import ClusterModel
from whycluster.backbones import build_backbone
from whycluster.clustering import dec
from whycluster.data import Digits, PreparedImages
from whycluster.runs import DecClusterer, dec_clusterer, trainers

SHIFT = "{_target_:torchvision.transforms.v2.RandomAffine,degrees:0,translate:[0.1,0.1]}"
SMALL = ("data.limit=120", "head=dec", "head.n_clusters=6", "head.n_init=2", "head.max_epochs=3", "head.tol=0")
FILES = ("model.ckpt", "assignments.csv", "features.npy")


@pytest.fixture(scope="module")
def learned(run, tmp_path_factory):
    """A finished run, with changes of images."""
    return run("train", tmp_path_factory.mktemp("dec"), *SMALL, f"head.augment=[{SHIFT}]")


def test_the_model_makes_the_features_that_were_clustered(learned):
    model = ClusterModel.load(learned)
    images = PreparedImages(Digits(120), model.backbone.preprocessing)
    with torch.no_grad():
        features = model.features(torch.stack([images[row][1] for row in range(120)]))
    stored = np.load(learned / "features.npy")
    np.testing.assert_allclose(stored, features.numpy(), rtol=1e-4, atol=1e-4)
    with open(learned / "assignments.csv", newline="", encoding="utf-8") as file:
        clusters = [int(row["cluster"]) for row in csv.DictReader(file)]
    squared = ((stored[:, None].astype(float) - model.head.centroids.numpy()[None]) ** 2).sum(2)
    assert clusters == squared.argmin(1).tolist()
    assert json.loads((learned / "metrics.json").read_text())["disagreements"] == 0


def test_the_stage_alone_has_changed(learned):
    before = build_backbone("glyphnet", "DEFAULT").network.state_dict()
    after = ClusterModel.load(learned).backbone.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"network.features.12.weight"}
    assert ClusterModel.load(learned).backbone.origin["finetuned"] == ["features.12"]


def test_the_baseline_is_k_means_on_the_features_before(learned, run, tmp_path):
    frozen = run("train", tmp_path / "run", *SMALL, "head.finetune=null", "head.augment=[]", "head.max_epochs=1")
    x = np.load(frozen / "features.npy")
    expected = KMeans(6, n_init=2, random_state=0).fit_predict(x)
    metrics = json.loads((learned / "metrics.json").read_text())
    labels = Digits(120).labels
    assert metrics["kmeans"]["nmi"] == pytest.approx(normalized_mutual_info_score(labels, expected))
    assert json.loads((frozen / "metrics.json").read_text())["kmeans"]["nmi"] == metrics["kmeans"]["nmi"]


def test_centroids_alone_leave_the_backbone_as_it_is(run, trained, tmp_path):
    folder = run("train", tmp_path / "run", *SMALL, "data.limit=150", "head.finetune=null", "head.augment=[]")
    np.testing.assert_array_equal(np.load(folder / "features.npy"), np.load(trained / "features.npy"))
    before = build_backbone("glyphnet", "DEFAULT").network.state_dict()
    after = ClusterModel.load(folder).backbone.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    centroids = ClusterModel.load(folder).head.centroids.numpy()
    start = KMeans(6, n_init=2, random_state=0).fit(np.load(folder / "features.npy")).cluster_centers_
    assert np.abs(centroids - start).max() > 1e-3 * np.abs(start).max()


@pytest.mark.parametrize("moment", ["an epoch", "the features", "the end"])
def test_a_run_that_was_stopped_ends_as_an_undisturbed_one(learned, run, tmp_path, monkeypatch, moment):
    class KilledError(RuntimeError):
        pass

    def killed(self, *_):
        raise KilledError

    monkeypatch.setattr(trainers, "SAVE_SECONDS", 0)
    settings = (*SMALL, f"head.augment=[{SHIFT}]")
    with monkeypatch.context() as patched:
        if moment == "the features":
            patched.setattr(dec_clusterer, "compute_features", killed)
        elif moment == "the end":  # the features lie with the results already
            patched.setattr(ClusterModel, "save", killed)
        else:
            step = dec.DeepEmbeddedClustering.training_step
            patched.setattr(
                dec.DeepEmbeddedClustering,
                "training_step",
                lambda self, batch: killed(self) if self.current_epoch == 1 else step(self, batch),
            )
        with pytest.raises(KilledError):
            run("train", tmp_path / "run", *settings)
    assert (tmp_path / "run" / "unfinished" / "dec.ckpt").exists()
    folder = run("train", tmp_path / "run", *settings, "resume=true")
    for name in FILES:
        assert (folder / name).read_bytes() == (learned / name).read_bytes()


def test_the_order_of_images_follows_the_seed(learned, run, tmp_path):
    folder = run("train", tmp_path / "run", *SMALL, f"head.augment=[{SHIFT}]", "seed=1")
    one, other = (ClusterModel.load(run).backbone.network.state_dict() for run in (folder, learned))
    assert not torch.equal(one["network.features.12.weight"], other["network.features.12.weight"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_clusters": 1}, "head.n_clusters=1 "),
        ({"alpha": 0}, "head.alpha=0 should be a number > 0"),
        ({"learning_rate": "fast"}, "head.learning_rate='fast'"),
        ({"anchor": -1}, "head.anchor=-1 should be a number >= 0"),
        ({"tol": float("nan")}, "head.tol=nan"),
        ({"batch_size": 0}, "head.batch_size=0"),
        ({"max_epochs": 1.5}, "head.max_epochs=1.5"),
        ({"finetune": 3}, "head.finetune=3"),
        ({"augment": ["flip"]}, "head.augment="),
        ({"augment": None}, "head.augment=None should be a list of transforms"),
        ({"augment": abs}, "head.augment=<built-in"),
        ({"augment": [abs], "finetune": []}, "head.augment changes images"),
        ({"n_clusters": "auto"}, "head.n_clusters='auto' should be a number"),
        ({"augment": [abs], "finetune": None}, "head.augment changes images, and head.finetune=null"),
        ({"beta": -1}, "head.beta="),
    ],
)
def test_impossible_settings_are_refused_before_any_work(wrong, message):
    with pytest.raises(ValueError, match=message):
        DecClusterer(**{"n_clusters": 3, **wrong})


@pytest.mark.parametrize("limit", ["max_steps=2", "limit_train_batches=1"])
def test_a_trainer_that_leaves_out_images_learns_nothing(run, tmp_path, limit):
    settings = ("data.limit=40", "head=dec", "head.n_clusters=3", "head.n_init=1", "head.finetune=null")
    with pytest.raises(ValueError, match="the trainer left out images in head=dec"):
        run("train", tmp_path / "run", *settings, "head.augment=[]", "head.batch_size=16", f"+trainer.{limit}")
    assert not (tmp_path / "run" / "model.ckpt").exists()


def test_an_unknown_stage_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"head.finetune='layer4' is no module of the backbone; the nearest are feat"):
        run("train", tmp_path / "run", *SMALL, "head.finetune=layer4")
    assert not (tmp_path / "run" / "unfinished").exists()  # before any work


def test_a_trainer_that_stops_early_makes_no_model(run, tmp_path):
    with pytest.raises(ValueError, match="stopped before head=dec had ended"):  # 120 images are 4 steps
        run("train", tmp_path / "run", *SMALL, "head.batch_size=30", "+trainer.max_steps=4")
    assert not (tmp_path / "run" / "model.ckpt").exists()


def test_equal_images_are_refused(run, tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    with pytest.raises(ValueError, match=r"head.n_clusters=2 is the number of different images, or more"):
        run("train", tmp_path / "run", "head=dec", "head.n_clusters=2", "data=folder", f"data.root={tmp_path}")
