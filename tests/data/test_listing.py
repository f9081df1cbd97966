import os

import pytest

from whycluster.data.listing import list_files

ODD_NAMES = [
    "with space.png",
    "Grün Äpfel.png",
    "日本.png",
    "new\nline.png",
    "'single' \"double\".png",
    "a,b;c.png",
    "-x",
    "%20",
]


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_nested_folders_in_sorted_order(tmp_path):
    names = ["b/2.png", "b/10.png", "a/z.png", "top.png", "a/deep/er/x.png", "B/1.png"]
    touch(tmp_path, *names)
    assert list_files(tmp_path) == (sorted(names), {})


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names(tmp_path, name):
    touch(tmp_path, name, f"{name}.folder/{name}")
    assert list_files(tmp_path).paths == sorted([name, f"{name}.folder/{name}"])


def test_hidden_files_and_folders_are_left_out(tmp_path):
    touch(tmp_path, ".DS_Store", ".git/config", "a/.hidden.png", "a/seen.png")
    assert list_files(tmp_path) == (["a/seen.png"], {})


@pytest.mark.parametrize("request_file", [".request.json", "unfinished/request.json"])
def test_results_of_this_program_below_the_photos_are_no_photos(tmp_path, request_file):
    touch(tmp_path, "a.png", f"outputs/train/1/{request_file}", "outputs/train/1/clusters/0/a.png", "outputs/b.png")
    (tmp_path / "outputs" / "link").symlink_to(tmp_path / "outputs" / "train" / "1")
    assert list_files(tmp_path) == (["a.png", "outputs/b.png"], {})
    assert list_files(tmp_path / "outputs" / "train" / "1" / "clusters").paths == ["0/a.png"]
    assert "clusters/0/a.png" in list_files(tmp_path / "outputs" / "train" / "1").paths  # who names it means it


def test_loops_of_links_end(tmp_path):
    touch(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "a/self").symlink_to(".")
    (tmp_path / "b/across").symlink_to("../a")
    assert list_files(tmp_path).paths == ["a/1.png", "b/2.png"]


def test_link_to_itself_does_not_cost_the_folder(tmp_path):
    touch(tmp_path, "1.png", "a/2.png")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "a/loop").symlink_to("loop")
    assert list_files(tmp_path).paths == ["1.png", "a/2.png", "a/loop", "loop"]  # reading a loop says what it is


def test_links_are_followed_and_broken_ones_kept(tmp_path):
    touch(tmp_path, "elsewhere/1.png", "root/2.png")
    (tmp_path / "root/folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/file").symlink_to(tmp_path / "elsewhere/1.png")
    (tmp_path / "root/broken").symlink_to("nowhere")
    assert list_files(tmp_path / "root").paths == ["2.png", "broken", "file", "folder/1.png"]


@pytest.mark.parametrize("link", ["a/link", "link", "z"])
def test_a_folder_goes_by_its_own_name_before_a_link(tmp_path, link):
    touch(tmp_path, "a/1.png", "m/2.png")
    (tmp_path / link).symlink_to(tmp_path / "m")
    assert list_files(tmp_path).paths == ["a/1.png", "m/2.png"]


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    touch(tmp_path / "outside", "1.png")
    root = tmp_path / "root"
    root.mkdir()
    for name in "cab":
        (root / name).symlink_to(tmp_path / "outside")
    assert list_files(root).paths == ["a/1.png"]


def test_neither_file_nor_folder_is_told(tmp_path):
    touch(tmp_path, "1.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert list_files(tmp_path) == (["1.png"], {"pipe.png": "neither a file nor a folder"})


def test_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.png", "shut/2.png")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list_files(tmp_path) == (["a/1.png"], {"shut": "the folder cannot be read: Permission denied"})
    with pytest.raises(ValueError, match=r"the image folder .*shut' cannot be read: Permission denied"):
        list_files(tmp_path / "shut")


def test_sentences_for_no_folder(tmp_path):
    touch(tmp_path, "file")
    with pytest.raises(ValueError, match=r"the image folder '.*missing' does not exist\."):
        list_files(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"the image folder '.*file' is no folder\."):
        list_files(tmp_path / "file")


def test_empty_folder_has_no_files(tmp_path):
    assert list_files(tmp_path) == ([], {})


def test_a_name_that_is_no_text_is_skipped_with_its_bytes(tmp_path):
    (tmp_path / "good.png").touch()
    with open(os.fsencode(tmp_path) + b"/b\xe4d.png", "wb"):
        pass
    listing = list_files(tmp_path)
    assert listing.paths == ["good.png"]
    assert listing.skipped == {"b\\xe4d.png": "the name is not UTF-8; rename it"}
