import numpy as np
import pytest

from whycluster.data import Progress, Stopwatch, progress


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", -1.0)


def noted(folder, rank, *batches):
    made = Progress(folder, "done", 10)
    made.begin(rank)
    for first, n in batches:
        assert made.add(first, n, {}, skipped={first: "empty"})
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
    made.add(0, 3, {}, skipped={})
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


def test_times_of_a_process_add_up_and_processes_work_side_by_side(tmp_path):
    quick, slow = Progress(tmp_path, "done", 10), Progress(tmp_path, "done", 10)
    quick.begin(0)
    slow.begin(1)
    for first, made, times in ((0, quick, {"a": 5.0}), (1, slow, {"a": 1.0, "b": 2.0}), (2, slow, {"a": 2.5})):
        made.add(first, 1, times)
        made.note()
    assert Progress(tmp_path, "done", 10).times() == {"a": 3.5, "b": 2.0}
    assert Progress(tmp_path, "other", 10).times() == {}


def test_a_stopwatch_says_where_time_went(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 3.5, 4.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    watch = Stopwatch()
    for part in ("waiting", "network", "waiting"):
        watch.lap(part)
    assert watch.taken() == {"waiting": 1.5, "network": 2.0}
    watch.lap("network")
    assert watch.taken() == {"network": 0.5}
    assert watch.taken() == {}
