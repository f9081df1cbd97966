import multiprocessing
import warnings

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from whycluster.data import Folder, PreparedImages, UnreadableImageError, image_loader, sample_ranges
from whycluster.data.sample_ranges import range_of, to_8_bits

SHARED = sample_ranges._warned
GRADIENT = np.linspace(0, 1, 1001, dtype=np.float32)


@pytest.fixture(autouse=True)
def warned(monkeypatch):
    """Nobody was warned yet."""
    monkeypatch.setattr(sample_ranges, "_warned", bytearray(1))
    return sample_ranges._warned


def ends(*values, of="u2"):
    """Values, with many between the first and the last."""
    return np.array([*values, *np.linspace(values[0], values[-1], 50)]).astype(of)


@pytest.mark.parametrize(
    ("high", "white", "known"),
    [
        (1, 1, False), (2, 255, False), (255, 255, False), (256, 1023, False), (1023, 1023, False), (1024, 4095, False),
        (3000, 4095, False), (4095, 4095, False), (4096, 16383, False), (16383, 16383, False), (16384, 65535, True),
        (65535, 65535, True),
    ],
)  # fmt: skip
def test_sixteen_bits(high, white, known):
    assert range_of(ends(0, 1, high)) == (0, white, known)


def test_eight_bits_scaled_to_sixteen_stay_as_dark_as_they_are():
    assert range_of(ends(0, 50, of="u1") * np.uint16(257)) == (0, 65535, True)
    assert range_of(np.zeros((2, 2), np.uint16)) == (0, 65535, True)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (ends(0, 100, of="i1"), (0, 127, True)),
        (ends(0, 20000, of="i2"), (0, 32767, True)),
        (ends(0, 4095, of="i2"), (0, 4095, False)),
        (ends(0, 255, of="i4"), (0, 255, False)),
        (ends(0, 65535, of="i4"), (0, 65535, False)),
        (ends(0, 70000, of="i4"), (0, 70000, False)),
        (ends(0, 2**31 - 1, of="i4"), (0, 2**31 - 1, True)),
        (ends(0, 2**32 - 1, of="u4"), (0, 2**32 - 1, True)),
        (ends(-1024, 3071, of="i2"), (-1024, 3071, False)),
    ],
)
def test_other_integers(values, wanted):
    found = range_of(values)
    assert found == (pytest.approx(wanted[0], rel=0.01), pytest.approx(wanted[1], rel=0.01), wanted[2])


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (GRADIENT, (0, 1, True)),
        (0.2 * GRADIENT, (0, 1, True)),
        (np.append(GRADIENT, 1.01), (0, 1, False)),
        (np.append(GRADIENT, 1e6), (0, 1, False)),
        (GRADIENT * 1.15 - 0.05, (0, 1, False)),  # overshoot, as of resampling
        (255 * GRADIENT, (0, 255, False)),
        (255 * GRADIENT * 1.05 - 3, (0, 255, False)),
        (60000 * GRADIENT, (0, 65535, False)),
        (np.rint(4000 * GRADIENT), (0, 4095, False)),
        (np.rint(255 * GRADIENT), (0, 255, False)),
        (0.01 * GRADIENT, (0, 0.01, False)),
        (17.3 * GRADIENT, (0, 17.3, False)),
        (np.append(17.3 * np.tile(GRADIENT, 3), 1e6), (0, 17.3, False)),  # one pixel that failed
        (2 * GRADIENT - 1, (-1, 1, False)),
        (1e9 * GRADIENT, (0, 1e9, False)),
        (np.zeros(9, np.float32), (0, 1, True)),
        (np.array([0.0] * 9999 + [9.5]), (0, 9.5, False)),  # no own range but for this one
    ],
)
def test_floats(values, wanted):
    found = range_of(values)
    assert found == (pytest.approx(wanted[0], abs=0.003 * wanted[1]), pytest.approx(wanted[1], rel=0.003), wanted[2])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floats_that_are_no_numbers_are_refused(value):
    with pytest.raises(UnreadableImageError, match="the range that is white is not known"):
        range_of(np.append(GRADIENT, value))


def test_one_negative_value_everywhere_is_refused():
    with pytest.raises(UnreadableImageError, match="all pixels are -3"):
        range_of(np.full((4, 4), -3.0))


def test_what_is_declared_counts_if_it_holds_the_numbers():
    values = ends(10, 3000)
    assert range_of(values, (0, 65535)) == (0, 65535, True)
    assert range_of(values, (10, 3000)) == (10, 3000, True)
    for wrong in ((0, 2999), (11, 3000), (3000, 10), (0, float("nan"))):
        assert range_of(values, wrong) == (0, 4095, False)


@pytest.mark.parametrize("white", [1023, 4095, 16383, 65535, 70000, 2**31 - 1])
def test_numbers_are_rounded_to_the_nearest(white):
    values = np.unique(np.linspace(0, white, 70000).astype(np.int32))
    wanted = np.rint(values.astype(float) * 255 / white)
    np.testing.assert_array_equal(to_8_bits(values, (0, white), "a"), wanted)


@pytest.mark.filterwarnings("ignore:a has numbers")
def test_a_bright_pixel_and_a_dark_one_are_clipped():
    values = np.concatenate([GRADIENT, [1.01, -0.01]]).astype(np.float32)
    np.testing.assert_array_equal(to_8_bits(values, None, "a")[-2:], [255, 0])
    np.testing.assert_array_equal(to_8_bits(values, None, "a")[:-2], np.rint(255 * GRADIENT))


def test_guesses_are_warned_of_once(warned):
    with pytest.warns(UserWarning, match=r"night\.png has numbers from 0 to 3000 .* ranging from 0 to 4095\.") as found:
        to_8_bits(ends(0, 3000), None, "night.png")
    assert len(found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_8_bits(ends(0, 1000), None, "other.png")
    warned[0] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_8_bits(ends(0, 65000), None, "known.png")


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="workers share nothing with this process")
def test_all_workers_together_warn_once(tmp_path, monkeypatch):
    def note(text, **options):
        with (tmp_path / "warnings").open("a") as file:
            file.write(f"{text}\n")

    SHARED[0] = 0
    monkeypatch.setattr(sample_ranges, "_warned", SHARED)
    monkeypatch.setattr(warnings, "warn", note)
    (tmp_path / "photos").mkdir()
    for number in range(8):
        Image.fromarray(ends(0, 4095)[None]).save(tmp_path / f"photos/{number}.png")
    images = PreparedImages(Folder(tmp_path / "photos"), pil_to_tensor)
    for _ in range(2):
        assert [int(batch.images.max()) for batch in image_loader(images, 2, num_workers=2)] == 4 * [255]
    assert (tmp_path / "warnings").read_text().count("does not say which are black and white") == 1
