import errno
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, features

from whycluster.data import UnreadableImageError, read_image
from whycluster.data.decoding import FORMATS

# How an upright picture lies in a file of each EXIF orientation (EXIF 2.32, 4.6.4: what row 0 and column 0 show).
STORED = {
    1: lambda up: up,
    2: lambda up: up[:, ::-1],
    3: lambda up: up[::-1, ::-1],
    4: lambda up: up[::-1],
    5: lambda up: up.transpose(1, 0, 2),
    6: lambda up: up[:, ::-1].transpose(1, 0, 2),
    7: lambda up: up[::-1, ::-1].transpose(1, 0, 2),
    8: lambda up: up[::-1].transpose(1, 0, 2),
}


def reason(path):
    with pytest.raises(UnreadableImageError) as caught:
        read_image(path)
    return str(caught.value)


def decoded(path):
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def png(*chunks):
    parts = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def header(width, height):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


@pytest.mark.parametrize("ending", ["png", "bmp", "ppm", "tiff", "webp", "jp2"])
def test_formats_without_loss(tmp_path, picture, pixels, ending):
    options = {"webp": {"lossless": True}, "jp2": {"irreversible": False}}.get(ending, {})
    np.testing.assert_array_equal(decoded(saved(tmp_path / f"a.{ending}", picture, **options)), pixels)


@pytest.mark.parametrize("ending", ["jpg", "avif"])
def test_formats_with_loss(tmp_path, picture, pixels, ending):
    if ending == "avif" and not features.check("avif"):
        pytest.skip("this build of Pillow has no AVIF")
    path = saved(tmp_path / f"a.{ending}", picture, quality=95)
    assert np.abs(decoded(path) - pixels).mean() < 4


def test_every_format_asked_for_is_there():
    assert {"JPEG", "PNG", "TIFF", "WEBP", "GIF"} <= set(FORMATS) <= set(Image.OPEN)
    assert "EPS" not in FORMATS


@pytest.mark.parametrize("name", ["a", "a.txt", "a.jpg"])
def test_content_counts_not_the_ending(tmp_path, picture, pixels, name):
    np.testing.assert_array_equal(decoded(saved(tmp_path / name, picture, format="PNG")), pixels)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("ending", ["png", "tiff", "webp"])
def test_exif_orientation_gives_the_upright_picture(tmp_path, pixels, orientation, ending):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](pixels)))
    path = saved(tmp_path / f"a.{ending}", stored, exif=exif, **({"lossless": True} if ending == "webp" else {}))
    np.testing.assert_array_equal(decoded(path), pixels)


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_of_a_jpeg(tmp_path, pixels, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](pixels)))
    found = decoded(saved(tmp_path / "a.jpg", stored, exif=exif, quality=95))
    assert found.shape == pixels.shape
    assert np.abs(found - pixels).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_exif_that_does_not_parse_does_not_cost_the_picture(tmp_path, picture, pixels, kind):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
    path = saved(tmp_path / "a", picture, format=kind, exif=b"Exif\0\0no TIFF header", **options)
    assert np.abs(decoded(path) - pixels).mean() < 4


@pytest.mark.parametrize("ending", ["png", "jpg", "tiff"])
def test_grey(tmp_path, ending):
    path = saved(tmp_path / f"a.{ending}", Image.new("L", (8, 8), 120))
    assert (decoded(path) == 120).all()


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_one_bit(tmp_path, ending):
    image = Image.new("1", (4, 2))
    image.putpixel((1, 0), 1)
    wanted = np.zeros((2, 4, 3))
    wanted[0, 1] = 255
    np.testing.assert_array_equal(decoded(saved(tmp_path / f"a.{ending}", image)), wanted)


