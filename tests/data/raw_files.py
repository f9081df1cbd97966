"""Writes image files and ICC profiles byte by byte, of kinds that Pillow does not write."""

import struct
import zlib

import numpy as np

CODES = {1: "B", 3: "H", 4: "I", 7: "B", 8: "h", 11: "f"}  # types of TIFF fields


def tiff(samples, bits, photometric=1, sample_format=1, order="<", deflated=False, planar=False, tags=()):
    """A TIFF of samples `(H, W)` or `(H, W, channels)`.

    Args:
        samples: the numbers, in the type that they have in the file; integers of 12 bits and less are packed.
        bits: BitsPerSample.
        photometric: PhotometricInterpretation.
        sample_format: 1: unsigned, 2: signed, 3: float.
        order: of the bytes, `<` or `>`.
        deflated: whether it is compressed.
        planar: whether each channel lies apart.
        tags: more fields, `(tag, type, values)`.
    """
    samples = np.atleast_3d(samples)
    height, width, n = samples.shape
    planes = np.moveaxis(samples, -1, 0)[..., None] if planar else samples[None]
    strips = [packed(plane, bits, order) for plane in planes]
    strips = [zlib.compress(strip) for strip in strips] if deflated else strips
    fields = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * n), 259: (3, [8 if deflated else 1]),
        262: (3, [photometric]), 273: (4, [0] * len(strips)), 277: (3, [n]), 278: (4, [height]),
        279: (4, [len(strip) for strip in strips]), 284: (3, [2 if planar else 1]), 339: (3, [sample_format] * n),
        **{tag: (kind, values) for tag, kind, values in tags},
    }  # fmt: skip

    def content(start):
        fields[273] = (4, [start + sum(map(len, strips[:number])) for number in range(len(strips))])
        entries, behind = b"", b""
        for tag, (kind, values) in sorted(fields.items()):
            value = struct.pack(f"{order}{len(values)}{CODES[kind]}", *values)
            if len(value) > 4:
                place = 8 + 2 + 12 * len(fields) + 4 + len(behind)
                behind += value + b"\0" * (len(value) % 2)
                value = struct.pack(f"{order}I", place)
            entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + value.ljust(4, b"\0")
        head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(fields))
        return head + entries + b"\0\0\0\0" + behind

    return content(len(content(0))) + b"".join(strips)


def packed(samples, bits, order=">"):
    """The bytes of rows of samples, of which the small ones share bytes."""
    if bits in (8, 16, 32, 64):
        return np.ascontiguousarray(samples, samples.dtype.newbyteorder(order)).tobytes()
    rows = ["".join(f"{value:0{bits}b}" for value in row.ravel()) for row in samples]
    return b"".join(int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8), "big") for row in rows)


def png(samples, bits, *chunks):
    """A PNG of samples `(H, W)` or `(H, W, channels)`, with more chunks before the pixels."""
    samples = np.atleast_3d(samples)
    height, width, n = samples.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[n]
    header = b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + packed(row[None], bits) for row in samples)
    parts = (header, *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


# Columns of matrices from linear RGB to XYZ, adapted to D50, as profiles of these spaces hold them
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])


def srgb_decoded(encoded):
    """Light from 0 to 1 of sRGB values from 0 to 1 (IEC 61966-2-1)."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def srgb_encoded(light):
    """Numbers from 0 to 255 of light (IEC 61966-2-1)."""
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def rgb_profile(matrix, curve):
    """The ICC profile of a matrix `(3, 3)` and a curve, which is a gamma or light at equal steps."""
    columns = {f"{name}XYZ": xyz(column) for name, column in zip("rgb", matrix.T, strict=True)}
    return profile("mntr", "RGB", "XYZ", {**columns, **{f"{name}TRC": tone(curve) for name in "rgb"}})


def grey_profile(gamma):
    return profile("mntr", "GRAY", "XYZ", {"kTRC": tone(gamma)})


def cmyk_profile(lightness):
    """The ICC profile of inks that make grey only; `lightness(c, m, y, k)` of no ink and all of each, from 0 to 1."""
    corners = np.stack(np.meshgrid(*4 * [[0, 1]], indexing="ij"), -1).reshape(-1, 4)  # the last ink varies fastest
    grid = bytes(value for corner in corners for value in (round(255 * lightness(*corner)), 128, 128))
    identity = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel())
    ramp = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + 4 * ramp + grid + 3 * ramp  # ICC.1:2022, 10.11
    return profile("prtr", "CMYK", "Lab", {"A2B0": table})


def profile(kind, space, connection, tags):
    """An ICC profile of version 2 (ICC.1:2001-04)."""
    tags = {"wtpt": xyz((0.9642, 1, 0.8249)), **tags}
    body, table, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += struct.pack(">4sII", name.encode(), start + len(body), len(value))
        body += value + b"\0" * (-len(value) % 4)
    header = struct.pack(
        ">I4xI4s4s4s12x4s28x3i48x", start + len(body), 0x02400000, kind.encode(), space.ljust(4).encode(),
        connection.ljust(4).encode(), b"acsp", *fixed((0.9642, 1, 0.8249)),
    )  # fmt: skip
    return header + struct.pack(">I", len(tags)) + table + body


def fixed(values):
    return [round(65536 * value) for value in values]


def xyz(values):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *fixed(values))


def tone(curve):
    if np.ndim(curve) == 0:
        return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * curve))
    return b"curv\0\0\0\0" + struct.pack(
        f">I{len(curve)}H", len(curve), *np.rint(65535 * np.asarray(curve)).astype(int)
    )
