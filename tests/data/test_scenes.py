import numpy as np
import pytest

from whycluster.data import Scenes, open_collection
from whycluster.data.scenes import SIDE


def pixels(image):
    return np.asarray(image).astype(int)


@pytest.fixture(scope="module")
def digits():
    return Scenes(per_group=6, values=[1, 8, 3])


@pytest.fixture(scope="module")
def marks():
    return Scenes("mark", per_group=12)


def test_groups_are_labels(digits, marks):
    assert digits.groups == ["1", "8", "3"]
    assert digits.labels == ["1"] * 6 + ["8"] * 6 + ["3"] * 6
    assert digits.paths[7] == "8/0001"
    assert marks.groups == ["marked", "plain"]
    assert (digits.skipped, digits.file(0), digits.raw_features()) == ({}, None, None)


@pytest.mark.parametrize("at", range(6))
def test_scenes_of_different_groups_differ_within_their_masks_only(digits, at):
    one, other = (pixels(digits.load(at + group)) for group in (0, 6))
    masks = [pixels(digits.mask(at + group)) > 0 for group in (0, 6)]
    assert set(np.unique(pixels(digits.mask(at)))) == {0, 255}
    changed = np.abs(one - other).max(2) > 64  # soft rims of the digits are not part of the masks
    assert changed.any()
    assert not (changed & ~(masks[0] | masks[1])).any()
    assert 0.01 < masks[0].mean() < 0.25


@pytest.mark.parametrize("at", range(12))
def test_marked_scenes_differ_by_the_mark_alone(marks, at):
    one, other = pixels(marks.load(at)), pixels(marks.load(at + 12))
    mask = pixels(marks.mask(at)) > 0
    assert not (one != other)[~mask].any()
    assert mask.sum() == 28**2
    rows, columns = mask.nonzero()
    assert min(rows.min(), SIDE - 1 - rows.max()) == min(columns.min(), SIDE - 1 - columns.max()) == SIDE // 14
    assert marks.mask(at + 12) is None


def test_marks_lie_in_all_corners(marks):
    corners = {tuple(np.argwhere(pixels(marks.mask(at)) > 0)[0] > SIDE / 2) for at in range(12)}
    assert len(corners) == 4


def test_nothing_but_the_seed_decides():
    scenes = [Scenes(per_group=2, values=(4, 7), seed=seed) for seed in (0, 0, 1)]
    assert np.array_equal(*(pixels(some.load(3)) for some in scenes[:2]))
    assert not np.array_equal(*(pixels(some.load(3)) for some in scenes[1:]))


def test_scenes_made_again_from_their_source(digits, marks):
    for scenes in (digits, marks):
        again = open_collection(scenes.source)
        assert again.paths == scenes.paths
        assert np.array_equal(pixels(again.load(5)), pixels(scenes.load(5)))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"variant": "logo"}, "data.variant='logo' is unknown; choose digit or mark"),
        ({"per_group": 0}, "data.per_group=0 should be a whole number"),
        ({"per_group": 2.5}, "data.per_group=2.5 should be a whole number"),
        ({"values": [3]}, r"data.values=\[3\] should be two or more"),
        ({"values": [3, 3, 1]}, r"data.values=\[3, 3, 1\] should be two or more of .*, each once"),
        ({"values": [1.0, 3]}, "data.values=.* should be two or more"),
        ({"per_group": True}, "data.per_group=True should be a whole number"),
        ({"values": [3, 10]}, r"data.values=\[3, 10\] should be two or more"),
    ],
)
def test_settings_that_make_no_sense(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Scenes(**settings)
