"""Reads thousands of damaged files, in a process of its own, as a decoder that crashes takes its process with it.

    python damaging.py folder how_many

Damaged are small pictures of its own, and the files of the folder whose names end in `.whole`. Prints how many were
read, and how often each kind of reason was given.
"""

import io
import json
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from whycluster.data.decoding import FORMATS, UnreadableImageError, read_image


def whole(folder: Path) -> dict[str, bytes]:
    """A small picture in each format, in some of their variants, and the files of a folder."""
    y, x = np.mgrid[0:24, 0:40]
    picture = Image.fromarray(np.stack([x * 6, y * 10, (x + y) * 2], -1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    variants = [
        *((kind, picture, {}) for kind in FORMATS),
        ("JPEG", picture, {"progressive": True, "exif": exif}),
        ("JPEG", picture.convert("CMYK"), {}),
        ("PNG", picture.convert("P"), {"transparency": 1}),
        ("PNG", Image.fromarray((x * 1600).astype(np.uint16)), {}),
        ("PNG", picture.convert("RGBA"), {"interlace": 1, "exif": exif}),
        ("TIFF", picture, {"compression": "tiff_lzw"}),
        ("TIFF", picture.convert("L").convert("F"), {}),
        ("TIFF", picture, {"compression": "jpeg"}),
        ("GIF", picture.convert("P"), {"save_all": True, "append_images": [picture.rotate(90), picture]}),
        ("WEBP", picture.convert("RGBA"), {"lossless": True, "save_all": True, "append_images": [picture]}),
        ("BMP", picture.convert("1"), {}),
    ]
    contents = {path.name: path.read_bytes() for path in sorted(folder.glob("*.whole"))}
    for kind, image, settings in variants:
        stream = io.BytesIO()
        image.save(stream, format=kind, **settings)
        contents[f"{kind} {image.mode} {' '.join(settings)}"] = stream.getvalue()
    return contents


def flip(content: bytearray, chance: random.Random, others: list[bytes]) -> None:
    """Flips some bits, most of them near the beginning, where headers are."""
    for _ in range(chance.randint(1, 12)):
        end = len(content) if chance.random() < 0.4 else min(len(content), 64)
        content[chance.randrange(end)] ^= 1 << chance.randrange(8)


def truncate(content: bytearray, chance: random.Random, others: list[bytes]) -> None:
    """Removes all behind some place."""
    del content[chance.randrange(len(content)) :]


def behead(content: bytearray, chance: random.Random, others: list[bytes]) -> None:
    """Puts the beginning of another file in the place of its own."""
    size = chance.choice((2, 4, 8, 12, 16, 32, 64))
    content[:size] = chance.choice(others)[:size]


def overwrite(content: bytearray, chance: random.Random, others: list[bytes]) -> None:
    """Overwrites a stretch with zeros, with ones, or at random."""
    start = chance.randrange(len(content))
    length = min(len(content) - start, chance.randint(1, 40))
    content[start : start + length] = chance.choice((bytes(length), b"\xff" * length, chance.randbytes(length)))


def splice(content: bytearray, chance: random.Random, others: list[bytes]) -> None:
    """Inserts a piece of another file, or of its own."""
    source = chance.choice([*others, bytes(content)])
    start, place = chance.randrange(len(source)), chance.randrange(len(content))
    content[place:place] = source[start : start + chance.randint(1, 200)]


WAYS: tuple[Callable[[bytearray, random.Random, list[bytes]], None], ...] = (flip, truncate, behead, overwrite, splice)


def main(folder: str, wanted: str) -> None:
    """Damages files, reads them, and prints the counts."""
    warnings.simplefilter("ignore")  # of Pillow, about what it finds in such files
    chance, contents = random.Random(0), whole(Path(folder))
    read, reasons, damaged = 0, Counter(), 0
    path = Path(folder) / "image"
    while damaged < int(wanted):
        for name, content in contents.items():
            for way in WAYS:
                changed = bytearray(content)
                way(changed, chance, list(contents.values()))
                if changed == content:
                    continue
                damaged += 1
                path.write_bytes(changed)
                print(f"{damaged} {name} {way.__name__}", file=sys.stderr, flush=True)  # for whoever looks for a crash
                try:
                    image = read_image(path)
                except UnreadableImageError as error:
                    reasons["no reason"] += not str(error)
                    reasons[str(error).partition(":")[0]] += 1
                else:
                    assert image.mode == "RGB"
                    assert np.asarray(image).shape == (image.height, image.width, 3)
                    read += 1
    print(json.dumps({"damaged": damaged, "read": read, "reasons": reasons}))


if __name__ == "__main__":
    main(*sys.argv[1:])
