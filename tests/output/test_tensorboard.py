import gc
import io
import weakref

import numpy as np
import pytest
from PIL import Image, ImageFont
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from whycluster.output import tensorboard
from whycluster.output.heatmaps import enlarged
from whycluster.output.tensorboard import (
    CARD,
    GALLERY,
    ON_A_CARD,
    PAIRS,
    PHOTOS,
    ExplanationGallery,
    gallery_tile,
    in_rows,
    tile,
    write_cluster_sizes,
    write_embedding,
    write_gallery,
)

PHOTO = np.random.RandomState(1).randint(0, 256, (8, 8, 3), np.uint8)
HEATMAP = np.random.RandomState(0).randn(8, 8)


def read(folder):
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def image(events, tag):
    (event,) = events.Images(tag)
    return Image.open(io.BytesIO(event.encoded_image_string))


def test_cluster_sizes(board):
    with SummaryWriter(board) as writer:
        write_cluster_sizes(writer, [3, 0, 12])
    events = read(board)
    assert [(event.step, event.value) for event in events.Scalars("clusters/size")] == [(0, 3), (1, 0), (2, 12)]
    (text,) = events.Tensors("clusters/sizes/text_summary")
    table = text.tensor_proto.string_val[0].decode().splitlines()
    assert table == ["| cluster | images |", "| ---: | ---: |", "| 0 | 3 |", "| 1 | 0 |", "| 2 | 12 |"]


def test_a_gallery_has_rows(board):
    tiles = [Image.new("RGB", (10, 20), (number * 30, 0, 0)) for number in range(7)]
    tiles.append(Image.new("RGB", (12, 8), "blue"))
    with SummaryWriter(board) as writer:
        write_gallery(writer, 4, tiles, 4)
        write_gallery(writer, 5, [], 4)
    events = read(board)
    assert events.Tags()["images"] == ["cluster 4/1 to 6", "cluster 4/7 to 8"]
    first, second = (np.asarray(image(events, tag)) for tag in events.Tags()["images"])
    assert first.shape == (2 * 20, 4 * 10, 3)
    for number in range(6):
        assert first[number // 4 * 20, number % 4 * 10].tolist() == [number * 30, 0, 0]
    assert second.shape == (20, 2 * 12, 3)
    assert second[0, 0].tolist() == [180, 0, 0]
    assert second[0, 12].tolist() == [0, 0, 255]
    assert second[10, 12].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("panels", "columns"), [(1, PHOTOS), (2, PAIRS)])
@pytest.mark.parametrize("side", [8, 224, 518])
def test_captions_can_be_read_on_a_card(panels, columns, side):
    """The letter x is as tall there as in a text of 12 pixels, whatever the size of the photos."""
    photo = np.zeros((side, side, 3), np.uint8)
    one = gallery_tile([photo] * panels, "x", columns)
    ink = np.asarray(one)[: one.height - enlarged(photo).shape[0] - 6].min(2) < 128
    tall = np.flatnonzero(ink.any(1))
    x = ImageFont.load_default(120).getbbox("x")
    on_card = (np.ptp(tall) + 1) * CARD / (one.width * columns)
    assert on_card == pytest.approx(12 * (x[3] - x[1]) / 120, abs=0.6)
    sheet = in_rows([one] * ON_A_CARD, columns)
    assert 0.6 < sheet.width / sheet.height < 1.7


@pytest.mark.parametrize(("n_tiles", "size"), [(1, (5, 7)), (3, (15, 7)), (4, (20, 7)), (5, (20, 14))])
def test_a_sheet_is_no_larger_than_its_pictures(n_tiles, size):
    assert in_rows([Image.new("RGB", (5, 7))] * n_tiles, columns=4).size == size


