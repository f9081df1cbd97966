from itertools import chain

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from whycluster.data import Digits, PreparedImages
from whycluster.data.augmentation import AugmentedImages, EpochBatches, RowBatches


def rows_of(batches, epoch):
    batches.begin(epoch)
    return [rows.tolist() for _, rows, _ in batches]


def test_an_epoch_has_each_row_once_in_an_order_of_its_own():
    batches = EpochBatches(23, batch_size=5, seed=1)
    first, second = rows_of(batches, 0), rows_of(batches, 1)
    assert sorted(chain(*first)) == list(range(23))
    assert first != second
    assert rows_of(EpochBatches(23, 5, seed=1), 1) == second
    assert rows_of(EpochBatches(23, 5, seed=2), 1) != second
    assert len(first) == len(batches) == 5
    assert {len(batch) for batch in first} == {4, 5}


@pytest.mark.parametrize("world_size", [2, 3, 30])
def test_processes_divide_each_batch(world_size):
    alone = rows_of(EpochBatches(23, 5, seed=0), 3)
    shares = [rows_of(EpochBatches(23, 5, 0, rank, world_size), 3) for rank in range(world_size)]
    assert [list(chain(*parts)) for parts in zip(*shares, strict=True)] == alone
    assert [total for _, _, total in EpochBatches(23, 5, 0, 1, world_size)] == [len(batch) for batch in alone]


def images(limit=8):
    data = Digits(limit)
    return PreparedImages(data, lambda image: torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))


def test_what_happens_to_an_image_follows_from_seed_epoch_and_row():
    augment = v2.RandomAffine(30, fill=0)
    changed = AugmentedImages(images(), augment, seed=0)
    together = changed(np.array([5, 2]), 1)
    torch.manual_seed(9)
    before = torch.get_rng_state()
    assert torch.equal(changed(np.array([2]), 1)[0], together[1])
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(changed(np.array([2]), 2)[0], together[1])
    assert not torch.equal(AugmentedImages(images(), augment, seed=1)(np.array([2]), 1)[0], together[1])
    clean = AugmentedImages(images(), None, seed=0)(np.array([5, 2]), 1)
    assert torch.equal(clean, torch.stack([images()[5][1], images()[2][1]]))


def test_an_augmentation_that_changes_the_size_is_refused():
    with pytest.raises(ValueError, match=r"head.augment makes \(3, 4, 4\) .* of an image \(3, 8, 8\)"):
        AugmentedImages(images(), v2.CenterCrop(4), 0)(np.array([0]), 0)


def test_an_image_that_is_gone_is_named():
    data = Digits(3)

    def broken(image):
        raise OSError

    prepared = PreparedImages(data, broken)
    prepared.__class__ = type("Broken", (PreparedImages,), {"__getitem__": lambda self, row: (row, "it is gone")})
    with pytest.raises(ValueError, match=f"{data.paths[1]}.* could be read when the run began, .*: it is gone"):
        AugmentedImages(prepared, None, 0)(np.array([1]), 0)


def test_batches_of_no_rows_are_empty():
    batch = RowBatches(AugmentedImages(images(), None, 0))[0, np.arange(0), 5]
    assert (len(batch.rows), len(batch.inputs), batch.total) == (0, 0, 5)