@pytest.mark.parametrize(
    ("mode", "colour", "wanted"),
    [
        ("LA", (100, 255), (100, 100, 100)),
        ("LA", (100, 0), (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
    ],
)
def test_transparency_is_put_on_white(tmp_path, mode, colour, wanted):
    assert (decoded(saved(tmp_path / "a.png", Image.new(mode, (3, 3), colour))) == wanted).all()


@pytest.mark.parametrize("ending", ["png", "gif"])
@pytest.mark.parametrize("transparency", [None, 1])
def test_palette(tmp_path, ending, transparency):
    image = Image.new("P", (4, 1))
    image.putpalette([200, 0, 0, 0, 100, 0, 0, 0, 50])
    image.putdata([0, 1, 2, 0])
    options = {} if transparency is None else {"transparency": transparency}
    wanted = [[200, 0, 0], [0, 100, 0] if transparency is None else [255, 255, 255], [0, 0, 50], [200, 0, 0]]
    np.testing.assert_array_equal(decoded(saved(tmp_path / f"a.{ending}", image, **options))[0], wanted)


@pytest.mark.parametrize(("mode", "key", "other"), [("L", 7, 9), ("RGB", (7, 8, 9), (9, 9, 9))])
def test_transparent_colour_of_a_png(tmp_path, mode, key, other):
    image = Image.new(mode, (2, 1), other)
    image.putpixel((0, 0), key)
    np.testing.assert_array_equal(
        decoded(saved(tmp_path / "a.png", image, transparency=key))[0], [[255, 255, 255], [9, 9, 9]]
    )


def test_cmyk_jpeg(tmp_path):
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow make red
    assert np.abs(decoded(saved(tmp_path / "a.jpg", ink, quality=95)) - [255, 0, 0]).max() < 12


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_sixteen_bits(tmp_path, ending, dtype):
    values = np.array([[0, 257, 51400, 65535]], dtype=dtype)
    path = saved(tmp_path / f"a.{ending}", Image.fromarray(values))
    np.testing.assert_array_equal(decoded(path)[0, :, 0], [0, 1, 200, 255])


def test_all_values_of_sixteen_bits_are_rounded(tmp_path):
    values = np.arange(2**16).reshape(256, 256)
    path = saved(tmp_path / "a.png", Image.fromarray(values.astype(np.uint16)))
    np.testing.assert_array_equal(decoded(path)[..., 1], np.round(values / 257))


def test_many_pixels_are_no_reason_to_warn(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", Image.new("L", (30, 30)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 899)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decoded(path).shape == (30, 30, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 449)
    assert "too many pixels" in reason(path)


def test_numbers_of_unknown_range_are_refused(tmp_path):
    values = np.array([[np.nan, 1]], np.float32)
    assert "the range that is white is not known" in reason(saved(tmp_path / "a.tiff", Image.fromarray(values)))


def test_lab_is_refused_by_name(tmp_path):
    assert "Lab" in reason(saved(tmp_path / "a.tiff", Image.new("LAB", (4, 4))))


@pytest.mark.parametrize(
    ("ending", "kind"), [("gif", "GIF"), ("webp", "WEBP"), ("png", "PNG"), ("jpg", "MPO"), ("tiff", "TIFF")]
)
def test_first_frame_of_several(tmp_path, ending, kind):
    red, blue = Image.new("RGB", (16, 16), (250, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 250))
    path = saved(tmp_path / f"a.{ending}", red, format=kind, save_all=True, append_images=[blue])
    assert Image.open(path).n_frames == 2
    assert np.abs(decoded(path) - [250, 0, 0]).max() < 12


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "the file is empty"),
        (b"these are words\n" * 20, "not an image, or in a format that is not known"),
        (b"\0" * 100, "not an image, or in a format that is not known"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "not an image"),
        (b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + b"\xff" * 40, "not an image"),
        (png(header(20000, 20000), (b"IDAT", b""), (b"IEND", b"")), "too many pixels to be decoded safely"),
        (png(header(9, 9), (b"IDAT", b"no zlib stream"), (b"IEND", b"")), "damaged: "),
    ],
    ids=["empty", "text", "zeros", "eps", "png header", "bomb", "png data"],
)  # fmt: skip
def test_files_that_are_no_images(tmp_path, content, wanted):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    found = reason(path)
    assert found.startswith(wanted)
    assert str(tmp_path) not in found
    assert "\n" not in found


@pytest.mark.parametrize("ending", ["jpg", "png", "tiff", "webp", "gif", "bmp"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7])
def test_truncated_files_get_a_reason(tmp_path, ending, share):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path / f"a.{ending}", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: max(12, int(share * path.stat().st_size))])
    assert reason(path).startswith(("damaged: ", "not an image"))


def test_truncated_jpeg_says_so(tmp_path, picture):
    path = saved(tmp_path / "a.jpg", picture, quality=95)
    path.write_bytes(path.read_bytes()[:-200])
    assert "truncated" in reason(path)


def test_missing_file_and_broken_link(tmp_path):
    (tmp_path / "link.png").symlink_to("nowhere.png")
    for name in ("missing.png", "link.png"):
        assert reason(tmp_path / name) == "the file does not exist (any more), or the link is broken"


def test_link_to_itself(tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert reason(tmp_path / "loop.png").startswith("cannot be read: ")


def test_link_to_an_image(tmp_path, picture, pixels):
    saved(tmp_path / "a.png", picture)
    (tmp_path / "link").symlink_to("a.png")
    np.testing.assert_array_equal(decoded(tmp_path / "link"), pixels)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path, picture):
    path = saved(tmp_path / "a.png", picture)
    path.chmod(0)
    assert reason(path) == "no permission to read the file"


def test_permission_error_is_told(tmp_path, picture, monkeypatch):
    path = saved(tmp_path / "a.png", picture)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", refuse)
    assert reason(path) == "no permission to read the file"


def test_a_fault_of_the_system_is_not_blamed_on_the_file(tmp_path, picture, monkeypatch):
    path = saved(tmp_path / "a.png", picture)

    def refuse(*args, **kwargs):
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        read_image(path)


def test_result_outlives_its_file(tmp_path, picture, pixels):
    path = saved(tmp_path / "a.png", picture)
    image = read_image(path)
    path.unlink()
    np.testing.assert_array_equal(np.asarray(image), pixels)


def test_all_photos_decode(photos):
    paths = sorted(path for path in photos.rglob("*") if path.is_file())
    assert len(paths) == 191
    assert {read_image(path).mode for path in paths} == {"RGB"}
