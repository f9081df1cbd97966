import io

import numpy as np
import pytest
from data.raw_files import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB,
    cmyk_profile,
    grey_profile,
    rgb_profile,
    srgb_decoded,
    srgb_encoded,
)
from PIL import Image, ImageCms, features

from whycluster.data import read_image
from whycluster.data.colour_profiles import to_srgb
from whycluster.data.decoding import to_rgb

CURVE = srgb_decoded(np.linspace(0, 1, 1024))
PROFILES = {
    "Adobe RGB": (ADOBE_RGB, 563 / 256, lambda encoded: encoded ** (563 / 256)),
    "Display P3": (DISPLAY_P3, CURVE, srgb_decoded),
    "swapped channels": (SRGB[:, ::-1], CURVE, srgb_decoded),
    "gamma 1": (SRGB, 1.0, lambda encoded: encoded),
}
FORMATS = {"png": {}, "tiff": {}, "webp": {"lossless": True}}


def in_srgb(pixels, name):
    """The formulas of the profile and of sRGB, IEC 61966-2-1."""
    matrix, _, decoded = PROFILES[name]
    light = decoded(np.asarray(pixels) / 255) @ matrix.T @ np.linalg.inv(SRGB).T
    return srgb_encoded(light)


def profile_of(name):
    matrix, curve, _ = PROFILES[name]
    return rgb_profile(matrix, curve)


def read(tmp_path, image, ending="png", **options):
    image.save(tmp_path / f"a.{ending}", **options)
    return np.asarray(read_image(tmp_path / f"a.{ending}")).astype(int)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("name", PROFILES)
def test_colours_are_those_of_the_profile(tmp_path, picture, pixels, name, ending):
    found = read(tmp_path, picture, ending, icc_profile=profile_of(name), **FORMATS[ending])
    wanted = in_srgb(pixels, name)
    assert np.abs(wanted - pixels).max() > 20
    assert np.abs(found - wanted).max() <= 2
    assert np.abs(found - wanted).mean() < 0.5


@pytest.mark.parametrize("ending", ["jpg", "avif"])
def test_profiles_of_formats_with_loss(tmp_path, picture, pixels, ending):
    if ending == "avif" and not features.check("avif"):
        pytest.skip("this build of Pillow has no AVIF")
    found = read(tmp_path, picture, ending, icc_profile=profile_of("swapped channels"), quality=95)
    assert np.abs(found - pixels[..., ::-1]).mean() < 4


def test_palette_has_the_colours_of_its_profile(tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([200, 0, 0, 0, 100, 0, 0, 0, 50])
    image.putdata([0, 1, 2])
    found = read(tmp_path, image, icc_profile=profile_of("swapped channels"))
    assert np.abs(found[0] - [[0, 0, 200], [0, 100, 0], [50, 0, 0]]).max() <= 1


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_profile(tmp_path, mode):
    image = Image.frombytes("L", (256, 1), bytes(range(256)))
    if mode == "LA":
        image.putalpha(255)
    found = read(tmp_path, image, icc_profile=grey_profile(1.0))
    assert np.abs(found[0] - srgb_encoded(np.arange(256) / 255)[:, None]).max() <= 2
    assert (found == found[..., :1]).all()


def test_profile_counts_for_sixteen_bits_of_grey(tmp_path):
    image = Image.fromarray(np.array([[0, 16384, 65535]], np.uint16))
    found = read(tmp_path, image, icc_profile=grey_profile(1.0))
    assert np.abs(found[0, :, 0] - srgb_encoded(np.array([0, 0.25, 1]))).max() <= 2


@pytest.mark.parametrize("ending", ["tiff", "jpg"])
def test_inks(tmp_path, ending):
    """Black ink makes lightness L* = 100 (1 - k): grey of ((L* + 16) / 116)³ of the light of white (CIE 15:2004)."""
    ink = np.zeros((16, 64, 4), np.uint8)
    ink[..., 3] = np.arange(0, 256, 4)
    image = Image.frombytes("CMYK", (64, 16), ink.tobytes())
    options = {"quality": 100} if ending == "jpg" else {}
    found = read(tmp_path, image, ending, icc_profile=cmyk_profile(lambda c, m, y, k: 1 - k), **options)
    lightness = 100 * (1 - np.arange(0, 256, 4) / 255)
    light = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness * 27 / 24389)
    assert np.abs(found - srgb_encoded(light)[:, None]).max() <= 3
    assert np.abs(255 - ink[..., 3] - found[..., 0]).max() > 8


