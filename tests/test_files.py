import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from whycluster.files import write_json, write_tensors, written_whole


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "folder" / "sub" / "table.csv"
    with written_whole(path) as beside:
        beside.write_text("half")
        assert not path.exists()
        assert beside.parent == path.parent
        assert beside.name.startswith(".")
    assert path.read_text() == "half"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_replaced_at_the_end_only(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with written_whole(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("begun", [True, False])
def test_a_failure_leaves_what_was_there(tmp_path, error, begun):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(error), written_whole(path) as beside:  # noqa: PT012  # the block is what fails
        if begun:
            beside.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_has_left_is_replaced(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(SystemExit), written_whole(path) as beside:  # noqa: PT012  # the block is what fails
            beside.write_text("more than half")
            raise SystemExit
    assert [file.suffix for file in tmp_path.iterdir()] == [".part"]
    with written_whole(path) as beside:
        beside.write_text("whole")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "whole"


@pytest.mark.parametrize("name", ["é" * 127, "n" * 255, "a b\n'\".csv", "日本語.npy"])
def test_any_name_that_a_file_system_takes(tmp_path, name):
    with written_whole(tmp_path / name) as beside:
        beside.write_text("whole")
    assert os.listdir(tmp_path) == [name]


def test_json_is_readable_for_people_and_programs(tmp_path):
    values = {"nmi": 0.5, "paths": ["Käse.png"], "beta": None}
    write_json(tmp_path / "metrics.json", values)
    text = (tmp_path / "metrics.json").read_text(encoding="utf-8")
    assert json.loads(text) == values
    assert '\n  "nmi": 0.5,\n' in text
    assert "Käse" in text
    assert text.endswith("}\n")


def test_json_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "metrics.json", {"value": object()})
    assert not list(tmp_path.iterdir())


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"a": float("nan"), "b": 1.5, "c": [1, {"d": float("inf")}]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": 1.5, "c": [1, {"d": None}]}


def test_tensors_have_the_same_bytes_under_any_name(tmp_path):
    content = {"weights": torch.arange(6.0).view(2, 3), "names": ["a"]}
    for name in ("a.ckpt", "another name.pt"):
        write_tensors(tmp_path / name, content)
    assert (tmp_path / "a.ckpt").read_bytes() == (tmp_path / "another name.pt").read_bytes()
    found = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert torch.equal(found["weights"], content["weights"])
    assert found["names"] == ["a"]


def test_two_threads_write_files_of_like_names_at_once(tmp_path):
    together = threading.Barrier(2)

    def write(name):
        with written_whole(tmp_path / name) as beside:
            together.wait(10)
            beside.write_text(name)
            together.wait(10)

    names = ["x" * 50 + "1", "x" * 50 + "2"]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, names))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: name for name in names}