@pytest.mark.parametrize(("n_points", "side"), [(1, 64), (5, 64), (16, 64), (17, 51), (100, 25)])
def test_the_embedding_has_a_thumbnail_and_a_row_for_each_point(board, monkeypatch, n_points, side):
    assert tensorboard.SPRITE_SIDE == 8192
    monkeypatch.setattr(tensorboard, "SPRITE_SIDE", 256)  # so many images that they fill 8192 pixels take half a minute
    photos = [Image.new("RGB", (80, 80), (200, 100, number % 5)) for number in range(5)]
    features = np.arange(n_points * 2, dtype=np.float32).reshape(n_points, 2)
    rows = [[f"{number}.png", str(number % 3), ""] for number in range(n_points)]
    with SummaryWriter(board) as writer:
        write_embedding(writer, features, [photos[n % 5] for n in range(n_points)], rows, ["path", "cluster", "label"])
    (sprite,) = board.rglob("sprite.png")
    per_row = int(np.ceil(np.sqrt(n_points)))
    with Image.open(sprite) as picture:
        assert picture.size == (per_row * side, per_row * side)
        assert max(picture.size) <= 256
        last = n_points - 1
        at = (last % per_row * side + side // 2, last // per_row * side + side // 2)
        expected = (200, 100, last % 5)
        assert np.abs(np.subtract(picture.getpixel(at), expected)).max() <= 1
    lines = (board / "00000" / "features" / "metadata.tsv").read_text().splitlines()
    assert lines == ["path\tcluster\tlabel", *("\t".join(row) for row in rows)]
    vectors = np.loadtxt(board / "00000" / "features" / "tensors.tsv", delimiter="\t", ndmin=2)
    assert np.array_equal(vectors, features)
    assert f"single_image_dim: {side}" in (board / "projector_config.pbtxt").read_text()


@pytest.mark.parametrize("name", ["a\tb", "a\nb", "a\r\nb", "\ra", "日本\t"])
def test_labels_do_not_break_the_rows(board, name):
    photo = Image.new("RGB", (4, 4))
    with SummaryWriter(board) as writer:
        write_embedding(writer, np.zeros((2, 3)), [photo] * 2, [[name, name], ["b", ""]], ["path", "label"])
    text = (board / "00000" / "features" / "metadata.tsv").read_bytes().decode("utf-8")
    lines = text.removesuffix("\n").split("\n")
    assert [len(line.split("\t")) for line in lines] == [2, 2, 2]
    assert "\r" not in text


def offers(n, seed=0):
    """Cluster, discriminant and path of images, with ties among the discriminants."""
    random = np.random.RandomState(seed)
    return [(int(random.randint(3)), float(random.randint(25)), f"{number:04d}.png") for number in range(n)]


def filled(offered):
    gallery = ExplanationGallery(lambda place, title: tile(PHOTO, HEATMAP, title))
    for cluster, discriminant, path in offered:
        gallery.offer(cluster, discriminant, path, (0, path))
    return gallery


def names(gallery):
    return {cluster: [item[:2] for item in items] for cluster, items in gallery.kept().items()}


def test_the_deepest_images_are_kept():
    offered = offers(150)
    expected = {
        cluster: sorted(((value, path) for k, value, path in offered if k == cluster), reverse=True)[:GALLERY]
        for cluster in range(3)
    }
    assert names(filled(offered)) == expected
    assert list(filled(offered).kept()) == [0, 1, 2]


def test_memory_does_not_grow_with_the_images():
    class Place:
        pass

    gallery, seen = ExplanationGallery(lambda place, title: None), []
    for number in range(60):
        place = Place()
        gallery.offer(0, number, f"{number}.png", place)
        seen.append(weakref.ref(place))
    del place
    gc.collect()
    assert sum(place() is not None for place in seen) == GALLERY


def test_a_written_gallery(board):
    gallery = filled([(2, -1.0, "a.png"), *((0, float(n), f"{n}.png") for n in range(20))])
    with SummaryWriter(board) as writer:
        gallery.write(writer)
    events = read(board)
    assert events.Tags()["images"] == ["cluster 0/1 to 6", "cluster 0/7 to 12", "cluster 2/1 to 1"]
    one = tile(PHOTO, HEATMAP, "a.png\ndiscriminant -1")
    assert np.array_equal(image(events, "cluster 2/1 to 1"), one)
    sheet = image(events, "cluster 0/1 to 6")
    assert sheet.size == (2 * one.width, 3 * one.height)
    deepest = sheet.crop((0, 0, one.width, one.height))
    assert np.array_equal(deepest, tile(PHOTO, HEATMAP, "19.png\ndiscriminant 19"))
    seventh = image(events, "cluster 0/7 to 12").crop((0, 0, one.width, one.height))
    assert np.array_equal(seventh, tile(PHOTO, HEATMAP, "13.png\ndiscriminant 13"))


def test_pictures_that_are_gone_are_left_out(board):
    gallery = ExplanationGallery(lambda place, title: None)
    gallery.offer(1, 2.0, "a.png", 0)
    with SummaryWriter(board) as writer:
        gallery.write(writer)
    assert read(board).Tags()["images"] == []


def test_a_tile_is_the_photo_and_its_heatmap():
    picture = tile(PHOTO, HEATMAP, "a.png")
    panel = np.asarray(picture)[-224 - 6 : -6, 6 : 6 + 224]
    assert np.array_equal(panel[::28, ::28], PHOTO)
    assert picture.width == 2 * 224 + 3 * 6


def test_an_empty_gallery_writes_nothing(board):
    with SummaryWriter(board) as writer:
        ExplanationGallery(lambda place, title: None).write(writer)
    assert read(board).Tags()["images"] == []
