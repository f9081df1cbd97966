import io
import struct
import warnings

import numpy as np
import pytest
from data.raw_files import png, tiff
from PIL import Image

from whycluster.data import UnreadableImageError, read_image
from whycluster.data.decoding import to_rgb

# Order of bytes, PhotometricInterpretation and BitsPerSample of TIFFs of grey that Pillow does not open.
NOT_OPENED = {("<", 0, 12), (">", 0, 12), (">", 1, 12), (">", 0, 16), ("<", 0, 32), (">", 0, 32), (">", 1, 32)}
MIN, MAX, SMIN, SMAX = 280, 281, 340, 341
TWELVE_BITS = np.arange(0, 4095, 13, dtype=np.uint16).reshape(15, 21)  # from 0 to 4082
COLOURS = np.stack([TWELVE_BITS, TWELVE_BITS[::-1], TWELVE_BITS[:, ::-1]], -1)


@pytest.fixture
def read(tmp_path):
    """Reads a file of these bytes, in each of the ways there are; warnings are errors unless they are `guessed`."""

    def of(content, guessed=False):
        path = tmp_path / "a"
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if guessed else "error")
            found = read_image(path)
            image, stream = Image.open(path), Image.open(io.BytesIO(content))
            for handed_over in (image, image, stream, stream):
                assert to_rgb(handed_over).tobytes() == found.tobytes()
            image.close()
        assert found.mode == "RGB"
        return np.asarray(found).astype(int)

    return of


