import numpy as np
import pytest
from PIL import Image

from whycluster.output.png import write_png


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 2), (37, 11), (696, 296)])
@pytest.mark.parametrize("high", [256, 2])
def test_pixels_are_read_back_as_they_were(tmp_path, size, high):
    pixels = np.random.RandomState(0).randint(0, high, (*size[::-1], 3), np.uint8)
    write_png(tmp_path / "a.png", pixels)
    with Image.open(tmp_path / "a.png") as picture:
        picture.verify()  # the checksums
    with Image.open(tmp_path / "a.png") as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", size)
        assert np.array_equal(picture, pixels)


def test_files_are_hardly_larger_than_pillows(tmp_path):
    """Of a picture with a gradient, noise and an empty half."""
    pixels = np.full((200, 300, 3), 255, np.uint8)
    y, x = np.mgrid[:200, :150]
    pixels[:, :150] = (x + y / 2)[..., None] + np.random.RandomState(0).randint(0, 9, (200, 150, 3))
    write_png(tmp_path / "ours.png", pixels)
    Image.fromarray(pixels).save(tmp_path / "pillow.png", compress_level=3)
    ours, pillow = ((tmp_path / f"{name}.png").stat().st_size for name in ("ours", "pillow"))
    assert ours < 1.25 * pillow
