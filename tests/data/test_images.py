import numpy as np
import pytest
import torch
from torchvision.transforms.functional import pil_to_tensor

from whycluster.data import Batch, Folder, PreparedImages, image_loader, share_of_rank
from whycluster.data.images import collate


@pytest.fixture
def collection(tmp_path, picture):
    """Seven images, each of another brightness; the third and the last two cannot be read."""
    for number in range(7):
        picture.point(lambda value, shift=number: value + shift).save(tmp_path / f"{number}.png")
    for number in (2, 5, 6):
        (tmp_path / f"{number}.png").write_text("no image")
    return Folder(tmp_path)


@pytest.fixture
def images(collection):
    return PreparedImages(collection, pil_to_tensor)


def everything(loader):
    batches = list(loader)
    return (
        torch.cat([batch.indices for batch in batches]),
        torch.cat([batch.images for batch in batches if len(batch)]),
        {index: reason for batch in batches for index, reason in batch.skipped.items()},
    )


def test_items(images, pixels):
    index, image = images[1]
    assert index == 1
    assert torch.equal(image, torch.from_numpy(pixels + 1).permute(2, 0, 1))
    assert images[2] == (2, "not an image, or in a format that is not known")
    assert len(images) == 7


def test_rows_choose_and_order(collection):
    images = PreparedImages(collection, pil_to_tensor, [4, 2, 0])
    assert [images[place][0] for place in range(len(images))] == [4, 2, 0]


def test_other_errors_are_not_hidden(collection):
    def fails(image):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        PreparedImages(collection, fails)[0]


def test_collate():
    image = torch.arange(12, dtype=torch.uint8).view(3, 2, 2)
    batch = collate([(5, image), (7, "broken"), (2, image + 1)])
    assert batch.indices.tolist() == [5, 2]
    assert batch.images.dtype == torch.uint8
    assert torch.equal(batch.images, torch.stack([image, image + 1]))
    assert batch.skipped == {7: "broken"}
    assert len(batch) == 2


def test_collate_with_nothing_readable():
    batch = collate([(0, "broken"), (1, "empty")])
    assert len(batch) == 0
    assert batch.indices.dtype == torch.long
    assert batch.images.shape == (0,)
    assert batch.skipped == {0: "broken", 1: "empty"}


def test_batch_moves_its_images():
    batch = Batch(torch.tensor([3]), torch.zeros(1, 3, 2, 2, dtype=torch.uint8), {1: "broken"})
    moved = batch.to(torch.device("meta"))
    assert (moved.images.device.type, batch.images.device.type) == ("meta", "cpu")
    assert (moved.indices.tolist(), moved.skipped) == ([3], {1: "broken"})


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_loader_gives_each_image_once_and_in_order(images, batch_size):
    indices, tensors, skipped = everything(image_loader(images, batch_size, num_workers=0))
    assert indices.tolist() == [0, 1, 3, 4]
    assert all(torch.equal(tensor, images[index][1]) for index, tensor in zip(indices.tolist(), tensors, strict=True))
    assert set(skipped) == {2, 5, 6}


def test_workers_change_nothing(images):
    alone, helped = (everything(image_loader(images, 2, num_workers)) for num_workers in (0, 2))
    assert torch.equal(alone[0], helped[0])
    assert torch.equal(alone[1], helped[1])
    assert alone[2] == helped[2]


@pytest.mark.parametrize("world_size", [1, 2, 3, 10])
def test_ranks_share_the_images(images, world_size):
    parts = [list(image_loader(images, 2, 0, rank, world_size)) for rank in range(world_size)]
    taken = [index for part in parts for batch in part for index in (*batch.indices.tolist(), *batch.skipped)]
    assert sorted(taken) == list(range(7))


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("done", [[], [0, 1, 4], [2, 3, 4, 5], range(7)])
def test_what_is_done_changes_no_batch(images, world_size, done):
    alone = [sorted([*batch.indices.tolist(), *batch.skipped]) for batch in image_loader(images, 2, 0)]
    assert alone == [[0, 1], [2, 3], [4, 5], [6]]
    mask = np.isin(np.arange(7), list(done))
    loaders = [image_loader(images, 2, 0, rank, world_size, mask) for rank in range(world_size)]
    left = [batch.rows for loader in loaders for batch in loader if batch.rows]
    assert left == [batch for batch in alone if not set(batch) <= set(done)]
    assert all(len(loader) for loader in loaders)


@pytest.mark.parametrize("n_rows", [0, 1, 2, 7, 64, 1001])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 64])
def test_share_of_rank_covers_each_row_once(n_rows, world_size):
    rows = [f"row {number}" for number in range(n_rows)]
    shares = [share_of_rank(rows, rank, world_size) for rank in range(world_size)]
    assert [row for share in shares for row in share] == rows
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
