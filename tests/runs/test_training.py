import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_samples
from sklearn.preprocessing import Normalizer, StandardScaler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from whycluster import ClusterModel
from whycluster.clustering.how_many import Candidate, choose, choose_n_clusters
from whycluster.clustering.stability import refit_kmeans, refit_spherical_kmeans, stability, verdict
from whycluster.data import Digits
from whycluster.lrp import operations

ROOT = Path(__file__).parents[2]


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_folder_holds_what_it_should(trained):
    assert {path.name for path in trained.iterdir()} == {
        ".lock",
        ".request.json",
        "assignments.csv",
        "clusters.json",
        "features.npy",
        "metrics.json",
        "model.ckpt",
        "skipped.csv",
        "tensorboard",
    }


def test_assignments_are_the_nearest_centroids_of_the_features(trained):
    rows = table(trained / "assignments.csv")
    features = torch.from_numpy(np.load(trained / "features.npy")).double()
    head = ClusterModel.load(trained).head
    squared = ((features[:, None] - head.centroids) ** 2).sum(2)
    nearest = squared.sort(1)
    assert [int(row["cluster"]) for row in rows] == nearest.indices[:, 0].tolist()
    assert [int(row["runner_up"]) for row in rows] == nearest.indices[:, 1].tolist()
    discriminants = nearest.values[:, 1] - nearest.values[:, 0]
    np.testing.assert_allclose([float(row["discriminant"]) for row in rows], discriminants, rtol=1e-5)
    probabilities = (-squared / discriminants.mean()).softmax(1).max(1).values  # beta is one over the mean
    np.testing.assert_allclose([float(row["probability"]) for row in rows], probabilities, rtol=1e-5)
    assert [row["path"] for row in rows] == Digits(150).paths
    assert [row["label"] for row in rows] == Digits(150).labels


def test_metrics_follow_from_the_tables(trained):
    rows, metrics = table(trained / "assignments.csv"), json.loads((trained / "metrics.json").read_text())
    clusters, labels = [row["cluster"] for row in rows], [row["label"] for row in rows]
    assert metrics["nmi"] == pytest.approx(normalized_mutual_info_score(labels, clusters))
    assert metrics["ari"] == pytest.approx(adjusted_rand_score(labels, clusters))
    assert metrics["disagreements"] == 0
    assert metrics["n_images"] == len(rows) == sum(metrics["cluster_sizes"])
    assert 0 < metrics["raw_pixels"]["nmi"] < 1


def test_clusters_are_described_by_what_is_in_them(trained):
    rows, clusters = table(trained / "assignments.csv"), json.loads((trained / "clusters.json").read_text())
    features = np.load(trained / "features.npy").astype(float)
    of_row = np.array([int(row["cluster"]) for row in rows])
    centroids = ClusterModel.load(trained).head.centroids.numpy()
    between = np.linalg.norm(centroids[:, None] - centroids, axis=2) + np.diag([np.inf] * 6)
    silhouettes = silhouette_samples(features, of_row)
    for k, cluster in enumerate(clusters):
        discriminants = [float(row["discriminant"]) for row in rows if row["cluster"] == str(k)]
        assert cluster["cluster"] == k
        assert cluster["size"] == len(discriminants)
        assert cluster["margin"] == pytest.approx(np.mean(discriminants), rel=1e-5)
        assert cluster["silhouette"] == pytest.approx(silhouettes[of_row == k].mean(), abs=1e-4)
        assert cluster["nearest"] == between[k].argmin()
        assert cluster["distance"] == pytest.approx(between[k].min(), rel=1e-3)  # tol moves centroids from means
        assert cluster["verdict"] == verdict(cluster["stability"])
    assert len(clusters) == 6
    assert len({cluster["stability"] for cluster in clusters}) > 2


def test_the_number_of_clusters_can_be_chosen(run, tmp_path, capsys):
    folder = run("train", tmp_path / "run", "data.limit=150", "head.n_init=2", "head.n_clusters=8-12")
    metrics = json.loads((folder / "metrics.json").read_text())
    curve = [Candidate(**row) for row in metrics["how_many"]]
    chosen = choose(curve, 149)
    assert [one.n_clusters for one in curve] == [8, 9, 10, 11, 12]
    assert curve == choose_n_clusters(np.load(folder / "features.npy"), range(8, 13)).curve
    assert metrics["n_clusters"] == chosen.n_clusters == ClusterModel.load(folder).head.n_clusters
    assert (metrics["how_many_sure"], metrics["how_many_verdict"]) == (chosen.sure, chosen.verdict)
    said = capsys.readouterr().out
    assert [line.split()[1] for line in said.splitlines() if line.lstrip().startswith("->")] == [str(chosen.n_clusters)]
    assert chosen.verdict in said
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    for name in ("silhouette", "silhouette_without_groups", "stability", "inertia"):
        shown = [(event.step, event.value) for event in events.Scalars(f"how_many/{name}")]
        assert shown == [(one.n_clusters, pytest.approx(getattr(one, name))) for one in curve]


