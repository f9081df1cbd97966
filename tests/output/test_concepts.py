"""Pictures of concepts."""

import numpy as np
from PIL import Image

from whycluster.explain.concepts import Box, ConceptHeatmap
from whycluster.output.concepts import (
    GAP,
    TILE,
    concept_files,
    concept_picture,
    region_of,
    show_concepts,
    write_concept,
)

RED = np.zeros((30, 30, 3), np.uint8) + np.array([255, 0, 0], np.uint8)


def found(row=4):
    heatmap = np.zeros((30, 30), np.float32)
    heatmap[12, 20] = 1
    photo = RED.copy()
    photo[12, 20] = (0, 255, 0)
    return ConceptHeatmap(row, 7, photo, heatmap)


def test_a_region_is_cut_from_photo_and_heatmap_alike():
    region = region_of(found())
    assert (region.row, region.box) == (4, Box(7, 15, 10))
    assert region.photo[5, 5].tolist() == [0, 255, 0]
    assert region.relevance[5, 5] == 1
    assert region.photo.shape == (10, 10, 3)


def test_each_region_stands_above_its_relevance():
    picture = np.asarray(concept_picture([region_of(found()), region_of(found())], "one line"))
    for number in range(2):
        left = GAP + number * (TILE + GAP)
        photo, relevance = (
            picture[-GAP - TILE - below : -GAP - below or None, left : left + TILE] for below in (TILE + GAP, 0)
        )
        assert (photo[: TILE // 4] == (255, 0, 0)).all()
        assert (relevance[: TILE // 4] == 255).all()
        middle = round(5.5 * TILE / 10)
        assert photo[middle, middle].tolist() == [0, 255, 0]
        red, green, blue = relevance[middle, middle].tolist()
        assert red > green == blue or (red, green, blue) == (96, 0, 16)


def test_files_of_a_concept(tmp_path):
    write_concept(tmp_path, 3, 7, 0.25, [region_of(found()), region_of(found(5))])
    picture, array = concept_files(tmp_path, 3, 7)
    assert (picture, array) == (tmp_path / "concepts/cluster_3/channel_7.png", picture.with_suffix(".npy"))
    assert Image.open(picture).width == 2 * TILE + 3 * GAP
    stored = np.load(array)
    assert (stored.shape, stored.dtype) == ((2, 10, 10), np.float32)
    assert sorted(file.name for file in picture.parent.iterdir()) == ["channel_7.npy", "channel_7.png"]


def test_concepts_of_a_cluster_are_one_card_of_tensorboard(tmp_path):
    shown = {}

    class Writer:
        def add_image(self, name, picture, dataformats):
            shown[name] = picture, dataformats

    for channel in (7, 8):
        write_concept(tmp_path, 3, channel, 0.25, [region_of(found())])
    clusters = [
        {"cluster": 3, "concepts": [{"channel": 7}, {"channel": 8}, {"channel": 9}]},  # the last one has no picture
        {"cluster": 4, "concepts": []},
    ]
    show_concepts(Writer(), tmp_path, clusters)
    [(name, (picture, dataformats))] = shown.items()
    assert (name, dataformats) == ("cluster 3/concepts", "HWC")
    first, second = (np.asarray(Image.open(next(concept_files(tmp_path, 3, channel)))) for channel in (7, 8))
    np.testing.assert_array_equal(picture, np.concatenate([first, second]))
