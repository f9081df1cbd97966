import csv
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from whycluster.data import Folder, PreparedImages, Shards
from whycluster.explain import Explainer, parse_target
from whycluster.explain.predict import ExplanationModule
from whycluster.output.explanations import (
    ExplanationWriter,
    assignment_rows,
    caption,
    counted,
    deepest,
    file_name,
    receipt_rows,
)
from whycluster.output.heatmaps import heatmap_picture
from whycluster.output.tables import ASSIGNMENTS, RECEIPTS, write_table
from whycluster.output.tensorboard import tile

NAMES = ("a.jpg", "a.png", "b/a.png", "b/c/deep", "quote\" new\nline'.png", "Käse 日本.png")


@pytest.fixture
def run(model, tmp_path):
    """Explains a folder of images into `tmp_path / "run"`."""

    def explain(root, target="assigned", batch_size=4):
        collection, targets = Folder(root), parse_target(target, 3)
        prepared = PreparedImages(collection, model.backbone.preprocessing)
        shards = Shards(tmp_path / "state", len(prepared))
        writer = ExplanationWriter(tmp_path / "run", collection, targets, shards)
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[writer],
        )
        module = ExplanationModule(Explainer(model), targets, prepared, shards, batch_size, 0)
        trainer.predict(module, return_predictions=False)
        return writer

    return explain


def assignments_of(writer):
    return read(writer, "assignments", ASSIGNMENTS, assignment_rows(writer.shards, writer.collection))


def receipts_of(writer):
    return read(writer, "receipts", RECEIPTS, receipt_rows(writer.shards, writer.collection, writer.targets))


def read(writer, name, columns, rows):
    path = writer.folder / f"{name}.csv"
    write_table(path, columns, rows)
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def gallery_of(writer):
    prepared = PreparedImages(writer.collection, lambda image: torch.zeros(3, *image.size[::-1], dtype=torch.uint8))
    return deepest(writer.shards, prepared, writer.targets, writer.folder)


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def expected(model, writer, target="assigned"):
    paths = [writer.collection.file(index) for index in range(len(writer.collection.paths))]
    return Explainer(model).explain(paths, target)


def test_a_heatmap_and_an_array_for_each_image(model, run, folder_of):
    writer = run(folder_of(*NAMES))

    assert files(writer.folder / "heatmaps") == sorted(f"{name}.png" for name in NAMES)
    assert files(writer.folder / "relevance") == sorted(f"{name}.npy" for name in NAMES)
    explanation = expected(model, writer)
    for index, path in enumerate(writer.collection.paths):
        heatmap = np.load(writer.folder / "relevance" / f"{path}.npy")
        assert (heatmap.shape, heatmap.dtype) == ((32, 32), np.float32)
        ours = explanation.heatmap[index].numpy()
        np.testing.assert_allclose(heatmap, ours, rtol=1e-3, atol=1e-4 * np.abs(ours).max())
        words = caption(path, writer.targets[0], explanation, index)
        photo = np.asarray(Image.open(writer.collection.file(index)))
        with Image.open(writer.folder / "heatmaps" / f"{path}.png") as picture:
            assert np.array_equal(picture, heatmap_picture(photo, heatmap, words))


def test_tables_have_a_row_for_each_image_in_order(model, run, folder_of):
    writer = run(folder_of(*NAMES))
    assignments, receipts = assignments_of(writer), receipts_of(writer)
    explanation = expected(model, writer)
    assert [row["path"] for row in assignments] == [row["path"] for row in receipts] == writer.collection.paths
    assert [row["label"] for row in assignments] == writer.collection.labels
    assert {row["label"] for row in assignments} == {"", "b", "c"}
    assert {row["target"] for row in receipts} == {"assigned"}
    assert [int(row["cluster"]) for row in assignments] == explanation.cluster.tolist()
    assert [int(row["runner_up"]) for row in assignments] == explanation.assignment.runner_up.tolist()
    for rows, source, names in (
        (assignments, explanation.assignment, ("discriminant", "probability")),
        (receipts, explanation.receipt, RECEIPTS[2:]),
    ):
        for name in names:
            values = [float(row[name]) for row in rows]
            np.testing.assert_allclose(values, getattr(source, name), rtol=1e-3, atol=1e-2, err_msg=name)


