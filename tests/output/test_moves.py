import json

import pytest

from whycluster.errors import UserError
from whycluster.output.moves import clusters_in, write_moves
from whycluster.output.tables import ASSIGNMENTS, write_table

NAMES = ("=a.jpg", "b/c.jpg", "d, e.jpg")


def run_of(folder, clusters):
    rows = [(name, cluster, 0.5, 0.9, 1, "") for name, cluster in zip(NAMES, clusters, strict=True)]
    write_table(folder / "assignments.csv", ASSIGNMENTS, rows)
    return folder


def test_clusters_come_back_under_the_names_of_the_images(tmp_path):
    assert clusters_in(run_of(tmp_path / "run", (2, 0, 2))) == {"=a.jpg": 2, "b/c.jpg": 0, "d, e.jpg": 2}


def test_the_file_of_moves(tmp_path):
    before, after = run_of(tmp_path / "before", (2, 0, 2)), run_of(tmp_path / "after", (1, 1, 0))
    assert write_moves(after, "before", clusters_in(before)).moved == 1
    found = json.loads((after / "moves.json").read_text())
    assert found["run"] == "before"
    assert (found["before"], found["after"], found["counts"]) == ([0, 2], [0, 1], [[0, 1], [1, 1]])


def test_another_folder_and_other_images_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"compare='.*nothing' should be the folder of a finished run"):
        clusters_in(tmp_path / "nothing")
    with pytest.raises(UserError, match="compare='old' has no image in common with this run"):
        write_moves(run_of(tmp_path / "run", (0, 0, 1)), "old", {"x.jpg": 1})
