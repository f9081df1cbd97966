import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whycluster import ClusterModel
from whycluster.data import Scenes

FEW = ("evaluate=true", "evaluation.sample=5", "evaluation.steps=2", "evaluation.baselines=[random,gradient_squared]")


@pytest.fixture(scope="module")
def marked(run, tmp_path_factory):
    """A model of the means of scenes with and without a mark."""
    options = ("data=scenes", "data.variant=mark", "data.per_group=10")
    return run("train", tmp_path_factory.mktemp("scenes"), *options)


def test_an_evaluation_is_written(trained, run, tmp_path, capsys):
    folder = run("explain", tmp_path / "why", f"checkpoint={trained}", "limit=9", *FEW)
    found = json.loads((folder / "evaluation.json").read_text())
    assert set(found["methods"]) == {"whycluster", "random", "gradient_squared"}
    assert found["settings"]["images"] == len(found["images"]) == 5
    assert set(found["images"]) < {f"{number:04d}" for number in range(9)}
    assert "masks" not in found
    assert sorted(path.name for path in (folder / "tensorboard" / "evaluation").iterdir()) == sorted(found["methods"])
    said = capsys.readouterr().out
    assert "gradient_squared" in said
    assert "receipts balance to" in said


def test_nothing_is_evaluated_unless_asked(trained, run, tmp_path):
    folder = run("explain", tmp_path / "why", f"checkpoint={trained}", "limit=3")
    assert not (folder / "evaluation.json").exists()


def test_images_that_cannot_be_read_are_left_out(trained, run, photos, tmp_path):
    options = (f"checkpoint={trained}", f"images={photos}", *FEW, "evaluation.sample=null")
    found = json.loads((run("explain", tmp_path / "why", *options) / "evaluation.json").read_text())
    assert len(found["images"]) == 12
    assert "dark/empty.png" not in found["images"]


def test_groups_of_scenes_are_clusters(marked):
    model = ClusterModel.load(marked)
    assert model.groups == ["marked", "plain"]
    scenes = Scenes("mark", 10)
    prepared = [model.backbone.preprocessing(scenes.load(at)) for at in range(20)]
    features = np.stack([model.features(image[None])[0].numpy() for image in prepared])
    np.testing.assert_allclose(
        model.head.centroids, [features[:10].mean(0), features[10:].mean(0)], rtol=1e-4, atol=1e-5
    )
    metrics = json.loads((marked / "metrics.json").read_text())
    assert metrics["n_clusters"] == 2
    assert metrics["disagreements"] == 0


def test_masks_count_where_an_image_is_in_its_own_group(marked, run, tmp_path):
    folder = run("explain", tmp_path / "why", f"checkpoint={marked}", *FEW, "evaluation.sample=null")
    found = json.loads((folder / "evaluation.json").read_text())
    model, scenes = ClusterModel.load(marked), Scenes("mark", 10)
    own = [int(model(model.backbone.preprocessing(scenes.load(at))[None]).argmax()) == 0 for at in range(10)]
    assert 0 < found["masks"]["images"] == sum(own)
    ours, random = (found["methods"][name]["masks"]["mass"]["value"] for name in ("whycluster", "random"))
    assert random == pytest.approx(found["masks"]["area"], abs=0.01)
    assert ours > 1.5 * random


def test_an_evaluation_that_cannot_be_is_refused_before_the_work(trained, run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "captum.attr", None)
    monkeypatch.setitem(__import__("sys").modules, "captum", None)
    with pytest.raises(ValueError, match="needs captum"):
        run("explain", tmp_path / "why", f"checkpoint={trained}", "limit=3", *FEW)
    assert not (tmp_path / "why" / "heatmaps").exists()


def test_groups_need_labels(run, photos, tmp_path):
    with pytest.raises(ValueError, match="head=group_means takes the labels of images for groups"):
        run("train", tmp_path / "groups", "data=folder", f"data.root={photos / 'dark'}", "head=group_means")
    assert not (tmp_path / "groups" / "unfinished").exists()  # before any work
    Image.new("RGB", (40, 40)).save(photos / "of no group.png")
    with pytest.raises(ValueError, match="not all images have one of two"):
        run("train", tmp_path / "some", "data=folder", f"data.root={photos}", "head=group_means")


def test_groups_of_a_folder(run, photos, tmp_path):
    (photos / "notes.txt").write_text("no image, and so of no group")
    folder = run("train", tmp_path / "groups", "data=folder", f"data.root={photos}", "head=group_means")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["n_clusters"], metrics["accuracy"]) == (2, 1)
    assert ClusterModel.load(folder).groups == ["dark", "light"]


ASSETS = os.environ.get("WHYCLUSTER_ASSETS")


@pytest.mark.skipif(not ASSETS, reason="WHYCLUSTER_ASSETS names no folder with trained weights and photos")
@pytest.mark.slow
def test_a_trained_network_is_seen_to_look_at_the_mark(run, tmp_path, monkeypatch):
    for name in ("STAGES", "SHUFFLES", "SENSITIVITY_SAMPLES"):  # each a few more explanations of every image
        monkeypatch.setattr(f"whycluster.evaluation.sanity.{name}", 1)
    network = ("backbone=squeezenet1_0", f"backbone.weights={Path(str(ASSETS)) / 'squeezenet1_0.pt'}")
    scenes = ("data=scenes", "data.variant=mark", "data.per_group=20")
    checkpoint = run("train", tmp_path / "train", *scenes, *network)
    options = (f"checkpoint={checkpoint}", *FEW, "evaluation.sample=null", "limit=10")
    found = json.loads((run("explain", tmp_path / "why", *options) / "evaluation.json").read_text())
    ours, gradient = (found["methods"][name]["masks"] for name in ("whycluster", "gradient_squared"))
    assert ours["hit"]["value"] >= 0.9
    assert ours["mass"]["value"] > 3 * found["masks"]["area"]
    assert ours["mass"]["low"] > gradient["mass"]["high"]
