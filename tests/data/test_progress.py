import numpy as np
import pytest

from whycluster.data import Progress, progress


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", -1.0)


def noted(folder, rank, *batches):
    made = Progress(folder, "done", 10)
    made.begin(rank)
    for first, n in batches:
        assert made.add(first, n, skipped={first: "empty"})
        made.note()
    return made


def test_what_is_noted_is_known_to_the_next(tmp_path):
    before = noted(tmp_path, 0, (0, 3), (6, 2))
    assert before.written == 5
    assert not before.done.any()
    after = Progress(tmp_path, "done", 10)
    assert np.flatnonzero(after.done).tolist() == [0, 1, 2, 6, 7]
    assert after.written == 0
    assert not Progress(tmp_path, "other", 10).done.any()


def test_what_is_not_noted_is_not_done(tmp_path):
    made = Progress(tmp_path, "done", 10)
    made.begin(0)
    made.add(0, 3, skipped={})
    assert not Progress(tmp_path, "done", 10).done.any()


def test_entries_of_several_processes_come_in_the_order_of_images(tmp_path):
    noted(tmp_path, 1, (5, 2), (7, 3))
    noted(tmp_path, 0, (3, 2))
    noted(tmp_path, 2, (0, 3))
    made = Progress(tmp_path, "done", 10)
    assert [entry["rows"] for entry in made.entries()] == [[0, 3], [3, 5], [5, 7], [7, 10]]
    assert made.skipped() == {0: "empty", 3: "empty", 5: "empty", 7: "empty"}
    assert made.done.all()


def test_a_batch_that_is_noted_twice_counts_once(tmp_path):
    noted(tmp_path, 0, (0, 3), (0, 3), (3, 1))
    assert [entry["rows"] for entry in Progress(tmp_path, "done", 10).entries()] == [[0, 3], [3, 4]]


def test_times_of_a_process_add_up_and_processes_work_side_by_side(tmp_path, monkeypatch):
    now = iter(np.arange(0, 100, 2.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    noted(tmp_path, 0, (0, 1), (1, 1))
    noted(tmp_path, 1, (2, 1))
    noted(tmp_path, 0, (3, 1))
    one = [entry["seconds"] for entry in Progress(tmp_path, "done", 10).entries()]
    assert Progress(tmp_path, "done", 10).seconds() == pytest.approx(one[0] + one[1] + one[3])