@pytest.fixture(autouse=True)
def warns_again(monkeypatch):
    monkeypatch.setattr("whycluster.data.sample_ranges._warned", bytearray(1))


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16, 32])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("order", "<>")
def test_grey_of_tiff(read, order, photometric, bits, deflated):
    largest = 2**bits - 1
    values = np.array(
        [[0, largest // 3, largest // 2, largest], 4 * [0]], dtype=f"u{max(1, bits // 8)}" if bits != 12 else "u2"
    )
    content = tiff(values, bits, photometric, order=order, deflated=deflated)
    if (order, photometric, bits) in NOT_OPENED:
        with pytest.raises(
            UnreadableImageError, match=f"BitsPerSample {bits}, .* PhotometricInterpretation {photometric}"
        ):
            read(content)
        return
    wanted = np.rint(values / largest * 255)
    np.testing.assert_array_equal(read(content)[..., 0], wanted if photometric else 255 - wanted)


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("order", "<>")
def test_floats_of_tiff(read, order, photometric):
    values = np.array([[0, 0.25, 0.5, 1]], np.float32)
    found = read(tiff(values, 32, photometric, 3, order))[0, :, 0]
    np.testing.assert_array_equal(found, [0, 64, 128, 255] if photometric else [255, 191, 127, 0])


@pytest.mark.parametrize("deflated", [False, True])
def test_one_float_above_one_does_not_turn_the_rest_black(read, deflated):
    values = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    values[3, 3] = 1.01
    found = read(tiff(values, 32, 1, 3, deflated=deflated), guessed=True)
    np.testing.assert_array_equal(found[..., 0], np.rint(255 * np.minimum(values, 1)))


def test_twelve_bits_stay_dark_if_they_are(read):
    assert read(tiff(np.array([[0, 100]], np.uint16), 12))[0, 1, 0] == round(100 / 4095 * 255)


@pytest.mark.parametrize(
    "content",
    [
        tiff(TWELVE_BITS, 16), tiff(TWELVE_BITS, 16, order=">"), tiff(TWELVE_BITS, 16, order=">", deflated=True),
        tiff(TWELVE_BITS.astype("i2"), 16, 1, 2), tiff(TWELVE_BITS.astype("i4"), 32, 1, 2),
        tiff(TWELVE_BITS.astype("u4"), 32), png(TWELVE_BITS, 16),
    ],
)  # fmt: skip
def test_twelve_bits_kept_in_more(read, content):
    wanted = np.rint(TWELVE_BITS / 4095 * 255)
    np.testing.assert_array_equal(read(content, guessed=True)[..., 2], wanted)


def test_such_a_guess_is_said(tmp_path):
    (tmp_path / "night.tif").write_bytes(tiff(TWELVE_BITS, 16))
    with pytest.warns(UserWarning, match=r"^night\.tif has numbers from 0 to 4082 .* 0 to 4095"):
        read_image(tmp_path / "night.tif")


def test_twelve_bits_that_are_white_at_zero(read):
    found = read(tiff(TWELVE_BITS, 16, 0), guessed=True)
    np.testing.assert_array_equal(found[..., 0], 255 - np.rint(TWELVE_BITS / 4095 * 255))


def test_eight_bits_kept_in_thirty_two(read):
    values = np.array([[0, 1, 100, 255]], np.int32)
    np.testing.assert_array_equal(read(tiff(values, 32, 1, 2), guessed=True)[0, :, 0], values[0])


def test_signed_bytes(read):
    np.testing.assert_array_equal(read(tiff(np.array([[0, 127]], np.int8), 8, 1, 2))[0, :, 0], [0, 255])
    found = read(tiff(np.array([[-128, -1, 0, 127]], np.int8), 8, 1, 2), guessed=True)[0, :, 0]
    assert np.abs(found - [0, 127, 128, 255]).max() <= 1


def test_negative_numbers(read):
    values = np.array([[-1000, 0, 3000]], np.int16)
    found = read(tiff(values, 16, 1, 2), guessed=True)[0, :, 0]
    assert np.abs(found - [0, 64, 255]).max() <= 1


@pytest.mark.parametrize(
    ("tags", "white"),
    [
        ([(MAX, 3, [4095])], 4095), ([(MIN, 3, [0]), (MAX, 3, [65535])], 65535), ([(MAX, 3, [300])], 300),
        ([(SMIN, 3, [0]), (SMAX, 3, [1023]), (MAX, 3, [4095])], 1023),
    ],
)  # fmt: skip
def test_range_that_tags_declare(read, tags, white):
    values = np.array([[0, 10, 300]], np.uint16)
    np.testing.assert_array_equal(read(tiff(values, 16, tags=tags))[0, :, 0], np.rint(values[0] / white * 255))


def test_least_number_that_tags_declare(read):
    values = np.array([[100, 200, 300]], np.uint16)
    found = read(tiff(values, 16, tags=[(MIN, 3, [100]), (MAX, 3, [300])]))
    np.testing.assert_array_equal(found[0, :, 0], [0, 128, 255])
    values = np.array([[-10, 10, 30]], np.float32)
    found = read(tiff(values, 32, 1, 3, tags=[(SMIN, 11, [-10.0]), (SMAX, 11, [30.0])]))
    np.testing.assert_array_equal(found[0, :, 0], [0, 128, 255])


def test_tags_that_cannot_be_true_do_not_count(read):
    found = read(tiff(TWELVE_BITS, 16, tags=[(MAX, 3, [255])]), guessed=True)
    np.testing.assert_array_equal(found[..., 0], np.rint(TWELVE_BITS / 4095 * 255))


@pytest.mark.parametrize("scaled", [TWELVE_BITS // 16 * 16, np.rint(TWELVE_BITS // 16 * (65535 / 4095)).astype("u2")])
def test_significant_bits_say_that_a_dark_picture_is_dark(read, scaled):
    found = read(png(scaled, 16, (b"gAMA", struct.pack(">I", 45455)), (b"sBIT", b"\x0c")))
    np.testing.assert_array_equal(found[..., 0], np.rint(scaled / 65535 * 255))


def test_significant_bits_of_numbers_that_were_not_scaled(read):
    found = read(png(TWELVE_BITS, 16, (b"sBIT", b"\x0c")))
    np.testing.assert_array_equal(found[..., 0], np.rint(TWELVE_BITS / 4095 * 255))
    found = read(png(COLOURS, 16, (b"sBIT", b"\x0c\x0b\x0a")))
    np.testing.assert_array_equal(found, np.rint(COLOURS / 4095 * 255))


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"P5 3 1 4095\n" + struct.pack(">3H", 0, 100, 4095), [0, 6, 255]),
        (b"P5 3 1 65535\n" + struct.pack(">3H", 0, 100, 3000), [0, 0, 12]),
        (b"P5 3 1 15\n\x00\x03\x0f", [0, 51, 255]),
        (b"P2 3 1 1023\n0 100 512\n", [0, 25, 128]),
    ],
)
def test_largest_value_of_pgm(read, content, wanted):
    np.testing.assert_array_equal(read(content)[0, :, 0], wanted)


def test_largest_value_of_ppm(read):
    found = read(b"P6 1 1 4095\n" + struct.pack(">3H", 4095, 0, 1000))
    np.testing.assert_array_equal(found[0, 0], [255, 0, 62])


def test_precision_of_jpeg_2000(read):
    def of(values):
        stream = io.BytesIO()
        Image.fromarray(values).save(stream, "JPEG2000")
        return stream.getvalue()

    for values in (TWELVE_BITS, TWELVE_BITS // 2 * 2):
        np.testing.assert_array_equal(read(of(values), guessed=True)[..., 0], np.rint(values / 4095 * 255))
    shifted = TWELVE_BITS // 4 * 4  # as Pillow returns less than 16 bits
    np.testing.assert_array_equal(read(of(shifted))[..., 0], np.rint(shifted / 65535 * 255))


def planes(colours, top):
    """Colours with other channels: none, one to be ignored, alpha that is half or whole."""
    alpha = np.full(colours.shape[:2], top, np.uint16)
    alpha[0] = top // 2
    return {"RGB": colours, "RGBX": np.dstack([colours, alpha]), "RGBA": np.dstack([colours, alpha])}, alpha / top


@pytest.mark.parametrize("kind", ["RGB", "RGBX", "RGBA"])
@pytest.mark.parametrize("way", ["plain", "deflated", "planar", "deflated planar"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("white", [4095, 65535])
def test_sixteen_bits_of_colour_in_tiff(read, order, way, kind, white):
    colours = COLOURS * np.uint16(white // 4095)
    samples, alpha = planes(colours, white)
    extra = {"RGB": [], "RGBX": [(338, 3, [0])], "RGBA": [(338, 3, [2])]}[kind]
    content = tiff(samples[kind], 16, 2, order=order, deflated="deflated" in way, planar="planar" in way, tags=extra)
    if way == "deflated planar" and white == 4095:
        with pytest.raises(UnreadableImageError, match="compressed channel by channel; save it with 8 bits"):
            read(content)
        return
    shares = alpha[..., None] if kind == "RGBA" else 1
    wanted = colours / white * 255 * shares + 255 * (1 - shares)
    assert np.abs(read(content, guessed=white == 4095) - wanted).max() <= 1.5


@pytest.mark.parametrize("white", [4095, 65535])
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bits_in_png(read, channels, white):
    colours = (COLOURS if channels > 2 else COLOURS[..., :1]) * np.uint16(white // 4095)
    alpha = np.full((*colours.shape[:2], 1), white, np.uint16)
    alpha[0] = white // 2
    samples = np.concatenate([colours, alpha], -1) if channels != 3 else colours
    shares = alpha / white if channels != 3 else 1
    wanted = colours / white * 255 * shares + 255 * (1 - shares)
    assert np.abs(read(png(samples, 16), guessed=white == 4095) - wanted).max() <= 1.5


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_in_a_png_that_is_read_already(tmp_path, channels):
    values = np.linspace(0, 65535, 12 * channels).astype(np.uint16).reshape((3, 4, 3)[: 2 + channels // 3])
    path = tmp_path / "a.png"
    path.write_bytes(png(values, 16))
    image = Image.open(path)
    image.load()
    difference = np.asarray(to_rgb(image)).astype(int) - np.asarray(read_image(path))
    assert np.abs(difference).max() <= (channels > 1)  # of colours Pillow has kept the high bytes


def test_alpha_of_sixteen_bits_on_colours_of_twelve(read):
    samples = np.dstack([COLOURS, np.full(COLOURS.shape[:2], 65535, np.uint16)])
    assert np.abs(read(png(samples, 16), guessed=True) - COLOURS / 4095 * 255).max() <= 0.5


def test_bright_colours_of_sixteen_bits_are_their_high_bytes(read):
    colours = np.random.default_rng(0).integers(0, 2**16, (9, 9, 3)).astype(np.uint16)
    for content in (png(colours, 16), tiff(colours, 16, 2), tiff(colours, 16, 2, order=">", planar=True)):
        np.testing.assert_array_equal(read(content), colours >> 8)


def test_dark_colours_that_are_multiplied_by_alpha_are_refused(read):
    samples = np.dstack([COLOURS, np.full(COLOURS.shape[:2], 65535, np.uint16)])
    with pytest.raises(UnreadableImageError, match="multiplied by alpha"):
        read(tiff(samples, 16, 2, tags=[(338, 3, [1])]))


def test_grey_multiplied_by_alpha(read):
    found = read(tiff(np.array([[[60, 120], [10, 255]]], np.uint8), 8, tags=[(338, 3, [1])]))
    assert np.abs(found[0, :, 0] - [60 + 255 - 120, 10]).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_transparent_grey(read, bits):
    largest, key = 2**bits - 1, (2**bits - 1) // 2
    values = np.array([[0, key, largest - 1, largest]], np.uint16 if bits == 16 else np.uint8)
    found = read(png(values, bits, (b"tRNS", struct.pack(">H", key))))[0, :, 0]
    np.testing.assert_array_equal(found, np.where(values[0] == key, 255, np.rint(values[0] / largest * 255)))


def test_transparent_colour_of_sixteen_bits(read):
    key, near, bright = (0x1234, 0x5678, 0x9ABC), (0x1234, 0x5678, 0x9ABD), (65535, 0, 65535)
    colours = np.array([[key, near, bright]], np.uint16)
    found = read(png(colours, 16, (b"tRNS", struct.pack(">3H", *key))))
    np.testing.assert_array_equal(found[0], [(255, 255, 255), (0x12, 0x56, 0x9A), (255, 0, 255)])


def test_many_pixels_of_sixteen_bits_are_no_reason_to_warn(read, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", TWELVE_BITS.size - 1)
    content = png(16 * COLOURS, 16)
    path_only = io.BytesIO(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(path_only)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_rgb(image).size == (21, 15)


@pytest.mark.parametrize(("bits", "sample_format"), [(64, 3), (16, 3), (8, 3)])
def test_a_tiff_of_an_unsupported_kind_is_named(tmp_path, bits, sample_format):
    (tmp_path / "a.tif").write_bytes(tiff(np.zeros((2, 2), f"u{bits // 8}"), bits, 1, sample_format))
    with pytest.raises(
        UnreadableImageError, match=rf"BitsPerSample {bits}, SampleFormat {sample_format}, .*8 bits a chan"
    ):
        read_image(tmp_path / "a.tif")
