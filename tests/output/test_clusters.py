import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from whycluster.backbones import Preprocessing
from whycluster.data import Folder, PreparedImages
from whycluster.output.clusters import COMPONENTS, photo, show_clusters, show_embedding


@pytest.fixture
def images(tmp_path):
    for number in range(6):
        Image.new("RGB", (20, 20), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
    return PreparedImages(Folder(tmp_path), Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3))


def shown(folder):
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return events


def test_each_cluster_shows_its_most_central_images_first(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    with SummaryWriter(folder) as writer:
        distances = np.array([5.0, 4, 3, 2, 1, 0])
        show_clusters(writer, images, np.array([0, 0, 0, 1, 1, 1]), distances, n_clusters=3)
    events = shown(folder)
    assert events.Tags()["images"] == ["cluster 0/1 to 3", "cluster 1/1 to 3"]  # the third has no images
    assert [event.value for event in events.Scalars("clusters/size")] == [3, 3, 0]
    assert events.Images("cluster 1/1 to 3")[0].width > 3 * 224


def test_galleries_hold_the_twelve_nearest_images_under_their_names(tmp_path, monkeypatch):
    for number in range(30):
        Image.new("RGB", (8, 8), (8 * number, 0, 0)).save(tmp_path / f"{number:02d}.png")
    images = PreparedImages(Folder(tmp_path), Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3), range(0, 30, 2))
    shown, sizes, captions = {}, [], []
    monkeypatch.setattr("whycluster.output.clusters.write_cluster_sizes", lambda writer, found: sizes.extend(found))
    monkeypatch.setattr(
        "whycluster.output.clusters.write_gallery", lambda writer, k, tiles, _: shown.update({k: tiles})
    )
    monkeypatch.setattr(
        "whycluster.output.clusters.gallery_tile",
        lambda panels, name, columns: captions.append(name) or Image.fromarray(panels[0]),
    )
    distances = np.random.RandomState(0).permutation(15).astype(float)
    clusters = np.array([0] * 14 + [1])
    show_clusters(None, images, clusters, distances, n_clusters=2)
    nearest = sorted(range(14), key=lambda at: distances[at])[:12]
    assert [tile.getpixel((0, 0))[0] for tile in shown[0]] == [16 * at for at in nearest]
    assert [tile.getpixel((0, 0))[0] for tile in shown[1]] == [16 * 14]
    assert captions == [f"{2 * at:02d}.png" for at in (*nearest, 14)]
    assert sizes == [14, 1]


@pytest.mark.parametrize("width", [3, COMPONENTS + 50])
def test_the_sample_is_embedded(images, tmp_path_factory, width):
    folder = tmp_path_factory.mktemp("board")
    sample = np.array([0, 2, 5])
    features = np.random.RandomState(0).randn(3, width).astype(np.float32)
    with SummaryWriter(folder) as writer:
        show_embedding(writer, images, np.array([0, 0, 0, 1, 1, 1]), sample, features)
    lines = next(folder.rglob("metadata.tsv")).read_text().splitlines()
    assert lines == ["path\tcluster\tlabel", "0.png\t0\t", "2.png\t0\t", "5.png\t1\t"]


def test_wide_features_of_many_images_are_reduced(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    sample = np.arange(COMPONENTS + 10) % 6
    features = np.random.RandomState(0).randn(len(sample), COMPONENTS + 50).astype(np.float32)
    with SummaryWriter(folder) as writer:
        show_embedding(writer, images, np.zeros(6, int), sample, features)
    assert len(next(folder.rglob("tensors.tsv")).read_text().splitlines()[0].split("\t")) == COMPONENTS


def test_an_image_that_has_vanished_is_a_grey_pixel(images):
    (images.collection.root / "3.png").unlink()
    assert photo(images, 3).tolist() == [[[128, 128, 128]]]
    assert photo(images, 4).shape == (8, 8, 3)