def test_several_targets_have_a_folder_each(model, run, folder_of):
    writer = run(folder_of("a.png", "b/c.png"), "all")
    expected_files = [f"target_{target}/{path}" for target in range(3) for path in ("a.png", "b/c.png")]
    assert files(writer.folder / "heatmaps") == [f"{path}.png" for path in expected_files]
    assert files(writer.folder / "relevance") == [f"{path}.npy" for path in expected_files]
    for target in range(3):
        heatmap = np.load(writer.folder / "relevance" / f"target_{target}" / "b" / "c.png.npy")
        ours = expected(model, writer, target).heatmap[1].numpy()
        np.testing.assert_allclose(heatmap, ours, rtol=1e-3, atol=1e-4 * np.abs(ours).max())
    receipts = [(row["path"], row["target"]) for row in receipts_of(writer)]
    assert receipts == [(path, str(target)) for path in ("a.png", "b/c.png") for target in range(3)]
    assert [row["path"] for row in assignments_of(writer)] == ["a.png", "b/c.png"]
    assert {cluster: len(items) for cluster, items in gallery_of(writer).kept().items()} == {0: 2, 1: 2, 2: 2}
    assert counted(writer.shards).images == 2


@pytest.mark.parametrize("target", ["runner_up", "2", "1:0"])
def test_one_target_needs_no_folder_of_its_own(model, run, folder_of, target):
    writer = run(folder_of("a.png", "b.png"), target)
    assert files(writer.folder / "heatmaps") == ["a.png.png", "b.png.png"]
    assert [row["target"] for row in receipts_of(writer)] == [target, target]
    explained = set(expected(model, writer, target).target.tolist())
    assert set(gallery_of(writer).kept()) == explained


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_what_cannot_be_read_is_skipped_with_its_reason(run, folder_of, batch_size):
    root = folder_of("a.png", "c.png")
    (root / "b.txt").write_text("no image")
    (root / "d.png").write_bytes(b"")
    writer = run(root, batch_size=batch_size)
    reasons = {1: "not an image, or in a format that is not known", 3: "the file is empty"}
    assert writer.shards.skipped() == reasons
    assert counted(writer.shards).images == 2
    assert files(writer.folder / "heatmaps") == ["a.png.png", "c.png.png"]
    assert [row["path"] for row in assignments_of(writer)] == ["a.png", "c.png"]


def test_a_run_leaves_no_unfinished_files(run, folder_of):
    writer = run(folder_of("a.png"))
    assert files(writer.folder) == ["heatmaps/a.png.png", "relevance/a.png.npy"]


def test_what_is_done_is_not_done_again(run, folder_of, tmp_path):
    root = folder_of(*(f"{number}.png" for number in range(7)))
    (root / "3.png").write_text("no image")
    writer = run(root, batch_size=2)
    expected_rows = assignments_of(writer), receipts_of(writer)
    for name in ("2-4.pt", "6-7.pt"):
        (tmp_path / "state" / name).unlink()
    written = {path: path.stat().st_mtime_ns for path in (writer.folder / "heatmaps").iterdir() if path.is_file()}
    again = run(root, batch_size=2)
    new = {path.name for path, at in written.items() if path.stat().st_mtime_ns != at}
    assert new == {"2.png.png", "6.png.png"}
    assert (assignments_of(again), receipts_of(again)) == expected_rows


def test_a_disk_that_is_full_ends_the_run_and_nothing_is_done(run, folder_of, tmp_path, monkeypatch):
    def full(file, array):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        run(folder_of("a.png"))
    assert not (tmp_path / "state").exists()
    assert not list((tmp_path / "run" / "relevance").iterdir())