def test_colours_are_converted_before_they_are_put_on_white(tmp_path):
    image = Image.new("RGBA", (1, 1), (100, 50, 10, 51))
    found = read(tmp_path, image, icc_profile=profile_of("gamma 1"))
    assert np.abs(found[0, 0] - (0.2 * in_srgb([100, 50, 10], "gamma 1") + 0.8 * 255)).max() <= 2


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_transparent_colour_is_one_of_the_file_not_of_srgb(tmp_path, mode):
    name = "swapped channels" if mode == "RGB" else None
    key, other = ((7, 8, 9), (9, 8, 7)) if mode == "RGB" else (21, 2)
    image = Image.new(mode, (2, 1), other)
    image.putpixel((0, 0), key)
    found = read(tmp_path, image, transparency=key, icc_profile=profile_of(name) if name else grey_profile(1.0))[0]
    wanted = (7, 8, 9) if mode == "RGB" else 3 * (srgb_encoded(np.array(2 / 255)),)
    assert (found[0] == 255).all()
    assert np.abs(found[1] - wanted).max() <= 2


def test_orientation_and_profile(tmp_path, picture, pixels):
    exif = Image.Exif()
    exif[0x0112] = 6  # the picture is stored turned by 90 degrees
    stored = picture.transpose(Image.Transpose.ROTATE_90)
    found = read(tmp_path, stored, exif=exif, icc_profile=profile_of("Display P3"))
    assert np.abs(found - in_srgb(pixels, "Display P3")).max() <= 2


@pytest.mark.parametrize(
    "profile",
    [ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), rgb_profile(SRGB, CURVE)],
    ids=["of LittleCMS", "with a table"],
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_srgb_changes_nothing(profile, mode):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, len(mode)), np.uint8))
    assert to_srgb(image, profile) is image


def test_grey_with_the_curve_of_srgb_is_left_alone():
    image = Image.new("L", (4, 4), 7)
    assert to_srgb(image, grey_profile(2.2)) is not image
    assert to_srgb(image, profile_of("gamma 1")) is image  # of colour
    assert to_srgb(image, grey_profile(CURVE)) is image


@pytest.mark.parametrize(
    ("profile", "mode"),
    [
        (b"", "RGB"), (b"no profile", "RGB"), (bytes(128), "RGB"), (rgb_profile(ADOBE_RGB, 2.2)[:300], "RGB"),
        (rgb_profile(ADOBE_RGB, 2.2).replace(b"rTRC", b"xTRC"), "RGB"), (grey_profile(1.0), "RGB"),
        (rgb_profile(ADOBE_RGB, 2.2), "L"), (rgb_profile(ADOBE_RGB, 2.2), "CMYK"), (grey_profile(1.0), "RGBA"),
        (cmyk_profile(lambda c, m, y, k: 1 - k), "RGB"),
        (ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(), "RGB"),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else value,  # one profile holds the time
)  # fmt: skip
def test_a_profile_that_cannot_be_used_leaves_the_numbers(profile, mode):
    image = Image.frombytes(mode, (4, 4), bytes(range(16 * len(mode))))
    assert to_srgb(image, profile) is image
    image.info["icc_profile"] = profile
    without = image.copy()
    del without.info["icc_profile"]
    assert to_rgb(image).tobytes() == to_rgb(without).tobytes()


@pytest.mark.parametrize("profile", [None, 7, "text", (1, 2)])
def test_a_profile_that_is_none(profile, picture):
    picture.info["icc_profile"] = profile
    assert to_rgb(picture) is picture


def test_an_image_handed_over_is_converted_as_its_file_and_once_only(tmp_path, picture):
    picture.save(tmp_path / "a.png", icc_profile=profile_of("Adobe RGB"))
    whole = read_image(tmp_path / "a.png").tobytes()
    with Image.open(tmp_path / "a.png") as image:
        assert to_rgb(image).tobytes() == whole
        assert to_rgb(image).tobytes() == whole
    image = Image.open(io.BytesIO((tmp_path / "a.png").read_bytes()))
    image.load()
    assert to_rgb(to_rgb(image)).tobytes() == whole