def test_auto_goes_as_far_as_there_are_images(run, photos, tmp_path):
    folder = run("train", tmp_path / "run", "data=folder", f"data.root={photos}", "head.n_clusters=auto")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert [row["n_clusters"] for row in metrics["how_many"]] == list(range(2, 12))
    assert metrics["n_clusters"] == 2
    with pytest.raises(ValueError, match=r"head\.n_clusters=2-13 should be <= the number of readable images, 12"):
        run("train", tmp_path / "other", "data=folder", f"data.root={photos}", "head.n_clusters=2-13")


def test_equal_images_cannot_be_counted(run, tmp_path):
    for name in "abcd":
        place = tmp_path / "photos" / f"{name}.png"
        place.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (200, 30, 30)).save(place)
    photos = ("data=folder", f"data.root={tmp_path / 'photos'}")
    with pytest.raises(ValueError, match="cannot be chosen for 4 images with 1 different features"):
        run("train", tmp_path / "run", *photos, "head.n_clusters=auto")


@pytest.mark.parametrize(("head", "measured"), [("kernel_kmeans", True), ("group_means", False)])
def test_stability_is_measured_where_there_is_something_to_fit(run, tmp_path, head, measured):
    settings = ("head.n_clusters=4", "head.n_init=2") if measured else ()
    folder = run("train", tmp_path / "run", "data.limit=60", f"head={head}", *settings)
    clusters = json.loads((folder / "clusters.json").read_text())
    assert {cluster["stability"] is not None for cluster in clusters} == {measured}
    assert {cluster["verdict"] == "not measured" for cluster in clusters} == {not measured}


def test_spherical_k_means_is_refitted_as_such(run, tmp_path):
    folder = run("train", tmp_path / "run", "head=spherical_kmeans", "data.limit=150", "head.n_clusters=6")
    x, rows = np.load(folder / "features.npy"), table(folder / "assignments.csv")
    found = [cluster["stability"] for cluster in json.loads((folder / "clusters.json").read_text())]
    spherical, ordinary = (
        stability(x, np.array([int(row["cluster"]) for row in rows]), 6, refit(6))
        for refit in (refit_spherical_kmeans, refit_kmeans)
    )
    np.testing.assert_allclose(found, spherical, atol=1e-6)
    assert np.abs(spherical - ordinary).max() > 1e-3


def test_the_same_seed_gives_the_same_bytes(trained, run, small, tmp_path):
    again = run("train", tmp_path / "again", *small)
    for name in ("model.ckpt", "assignments.csv", "clusters.json", "features.npy"):
        assert (again / name).read_bytes() == (trained / name).read_bytes()


@pytest.mark.slow
def test_all_digits_are_clustered_better_than_their_pixels(run, tmp_path):
    metrics = json.loads((run("train", tmp_path / "run") / "metrics.json").read_text())
    assert metrics["raw_pixels"]["nmi"] < 0.8 < 0.9 < metrics["nmi"]
    assert metrics["disagreements"] == 0


def test_a_folder_with_broken_files(run, photos, tmp_path):
    settings = ("data=folder", f"data.root={photos}", "head.n_clusters=2", "export=links")
    folder = run("train", tmp_path / "run", *settings, "features.normalize=none")  # only brightness tells the groups
    rows = table(folder / "assignments.csv")
    assert len(rows) == 12
    assert json.loads((folder / "metrics.json").read_text())["nmi"] == pytest.approx(1)
    assert table(folder / "skipped.csv") == [
        {"path": "dark/empty.png", "reason": "the file is empty"},
        {"path": "light/=text.png", "reason": "not an image, or in a format that is not known"},
    ]
    for row in rows:
        link = folder / "clusters" / row["cluster"] / row["path"]
        assert link.is_symlink()
        assert link.resolve() == (photos / row["path"]).resolve()


def test_no_readable_image_is_an_error(run, tmp_path):
    (tmp_path / "bad").mkdir()
    for number in range(3):
        (tmp_path / "bad" / f"{number}.jpg").write_text("text")
    with pytest.raises(ValueError, match=r"none of the 3 files can be read as an image; '0.jpg': not an image"):
        run("train", tmp_path / "run", "data=folder", f"data.root={tmp_path / 'bad'}", "head.n_clusters=2")
    assert not (tmp_path / "run" / "model.ckpt").exists()


