import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from whycluster.data import Digits, Folder, UnreadableImageError, has_labels, open_collection


@pytest.fixture
def folder(tmp_path, picture):
    """A nested folder with one file that is no image."""
    root = tmp_path / "photos"
    for name in ("cat/1.png", "cat/old/2.png", "dog/3.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(root / name)
    (root / "dog/4.jpg").write_text("no image")
    return root


def test_nested_folder_has_its_uppermost_names_as_labels(folder):
    images = Folder(folder)
    assert images.paths == ["cat/1.png", "cat/old/2.png", "dog/3.png", "dog/4.jpg"]
    assert images.labels == ["cat", "cat", "dog", "dog"]
    assert images.skipped == {}
    assert images.raw_features() is None


def test_flat_folder_has_no_labels(folder):
    images = Folder(str(folder / "cat/old"))
    assert (images.paths, images.labels) == (["2.png"], [""])


def test_mixed_folder_labels_what_lies_in_a_sub_folder(folder, picture):
    picture.save(folder / "top.png")
    assert Folder(folder).labels == ["cat", "cat", "dog", "dog", ""]


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