def test_a_gallery_shows_what_was_written(run, folder_of):
    writer = run(folder_of("a.png", "b.png"))
    ((value, path, place), *_), *_ = gallery_of(writer).kept().values()
    picture = gallery_of(writer)._picture(place, f"{path}\ndiscriminant {value:.4g}")
    heatmap = np.load(writer.folder / "relevance" / f"{path}.npy")
    assert np.array_equal(picture, tile(np.zeros((32, 32, 3), np.uint8), heatmap, f"{path}\ndiscriminant {value:.4g}"))
    writer.collection.file(place[0]).unlink()
    assert gallery_of(writer)._picture(place, "") is None  # gone by now


def test_the_longest_names_that_a_file_system_takes(run, folder_of):
    names = [f"{letter * 250}.png" for letter in "no"] + ["é" * 123 + ".1.png", "é" * 123 + ".2.png"]
    writer = run(folder_of(*names))
    for folder, ending in (("heatmaps", ".png"), ("relevance", ".npy")):
        written = files(writer.folder / folder)
        assert len(written) == 4
        assert all(name.endswith(ending) for name in written)
    assert [row["path"] for row in assignments_of(writer)] == sorted(names)


@pytest.mark.parametrize(
    "path", ["a.png", "b/c/d.jpg", "x" * 240, f"{'f' * 255}/{'g' * 240}", "é" * 120, "日本/" + "語" * 80]
)
def test_names_with_room_for_an_ending_are_left(path):
    assert file_name(path) == path


@pytest.mark.parametrize("folder", ["photo.png", "photo.PNG", "b/photo.npy"])
def test_a_folder_is_not_taken_for_the_file_of_an_image(folder):
    inside = file_name(f"{folder}/a")
    assert inside.startswith(f"{folder}-")
    assert inside.endswith("/a")
    assert file_name(f"{folder}/a") == inside != file_name(f"{folder[:-3]}Npy/a")
    taken = {f"{file_name(folder[:-4])}{ending}" for ending in (".png", ".npy", ".PNG")}
    assert not taken & {str(parent) for parent in Path(inside).parents}


@pytest.mark.parametrize("name", ["x" * 241, "é" * 121, "語" * 81, "x" + "é" * 127])
def test_longer_names_are_cut_and_stay_different(name):
    cut = file_name(f"folder/{name}")
    assert cut.startswith(f"folder/{name[:70]}")
    assert len(cut.removeprefix("folder/").encode()) <= 240
    assert file_name(f"folder/{name[:-1]}?") != cut
    assert file_name(f"folder/{name}") == cut


@pytest.mark.parametrize(
    ("target", "question"),
    [
        ("assigned", "red speaks for cluster {c}, blue against it; "),
        ("runner_up", "why {e}: discriminant {d}\nred speaks for {e}, blue against it; "),
        ("1", "why 1: discriminant {d}\nred speaks for 1, blue against it; "),
        ("1:2", "why 1 and not 2: discriminant {d}\nred speaks for 1, blue against it; "),
    ],
)
def test_captions_say_what_is_explained(model, target, question):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    explanation = Explainer(model).explain(images, target)
    cluster, discriminant, probability, runner_up = (column[1].item() for column in explanation.assignment)
    name, where, asked = caption("a/b.png", *parse_target(target, 3), explanation, 1).split("\n", 2)
    assert name == "a/b.png"
    assert where == (
        f"cluster {cluster}, runner-up {runner_up}, discriminant {discriminant:.4g}, probability {probability:.0%}"
    )
    explained = {"c": cluster, "e": int(explanation.target[1]), "d": f"{float(explanation.discriminant[1]):.4g}"}
    share = float(explanation.receipt.pixels[1] / explanation.discriminant[1])
    assert asked == f"{question.format(**explained)}the pixels hold {share:.0%} of the discriminant"
