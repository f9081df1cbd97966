import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data.raw_files import ADOBE_RGB, cmyk_profile, grey_profile, png, rgb_profile, tiff
from PIL import Image

from whycluster.data import UnreadableImageError, read_image

DAMAGING = Path(__file__).with_name("damaging.py")


def write_deep_and_profiled(folder, picture):
    """Writes pictures of many bits and with colour profiles, which Pillow alone does not decode."""
    deep = 16 * np.asarray(picture).astype(np.uint16)
    contents = {
        "tiff 12 bits": tiff(deep[..., 0], 12),
        "tiff 16 bits": tiff(deep[..., 0], 16, 0, tags=[(281, 3, [4095])]),
        "tiff 16 bits of colour": tiff(deep, 16, 2, order=">"),
        "tiff planar": tiff(deep, 16, 2, planar=True),
        "tiff float": tiff(deep[..., 0].astype(np.float32), 32, 1, 3, tags=[(340, 11, [0.0]), (341, 11, [4095.0])]),
        "png 16 bits": png(deep, 16, (b"sBIT", b"\x0c\x0c\x0c"), (b"tRNS", bytes(6))),
        "png 2 bits": png(deep[..., 0] >> 10, 2, (b"tRNS", bytes(2))),
    }
    for name, content in contents.items():
        (folder / f"{name}.whole").write_bytes(content)
    colour = rgb_profile(ADOBE_RGB, 2.2)
    for kind in ("TIFF", "WEBP", "JPEG"):
        picture.save(folder / f"{kind} with profile.whole", kind, icc_profile=colour)
    picture.convert("L").save(folder / "grey with profile.whole", "TIFF", icc_profile=grey_profile(1.0))
    inks = cmyk_profile(lambda c, m, y, k: 1 - k)
    picture.convert("CMYK").save(folder / "inks with profile.whole", "TIFF", icc_profile=inks)


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_thousands_of_damaged_files_are_read_or_get_a_reason(tmp_path, picture):
    write_deep_and_profiled(tmp_path, picture)
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
