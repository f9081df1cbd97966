"""What an explain run says of clusters."""

import csv
import json

import numpy as np
import pytest
from torch.nn.functional import adaptive_avg_pool2d

from whycluster import ClusterModel, Explainer
from whycluster.data import Digits
from whycluster.explain.concepts import Box
from whycluster.runs import describing


def clusters_of(folder):
    return json.loads((folder / "clusters.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def explained(trained, run, tmp_path_factory):
    return run("explain", tmp_path_factory.mktemp("why"), f"checkpoint={trained}", "limit=60", "batch_size=7")


@pytest.fixture(scope="module")
def expected(trained):
    return Explainer(ClusterModel.load(trained)).explain([Digits().load(number) for number in range(60)])


def test_relevance_of_channels_has_a_row_for_each_image(explained, expected):
    stored = np.load(explained / "concepts.npy")
    np.testing.assert_allclose(stored, expected.concepts, rtol=1e-3, atol=1e-5 * float(expected.concepts.max()))


def test_clusters_are_those_of_the_images_explained(explained, trained, expected):
    found = clusters_of(explained)
    sizes = np.bincount(expected.cluster, minlength=6)
    assert {row["cluster"]: row["size"] for row in found} == {k: n for k, n in enumerate(sizes.tolist()) if n}
    told = {row["cluster"]: row for row in clusters_of(trained)}
    names = {f"{number:04d}": number for number in range(60)}
    for row in found:
        assert {row[name] == told[row["cluster"]][name] for name in ("stability", "verdict", "silhouette")} == {True}
        own = {name for name, number in names.items() if expected.cluster[number] == row["cluster"]}
        assert set(row["prototypes"]) <= own
        worst = min(own, key=lambda name: float(expected.discriminant[names[name]]))
        first = row["borderline"][0]
        assert first["path"] == worst
        assert first["rival"] == int(expected.assignment.runner_up[names[worst]])
        assert sum(contrast["lost"] for contrast in row["contrasts"]) <= row["size"]


def test_places_are_the_mean_heatmap(explained, expected):
    for row in clusters_of(explained):
        heatmap = expected.heatmap[expected.cluster == row["cluster"]].double().mean(0)
        places = adaptive_avg_pool2d(heatmap[None], 14)[0]
        np.testing.assert_allclose(row["places"], places / places.abs().sum(), rtol=1e-3, atol=1e-6)


def test_concepts_are_shown_where_they_are(explained):
    with open(explained / "assignments.csv", newline="", encoding="utf-8") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    relevance = np.load(explained / "concepts.npy")
    for row in clusters_of(explained):
        shares = [concept["share"] for concept in row["concepts"]]
        assert shares == sorted(shares, reverse=True)
        for concept in row["concepts"] + row["examples"]:
            stem = explained / "concepts" / f"cluster_{row['cluster']}" / f"channel_{concept['channel']}"
            regions = np.load(stem.with_suffix(".npy"))
            assert stem.with_suffix(".png").exists()
            assert len(regions) == len(concept["regions"]) > 0
            amounts = [relevance[paths.index(one["path"]), concept["channel"]] for one in concept["regions"]]
            assert amounts == sorted(amounts, reverse=True)
            for one, region in zip(concept["regions"], regions, strict=True):
                top, left, side = Box(*one["box"])
                assert region.shape == (side, side)
                assert 0 <= top <= 32 - side
                assert 0 <= left <= 32 - side


def test_what_decides_between_two_clusters_is_shown_too(explained):
    for row in clusters_of(explained):
        shown = [concept["channel"] for concept in row["concepts"] + row["examples"]]
        assert len(shown) == len(set(shown))
        deciding = {concept["channel"] for contrast in row["contrasts"] for concept in contrast["concepts"][:3]}
        assert set(shown) - {concept["channel"] for concept in row["concepts"]} <= deciding
        assert len(row["examples"]) <= 5


@pytest.mark.parametrize("target", ["runner_up", "all"])
def test_clusters_are_described_whatever_is_explained(trained, run, explained, tmp_path, target):
    folder = run("explain", tmp_path / "why", f"checkpoint={trained}", "limit=60", "batch_size=7", f"target={target}")
    for other, row in zip(clusters_of(folder), clusters_of(explained), strict=True):
        assert other["places"] is other["shortcut"] is None  # they come from the heatmaps of assigned clusters
        assert {**other, "places": row["places"], "shortcut": row["shortcut"]} == row


def test_a_model_without_its_run_folder(trained, run, tmp_path):
    (tmp_path / "alone.ckpt").write_bytes((trained / "model.ckpt").read_bytes())
    folder = run("explain", tmp_path / "why", f"checkpoint={tmp_path / 'alone.ckpt'}", "limit=5")
    assert [row["stability"] for row in clusters_of(folder)] == [None] * len(clusters_of(folder))
    assert sum(row["size"] for row in clusters_of(folder)) == 5


def test_batches_without_a_readable_image(trained, run, photos, tmp_path):
    folder = run("explain", tmp_path / "why", f"checkpoint={trained}", f"images={photos}", "batch_size=1")
    assert sum(row["size"] for row in clusters_of(folder)) == len(np.load(folder / "concepts.npy")) == 12


def test_a_run_that_was_stopped_before_its_description_goes_on(trained, run, explained, tmp_path, monkeypatch):
    settings = ("explain", tmp_path / "why", f"checkpoint={trained}", "limit=60", "batch_size=7")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(describing, "find_shortcuts", stop)
        with pytest.raises(KeyboardInterrupt):
            run(*settings)
    folder = run(*settings, "resume=true")
    for name in ("concepts.npy", "clusters.json"):
        assert (folder / name).read_bytes() == (explained / name).read_bytes()
