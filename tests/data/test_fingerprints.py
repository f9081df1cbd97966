import os
import shutil

import pytest
import torch
from PIL import Image

from whycluster.data import Digits, Folder
from whycluster.data.fingerprints import digest, fingerprint


@pytest.fixture
def photos(tmp_path):
    for number in range(3):
        Image.new("RGB", (8, 8), (60 * number, 0, 0)).save(tmp_path / f"{number}.bmp")
        os.utime(tmp_path / f"{number}.bmp", (10**9 + number, 10**9 + number))
    return tmp_path


def of(photos, times=True, rows=None):
    collection = Folder(photos)
    return fingerprint(collection, range(len(collection.paths)) if rows is None else rows, times)


def test_what_is_the_same_has_the_same(photos):
    assert of(photos) == of(photos)
    assert of(photos)["count"] == 3
    assert of(photos)["newest"].startswith("2.bmp of 2001-09-")


@pytest.mark.parametrize("change", ["size", "time", "name", "gone"])
def test_a_change_is_noticed(photos, change):
    before, before_timeless, first_two = of(photos), of(photos, times=False), of(photos, rows=[0, 1])
    if change == "size":
        (photos / "2.bmp").write_bytes(b"BM")
        os.utime(photos / "2.bmp", (10**9 + 2, 10**9 + 2))
    elif change == "time":
        os.utime(photos / "2.bmp", (2 * 10**9, 2 * 10**9))
        assert of(photos)["newest"].startswith("2.bmp of 2033-")
    elif change == "name":
        (photos / "2.bmp").rename(photos / "3.bmp")
    else:
        (photos / "2.bmp").unlink()
    assert of(photos)["digest"] != before["digest"]
    assert (of(photos, times=False) == before_timeless) == (change == "time")
    assert of(photos, rows=[0, 1]) == first_two


def test_a_copy_differs_by_time_only(photos, tmp_path_factory):
    other = shutil.copytree(photos, tmp_path_factory.mktemp("other") / "copy", copy_function=shutil.copyfile)
    assert of(photos, times=False) == of(other, times=False)
    assert of(photos) != of(other)


def test_images_that_are_no_files_have_names_only():
    assert fingerprint(Digits(3), range(3), times=True) == fingerprint(Digits(3), range(3))
    assert fingerprint(Digits(4), range(4)) != fingerprint(Digits(3), range(3))


def test_a_link_to_nowhere_is_no_error(photos):
    (photos / "9.bmp").symlink_to(photos / "none")
    assert of(photos)["count"] == 4


def test_a_digest_is_of_content(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"1")
    tensors = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0], dtype=torch.bfloat16), torch.tensor(3)
    assert digest([tmp_path / "a"]) == digest([tmp_path / "b"]) != digest([tmp_path / "a", tmp_path / "b"])
    assert len({digest([tensor]) for tensor in tensors}) == 3
    assert digest([torch.arange(6).view(2, 3).T]) != digest([torch.arange(6)])
