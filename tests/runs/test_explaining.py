import csv
import json
import os
import re
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from whycluster import ClusterModel, Explainer
from whycluster.data import Digits
from whycluster.runs.folders import find_checkpoint


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_what_it_was_trained_on_is_explained(trained, run, tmp_path):
    folder = run("explain", tmp_path / "why", f"checkpoint={trained}", "limit=20", "batch_size=7")
    names = [f"{number:04d}" for number in range(20)]
    assert sorted(path.name for path in (folder / "heatmaps").iterdir()) == [f"{name}.png" for name in names]
    assert table(folder / "assignments.csv") == [
        {**theirs, "discriminant": ours["discriminant"], "probability": ours["probability"]}
        for ours, theirs in zip(table(folder / "assignments.csv"), table(trained / "assignments.csv")[:20], strict=True)
    ]
    expected = Explainer(ClusterModel.load(trained)).explain([Digits().load(number) for number in range(20)])
    for name, heatmap in zip(names, expected.heatmap, strict=True):
        stored = np.load(folder / "relevance" / f"{name}.npy")
        assert stored.dtype == np.float32
        np.testing.assert_allclose(stored, heatmap, atol=1e-4 * heatmap.abs().max())


def test_the_terminal_ends_with_the_clusters_and_what_was_written(trained, run, tmp_path, capsys):
    folder = run("explain", tmp_path / "why", f"checkpoint={trained}", "limit=20")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    clusters = json.loads((folder / "clusters.json").read_text())
    at = next(number for number, line in enumerate(lines) if line.split()[0] == "cluster")
    head, _, *rows = lines[at:]
    assert "20 images explained" in lines[:at]
    assert not any("clusters of the model" in line for line in lines)
    assert head.split() == ["cluster", "images", "stability", "top", "concept"]
    shown = {int(row.split()[0]): row for row in rows[: len(clusters)]}
    assert list(shown) == sorted(shown, key=lambda k: next(c["stability"] for c in clusters if c["cluster"] == k))
    for cluster in clusters:
        row, top = shown[cluster["cluster"]], cluster["concepts"][0]
        assert row.split()[1:3] == [str(cluster["size"]), f"{cluster['stability']:.2f}"]
        assert f"concept {top['channel']} ({top['share']:.0%})" in row
    paths = [f"open in a browser: {folder / 'report.html'}", f"heatmaps: {folder / 'heatmaps'}"]
    paths += [f"clusters: {folder / 'clusters.json'}, with pictures in"]
    assert all(line.startswith(path) for line, path in zip(rows[len(clusters) :], paths, strict=False))


@pytest.mark.parametrize("target", ["assigned", "runner_up", "all", "2", "2:0"])
@pytest.mark.parametrize("composite", ["epsilon_gamma_box", "epsilon_alpha2_beta1"])
def test_receipts_balance(trained, run, tmp_path, target, composite):
    options = (f"checkpoint={trained}", "limit=9", f"target='{target}'", f"composite={composite}")
    receipts = table(run("explain", tmp_path / "why", *options) / "receipts.csv")
    assert len(receipts) == (9 * 6 if target == "all" else 9)
    for row in receipts:
        discriminant, pixels, absorbed = (float(row[key]) for key in ("discriminant", "pixels", "absorbed"))
        assert pixels + absorbed == pytest.approx(discriminant, rel=1e-3)


def test_images_the_model_never_saw_and_cannot_read(trained, run, photos, tmp_path):
    folder = run("explain", tmp_path / "why", f"checkpoint={trained / 'model.ckpt'}", f"images={photos}")
    assert len(table(folder / "assignments.csv")) == 12
    assert [row["path"] for row in table(folder / "skipped.csv")] == ["dark/empty.png", "light/=text.png"]
    assert Image.open(folder / "heatmaps" / "dark" / "0.png.png").width > 3 * 224


def test_one_file(trained, run, photos, tmp_path):
    folder = run("explain", tmp_path / "why", f"checkpoint={trained}", f"images={photos / 'light' / '1.png'}")
    assert [row["path"] for row in table(folder / "assignments.csv")] == ["1.png"]


def test_nothing_readable_is_an_error(trained, run, photos, tmp_path):
    with pytest.raises(
        ValueError, match=r"none of the 1 files can be read as an image; 'empty\.png': the file is empty"
    ):
        run("explain", tmp_path / "why", f"checkpoint={trained}", f"images={photos / 'dark' / 'empty.png'}")


def test_results_are_not_replaced(trained, run, tmp_path):
    options = (f"checkpoint={trained}", "limit=3")
    folder = run("explain", tmp_path / "why", *options)
    with pytest.raises(ValueError, match=r"already holds assignments\.csv"):
        run("explain", folder, *options)


