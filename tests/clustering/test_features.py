import subprocess
import sys

import numpy as np
import pytest
import torch

from whycluster.clustering import features
from whycluster.clustering.features import FeatureStore, blocks


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "BATCH_BYTES", 7 * 4 * 3)  # seven rows at once
    rows = torch.from_numpy(np.random.RandomState(0).randn(23, 3) + 100).float()
    return FeatureStore.write(tmp_path / "features.npy", rows.split(5), 23, 3)


def test_the_file_is_plain_numpy(store):
    assert np.load(store.path).shape == (23, 3)
    assert np.load(store.path).dtype == np.float32
    np.testing.assert_allclose(np.load(store.path), np.random.RandomState(0).randn(23, 3) + 100, rtol=1e-6)


def test_batches_are_all_rows_in_order(store):
    batches = list(store.batches())
    assert max(len(batch) for batch in batches) == 7
    np.testing.assert_array_equal(torch.cat(batches).numpy(), store.open())


def test_batches_are_small_where_much_is_computed_from_each_row(store):
    assert [len(batch) for batch in store.batches(width=9)] == [2] * 11 + [1]
    assert store.batch_rows(width=1000) == 1


def test_a_file_that_the_disk_has_no_room_for_is_an_error(tmp_path):
    script = (
        "import resource, sys, torch; from pathlib import Path\n"
        "from whycluster.clustering.features import FeatureStore\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"  # as a full disk is, without filling one
        "try: FeatureStore.write(Path(sys.argv[1]), [torch.ones(500, 100)] * 2, 1000, 100)\n"
        "except OSError as error: print(error.strerror)"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "f.npy"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "File too large\n"), done.stderr
    assert not list(tmp_path.iterdir())


def test_blocks_do_not_depend_on_the_parts():
    rows = torch.arange(46.0).view(23, 2)
    wanted = rows.split(5)
    for size in (1, 2, 5, 7, 23):
        found = list(blocks(rows.split(size), 5))
        assert len(found) == len(wanted)
        assert all(map(torch.equal, found, wanted))
    assert list(blocks([], 5)) == []
