import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from whycluster.data import UnreadableImageError, read_image

DAMAGING = Path(__file__).with_name("damaging.py")


@pytest.mark.timeout(300)
def test_thousands_of_damaged_files_are_read_or_get_a_reason(tmp_path):
    done = subprocess.run([sys.executable, DAMAGING, tmp_path, "3000"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["damaged"] >= 3000
    assert found["read"] + sum(found["reasons"].values()) == found["damaged"]
    assert min(found["read"], sum(found["reasons"].values())) > 500
    assert not found["reasons"].pop("no reason")
    assert set(found["reasons"]) >= {"not an image, or in a format that is not known", "damaged"}


def test_a_picture_that_would_fill_the_memory_is_refused_unread(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")  # fifty kilobytes, 1.2 GB as RGB
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    with pytest.raises(UnreadableImageError, match="too many pixels"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("size", [(1, 1), (20_000, 3), (1, 20_000)])
def test_the_smallest_and_the_longest(tmp_path, size):
    Image.new("RGB", size, (1, 2, 3)).save(tmp_path / "image.png")
    image = read_image(tmp_path / "image.png")
    assert image.size == size
    assert image.getpixel((0, 0)) == (1, 2, 3)