def test_the_newest_finished_run_is_explained(trained, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no finished train run"):
        run("explain", tmp_path / "why")
    shutil.copytree(trained, tmp_path / "outputs/train/old")
    (tmp_path / "outputs/train/begun/unfinished").mkdir(parents=True)
    assert len(table(run("explain", tmp_path / "why", "limit=2") / "assignments.csv")) == 2


def test_check_prints_the_rules_and_explains_nothing(trained, run, tmp_path, capsys):
    folder = run("explain", tmp_path / "why", f"checkpoint={trained}", "check=true", "residual=norm")
    said = capsys.readouterr().out
    assert "composite epsilon_gamma_box, residual sums by norm" in said.splitlines()[0]
    rows = [line.split() for line in said.splitlines()]
    assert [
        "network.features.0",
        "Convolution",
        "ZBox(stabilizer=1e-06)",
    ] in rows
    assert [
        "network.features.2",
        "Convolution",
        "Gamma(gamma=0.25,",
        "stabilizer=1e-06)",
    ] in rows
    assert not list(folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", "efficientnet_b0", "densenet121"])
def test_networks_of_other_families_by_name(name, run, photos, tmp_path):
    network = ("backbone=torchvision", f"backbone.name={name}", "backbone.weights=null", "head.n_clusters=2")
    with pytest.warns(UserWarning, match="random weights"):
        model = run("train", tmp_path / "run", "data=folder", f"data.root='{photos}'", *network, "head.n_init=1")
    folder = run("explain", tmp_path / "why", f"checkpoint='{model}'", "limit=4")
    receipts = table(folder / "receipts.csv")
    assert len(receipts) == 4
    for row in receipts:
        discriminant, pixels, absorbed = (float(row[key]) for key in ("discriminant", "pixels", "absorbed"))
        assert pixels + absorbed == pytest.approx(discriminant, rel=1e-3, abs=1e-3 * (abs(pixels) + abs(absorbed)))


def test_a_trainer_that_stops_early_explains_nothing(trained, run, tmp_path):
    settings = (f"checkpoint={trained}", "limit=9", "batch_size=2", "+trainer.limit_predict_batches=2")
    with pytest.raises(ValueError, match="stopped before all images were done"):
        run("explain", tmp_path / "run", *settings)
    assert not (tmp_path / "run" / "assignments.csv").exists()
    settings = settings[:-1]
    run("explain", tmp_path / "run", *settings, "resume=true")
    assert len(list((tmp_path / "run" / "heatmaps").iterdir())) == 9
    with pytest.raises(ValueError, match=r"was begun with target=assigned, and now it is 2"):
        run("explain", tmp_path / "run", *settings, "resume=true", "target=2")
    with pytest.raises(ValueError, match="begun with command=train, and now it is explain"):
        run("explain", trained, *settings, "resume=true")


def test_going_on_from_latest_goes_on_with_what_was_latest_then(trained, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = tmp_path / "outputs" / "train" / "first"
    shutil.copytree(trained, first)
    settings = ("limit=5", "batch_size=2")
    with pytest.raises(ValueError, match="stopped before"):
        run("explain", tmp_path / "run", *settings, "+trainer.limit_predict_batches=1")
    shutil.copytree(trained, tmp_path / "outputs" / "train" / "second")
    newest = tmp_path / "outputs" / "train" / "second" / "model.ckpt"
    model = ClusterModel.load(newest)
    model.seed = 99
    model.save(newest)
    assert find_checkpoint("latest").parent.name == "second"
    run("explain", tmp_path / "run", *settings, "resume=true")
    assert json.loads((tmp_path / "run" / ".request.json").read_text())["checkpoint"] == str(first / "model.ckpt")
    before = (tmp_path / "run" / "receipts.csv").stat().st_mtime_ns
    run("explain", tmp_path / "run", *settings, "resume=true")
    assert (tmp_path / "run" / "receipts.csv").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"begun with evaluate=False, and now it is True"):
        run("explain", tmp_path / "run", *settings, "resume=true", "evaluate=true")


def test_another_folder_at_the_place_of_the_images_is_said(run, photos, tmp_path, capsys):
    settings = ("data=folder", f"data.root={photos}", "head.n_clusters=2", "head.n_init=1")
    model = run("train", tmp_path / "model", *settings)
    assert "note: glyphnet knows strokes, and not photos" in capsys.readouterr().out
    run("explain", tmp_path / "same", f"checkpoint={model}", "limit=1")
    said = capsys.readouterr().out
    assert "no longer holds" not in said
    assert "these images lie in 1 of the 2 clusters of the model" in said
    (photos / "dark" / "0.png").write_bytes((photos / "light" / "0.png").read_bytes())
    (photos / "dark" / "1.png").rename(photos / "dark" / "new.png")
    run("explain", tmp_path / "other", f"checkpoint={model}", "limit=1")
    said = " ".join(capsys.readouterr().out.split())
    assert f"note: {photos} no longer holds the images that the model was trained on" in said
    assert "(14 files then, 14 now)" in said


def test_an_image_that_changed_meanwhile_is_noticed_on_going_on(trained, run, photos, tmp_path):
    settings = (f"checkpoint={trained}", f"images={photos}", "batch_size=2")
    with pytest.raises(ValueError, match="stopped before"):
        run("explain", tmp_path / "run", *settings, "+trainer.limit_predict_batches=1")
    now = time.time() + 5
    os.utime(photos / "light" / "3.png", (now, now))
    with pytest.raises(ValueError, match=r"begun with content\.newest=.*, and now it is light/3\.png of "):
        run("explain", tmp_path / "run", *settings, "resume=true")


def test_images_that_moved_since_another_run(trained, run, small, tmp_path, capsys):
    other = run("train", tmp_path / "other", *small, "features.normalize=none", "seed=3")
    folder = run("explain", tmp_path / "why", f"checkpoint={other}", "limit=40", f"compare={trained}")
    said = capsys.readouterr().out
    before, after = (table(place / "assignments.csv") for place in (trained, folder))
    found = json.loads((folder / "moves.json").read_text())
    clusters = {row["path"]: int(row["cluster"]) for row in before}
    assert found["images"] == 40
    for row, first in enumerate(found["before"]):
        own = [one for one in after if clusters[one["path"]] == first]
        assert found["counts"][row] == [sum(int(one["cluster"]) == second for one in own) for second in found["after"]]
    assert f"of 40 images that {trained} has, too, {found['moved']} moved to another cluster" in said
    page = (folder / "report.html").read_text(encoding="utf-8")
    shown = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])["moves"]
    assert {**shown, "ari": found["ari"]} == found
    with pytest.raises(ValueError, match="should be the folder of a finished run"):
        run("explain", tmp_path / "no", f"checkpoint={other}", f"compare={tmp_path / 'nothing'}")