def test_more_clusters_than_readable_images_is_an_error(run, photos, tmp_path):
    with pytest.raises(ValueError, match=r"head\.n_clusters=13 should be <= the number of readable images, 12"):
        run("train", tmp_path / "run", "data=folder", f"data.root={photos}", "head.n_clusters=13")


def test_results_are_not_replaced(run, small, tmp_path):
    folder = run("train", tmp_path / "run", *small)
    with pytest.raises(ValueError, match=r"already holds model\.ckpt"):
        run("train", folder, *small)


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        (("head=group_means",), r"head\._target_=.*KMeans.*, and now it is .*GroupMeans"),
        (("head.n_clusters=6", "head.n_init=2", "export=links"), "export=none, and now it is links"),
    ],
)
def test_a_run_does_not_go_on_with_other_settings(trained, run, tmp_path, other, differs):
    folder = shutil.copytree(trained, tmp_path / "run")
    with pytest.raises(ValueError, match=f"begun with {differs}"):
        run("train", folder, "data.limit=150", *other, "resume=true")


def test_a_trainer_that_stops_early_makes_no_model(run, small, tmp_path):
    with pytest.raises(ValueError, match="stopped before all images were done"):
        run("train", tmp_path / "run", *small, "+trainer.limit_predict_batches=1")
    assert not (tmp_path / "run" / "model.ckpt").exists()


def test_k_means_runs_in_full_precision_whatever_the_network_does(trained, run, small, tmp_path):
    folder = run("train", tmp_path / "run", *small, "+trainer.precision=bf16-mixed")
    features = torch.from_numpy(np.load(folder / "features.npy")).double()
    squared = torch.cdist(features, ClusterModel.load(folder).head.centroids).square().min(1).values
    assert json.loads((folder / "metrics.json").read_text())["inertia"] == pytest.approx(squared.sum().item(), rel=1e-5)


def test_a_network_that_cannot_be_explained_says_so_at_once(run, photos, tmp_path, monkeypatch):
    monkeypatch.delitem(operations.TABLE, torch.ops.aten.hardswish)
    backbone = ("backbone=torchvision", "backbone.name=mobilenet_v3_small", "backbone.weights=null")
    with pytest.warns(UserWarning, match=r"not explained: LRP does not know how relevance passes aten.hardswish"):
        run("train", tmp_path / "run", "data=folder", f"data.root={photos}", *backbone, "head.n_clusters=2")


def test_a_given_beta_is_kept(run, tmp_path):
    folder = run("train", tmp_path / "run", "data.limit=60", "head.n_clusters=3", "head.n_init=1", "head.beta=0.25")
    assert float(ClusterModel.load(folder).head.beta) == 0.25


def test_features_are_clustered_after_their_steps(trained, run, small, tmp_path):
    """Whatever the size of the shards; `trained` has the default steps, l2 alone."""
    steps = ("features.standardize=true", "features.pca=7", "head=spherical_kmeans")
    folder = run("train", tmp_path / "run", *small, *steps, "batch_size=13")
    raw = run("train", tmp_path / "raw", *small, "features.normalize=none")
    features = np.load(raw / "features.npy")
    wanted = Normalizer().fit_transform(
        PCA(7, svd_solver="full").fit_transform(StandardScaler().fit_transform(features))
    )
    np.testing.assert_allclose(np.load(folder / "features.npy"), wanted, atol=1e-4)
    np.testing.assert_allclose(np.load(trained / "features.npy"), Normalizer().fit_transform(features), atol=1e-6)
    model = ClusterModel.load(folder)
    images = torch.stack([model.backbone.preprocessing(Digits(20).load(number)) for number in range(20)])
    np.testing.assert_allclose(model.features(images), wanted[:20], atol=1e-4)
    np.testing.assert_allclose(model.head.centroids.norm(dim=1), 1, rtol=1e-12)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["disagreements"] == 0
    again = run("train", tmp_path / "again", *small, *steps, "batch_size=50")
    assert (again / "features.npy").read_bytes() == (folder / "features.npy").read_bytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("features.pca=150",), r"features\.pca=150 should be < the number of images, 150"),
        (("features.normalize=none", "head=spherical_kmeans"), r"leave features\.normalize at l2"),
    ],
)
def test_steps_that_cannot_work_are_refused_before_any_work(run, small, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        run("train", tmp_path / "run", *small, *settings)
    assert not list((tmp_path / "run").iterdir())


def test_steps_that_cannot_be_fitted_are_refused(run, tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(5):
        Image.new("RGB", (40, 40), "red").save(tmp_path / "photos" / f"{number}.png")
    folder = ("data=folder", f"data.root={tmp_path / 'photos'}", "head.n_clusters=2")
    with pytest.raises(ValueError, match=r"features\.pca=2 .* which are the same for all images"):
        run("train", tmp_path / "run", *folder, "features.pca=2")
