import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from whycluster.data import Digits, Folder, Scenes, UnreadableImageError, describe_labels, has_labels, open_collection


@pytest.fixture
def folder(tmp_path, picture):
    """A nested folder with one file that is no image."""
    root = tmp_path / "photos"
    for name in ("cat/1.png", "cat/old/2.png", "dog/3.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(root / name)
    (root / "dog/4.jpg").write_text("no image")
    return root


def test_labels_are_the_names_of_the_folders_that_hold_the_images(folder):
    images = Folder(folder)
    assert images.paths == ["cat/1.png", "cat/old/2.png", "dog/3.png", "dog/4.jpg"]
    assert images.labels == ["cat", "old", "dog", "dog"]
    assert images.skipped == {}
    assert images.raw_features() is None


def test_flat_folder_has_no_labels(folder):
    images = Folder(str(folder / "cat/old"))
    assert (images.paths, images.labels) == (["2.png"], [""])


def test_mixed_folder_labels_what_lies_in_a_sub_folder(folder, picture):
    picture.save(folder / "top.png")
    assert Folder(folder).labels == ["cat", "old", "dog", "dog", ""]


@pytest.fixture
def splits(tmp_path):
    """Train and validation folders, in which the classes lie, and one image that lies in none."""
    for name in ("train/cat/a/1.png", "train/dog/b/2.png", "val/cat/c/3.png", "val/4.png", "5.png"):
        (tmp_path / "splits" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "splits" / name).touch()
    return tmp_path / "splits"


@pytest.mark.parametrize(
    ("level", "wanted"),
    [
        (None, ["", "a", "b", "val", "c"]), (-1, ["", "a", "b", "val", "c"]), (-2, ["", "cat", "dog", "", "cat"]),
        (-3, ["", "train", "train", "", "val"]), (-4, 5 * [""]), (1, ["", "train", "train", "val", "val"]),
        (2, ["", "cat", "dog", "", "cat"]), (3, ["", "a", "b", "", "c"]), (4, 5 * [""]),
    ],
)  # fmt: skip
def test_label_level(splits, level, wanted):
    images = Folder(splits, label_level=level)
    assert images.paths == ["5.png", "train/cat/a/1.png", "train/dog/b/2.png", "val/4.png", "val/cat/c/3.png"]
    assert images.labels == wanted
    again = open_collection(images.source)
    assert (again.labels, again.source) == (wanted, images.source)


@pytest.mark.parametrize("level", [0, 1.0, "1", True, "auto"])
def test_label_level_that_is_none(splits, level):
    with pytest.raises(ValueError, match=r"data\.label_level=.* should be null or a whole number but 0"):
        Folder(splits, label_level=level)


def test_source_of_an_earlier_version_means_the_uppermost_folder(splits):
    again = open_collection({"kind": "folder", "root": str(splits)})
    assert again.labels == ["", "train", "train", "val", "val"]
    assert open_collection(again.source).labels == again.labels


def test_one_line_says_what_the_labels_are(splits, folder):
    said = {level: describe_labels(Folder(splits, label_level=level)) for level in (None, 1, 2, 4)}
    assert said == {
        None: "labels: 4 names of the sub-folders that hold the images, such as 'a', 'b', 'c'; 1 of 5 images have none",
        1: "labels: 2 names of the folders at level 1, 'train', 'val'; 1 of 5 images have none",
        2: "labels: 2 names of the folders at level 2, 'cat', 'dog'; 2 of 5 images have none",
        4: "labels: none (no names of the folders at level 4)",
    }
    assert describe_labels(Folder(folder)) == (
        "labels: 3 names of the sub-folders that hold the images, 'cat', 'dog', 'old'"
    )
    assert describe_labels(Folder(folder / "cat", -1)) == (
        "labels: 'old' only (names of the sub-folders that hold the images); 1 of 2 images have none"
    )
    assert describe_labels(Digits()) == "labels: 10 values of the digits, such as '0', '1', '2'"
    assert describe_labels(Scenes("mark", 1)) == "labels: 2 names of the groups, 'marked', 'plain'"


def test_images_of_a_folder(folder, pixels):
    images = Folder(folder)
    np.testing.assert_array_equal(np.asarray(images.load(1)), pixels)
    assert images.file(1) == folder / "cat/old/2.png"
    with pytest.raises(UnreadableImageError, match="not an image"):
        images.load(3)


def test_single_file(folder, pixels):
    images = Folder(folder / "cat/1.png")
    assert (images.paths, images.labels) == (["1.png"], [""])
    assert images.file(0) == folder / "cat/1.png"
    np.testing.assert_array_equal(np.asarray(images.load(0)), pixels)


@pytest.mark.parametrize("name", ["", "cat/1.png"])
def test_folder_opens_again_from_elsewhere(folder, name, monkeypatch):
    monkeypatch.chdir(folder.parent)
    images = Folder(Path("photos") / name)
    monkeypatch.chdir("/")
    again = open_collection(images.source)
    assert isinstance(again, Folder)
    assert (again.paths, again.labels, again.source) == (images.paths, images.labels, images.source)
    again.load(0)


def test_home_is_known(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert len(Folder("~/photos").paths) == 4


def test_sentences_for_nothing_to_use(tmp_path):
    with pytest.raises(ValueError, match=r"the image folder '.*missing' does not exist\."):
        Folder(tmp_path / "missing")
    (tmp_path / ".hidden").touch()
    with pytest.raises(ValueError, match=r"the image folder '.*' has no files in it\."):
        Folder(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"no files in it; pipe: neither a file nor a folder\."):
        Folder(tmp_path)


def test_digits():
    images, known = Digits(), load_digits()
    assert len(images.paths) == len(set(images.paths)) == 1797
    assert images.labels == [str(value) for value in known.target]
    assert images.file(0) is None
    np.testing.assert_array_equal(images.raw_features(), known.data)
    image = images.load(5)
    assert (image.mode, image.size) == ("RGB", (8, 8))
    np.testing.assert_allclose(np.asarray(image)[..., 0] / 255, known.images[5] / 16, atol=0.5 / 255 + 1e-12)


@pytest.mark.parametrize("limit", [None, 3])
def test_digits_open_again(limit):
    again = open_collection(Digits(limit).source)
    assert isinstance(again, Digits)
    assert len(again.paths) == len(again.labels) == len(again.raw_features()) == (limit or 1797)


@pytest.mark.parametrize("source", [{"kind": "film", "root": "x"}, {"root": "x"}, {}])
def test_unknown_kind(source):
    with pytest.raises(ValueError, match=r"kind .* is unknown; this version knows digits, folder"):
        open_collection(source)


def test_opening_a_folder_that_went_away(folder):
    source = Folder(folder).source
    folder.rename(folder.with_name("moved"))
    with pytest.raises(ValueError, match="photos' does not exist"):
        open_collection(source)


@pytest.mark.parametrize(
    ("labels", "wanted"), [(["a", "b"], True), (["a", "a"], False), (["a", "b", ""], False), ([""], False), ([], False)]
)
def test_has_labels(labels, wanted):
    assert has_labels(labels) is wanted
