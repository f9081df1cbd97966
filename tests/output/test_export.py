import errno
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from whycluster.data import Digits, Folder
from whycluster.output.export import check_export, export_clusters

NAMES = ("cat/1.png", "cat/old/1.png", "dog/na me'.png")
CLUSTERS = [(0, 1), (1, 0), (2, 1)]
LAID_OUT = ["0/cat/old/1.png", "1/cat/1.png", "1/dog/na me'.png"]


@pytest.fixture
def collection(folder_of):
    return Folder(folder_of(*NAMES))


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.parametrize("export", ["links", "copies"])
def test_images_lie_in_the_folder_of_their_cluster(tmp_path, collection, export):
    export_clusters(tmp_path / "clusters", collection, iter(CLUSTERS), export)
    assert files(tmp_path / "clusters") == LAID_OUT
    for index, cluster in CLUSTERS:
        place = tmp_path / "clusters" / str(cluster) / collection.paths[index]
        assert place.read_bytes() == collection.file(index).read_bytes()
        assert place.is_symlink() == (export == "links")


def test_links_point_to_the_files_themselves(tmp_path, folder_of, monkeypatch):
    folder_of(*NAMES)
    monkeypatch.chdir(tmp_path)
    collection = Folder("photos")
    export_clusters(tmp_path / "clusters", collection, CLUSTERS, "links")
    monkeypatch.chdir("/")
    link = tmp_path / "clusters" / "1" / "cat" / "1.png"
    assert link.readlink() == tmp_path / "photos" / "cat" / "1.png"
    assert link.is_file()


def test_images_that_are_no_files_are_written(tmp_path):
    digits = Digits(limit=3)
    for export in ("links", "copies"):
        export_clusters(tmp_path / export, digits, [(0, 2), (2, 0)], export)
        assert files(tmp_path / export) == ["0/0002.png", "2/0000.png"]
        with Image.open(tmp_path / export / "0" / "0002.png") as written:
            assert ImageChops.difference(written, digits.load(2)).getbbox() is None


def test_none_writes_nothing(tmp_path, collection):
    export_clusters(tmp_path / "clusters", collection, CLUSTERS, "none")
    assert not (tmp_path / "clusters").exists()


def test_an_old_export_is_replaced(tmp_path, collection):
    folder = tmp_path / "clusters"
    export_clusters(folder, collection, [(0, 7), (1, 7)], "links")
    export_clusters(folder, collection, CLUSTERS, "copies")
    assert files(folder) == LAID_OUT
    assert all(collection.file(index).exists() for index in range(3))


@pytest.mark.parametrize("export", ["link", "", "COPIES", None])
def test_other_choices_are_refused(tmp_path, collection, export):
    for check in (check_export, lambda choice: export_clusters(tmp_path / "clusters", collection, CLUSTERS, choice)):
        with pytest.raises(ValueError, match="is unknown; choose from none, links, copies"):
            check(export)
    assert not (tmp_path / "clusters").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_an_error(tmp_path, collection, monkeypatch, number):
    def full(source, place):
        Path(place).write_bytes(b"half")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(OSError, match=os.strerror(number)):
        export_clusters(tmp_path / "clusters", collection, CLUSTERS, "copies")


def test_half_of_a_copy_does_not_stay(tmp_path, collection, monkeypatch):
    copy = shutil.copy2

    def broken(source, place):
        copy(source, place)
        if "cat/1" in str(source):
            raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(shutil, "copy2", broken)
    failed = export_clusters(tmp_path / "clusters", collection, CLUSTERS, "copies")
    assert list(failed) == ["cat/1.png"]
    assert "input/output error" in failed["cat/1.png"]
    assert files(tmp_path / "clusters") == [name for name in LAID_OUT if not name.endswith("cat/1.png")]


def test_a_name_too_long_to_lay_out_is_told(tmp_path, collection, monkeypatch):
    monkeypatch.setattr(collection, "paths", [f"{'x' * 300}/1.png", *collection.paths[1:]])
    monkeypatch.setattr(collection, "file", lambda index: collection.root / NAMES[index])
    failed = export_clusters(tmp_path / "clusters", collection, CLUSTERS, "copies")
    assert list(failed) == [collection.paths[0]]
    assert "too long" in failed[collection.paths[0]]
