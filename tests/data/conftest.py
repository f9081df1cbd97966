import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def pixels():
    """A picture `(24, 40, 3)` that no rotation and no flip leaves as it is, smooth enough for JPEG."""
    y, x = np.mgrid[0:24, 0:40]
    return np.stack([x * 6, y * 10, (x + y) * 2], -1).astype(np.uint8)


@pytest.fixture
def picture(pixels):
    return Image.fromarray(pixels)


@pytest.fixture
def photos(assets):
    return assets / "photos"
