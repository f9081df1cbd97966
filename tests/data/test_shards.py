import numpy as np
import pytest
import torch

from whycluster.data import Shards


def entry(first, end, skipped=()):
    return {"first": first, "end": end, "skipped": dict.fromkeys(skipped, "empty"), "x": torch.arange(first, end)}


def test_what_exists_is_done(tmp_path):
    shards = Shards(tmp_path / "folder", 9)
    assert not shards.done().any()
    for first, end in ((0, 3), (6, 8)):
        shards.write(entry(first, end))
    assert np.flatnonzero(Shards(tmp_path / "folder", 9).done()).tolist() == [0, 1, 2, 6, 7]
    (tmp_path / "folder" / ".3-6.pt.1.2.part").touch()  # was being written when its process was killed
    assert np.flatnonzero(shards.done()).tolist() == [0, 1, 2, 6, 7]


def test_entries_come_in_the_order_of_images(tmp_path):
    shards = Shards(tmp_path, 300)
    for first in (100, 20, 3, 0):
        shards.write(entry(first, first + 2, skipped=[first]))
    assert [one["first"] for one in shards] == [0, 3, 20, 100]
    assert torch.cat([one["x"] for one in shards]).tolist() == [0, 1, 3, 4, 20, 21, 100, 101]
    assert shards.skipped() == {0: "empty", 3: "empty", 20: "empty", 100: "empty"}


def test_nothing_in_a_file_is_executed(tmp_path):
    class Harm:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save([Harm()], tmp_path / "0-2.pt")
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        list(Shards(tmp_path, 2))
