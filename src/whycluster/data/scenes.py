"""Scenes with a ground truth for explanations: photographs with a digit or a small mark pasted, and masks of these.

The groups of a variant differ only in what was pasted: each photograph, place, size, colour and rotation is drawn once
and used for every group. So nothing else can distinguish the means of the groups.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from whycluster.data.collections import Collection
from whycluster.errors import UserError, whole_number

SIDE = 224  # pixels
RIM = 1 / 14  # of the side; nothing is pasted there, as preprocessing may crop it
CROP = (0.4, 0.95)  # side of the part taken of a photograph, as a fraction of its shorter side
DIGIT = (0.3, 0.5)  # side of a digit, as a fraction of that of the scene
TURN = 25  # degrees, the most by which a digit is rotated
MARK = 1 / 8  # side of the mark
CHECKS = 4  # fields of the mark in a row
SEEN = 0.25  # opacity from which a pixel belongs to the mask


class Draw(NamedTuple):
    """The random choices that make a scene, except for its group."""

    photo: int  # number of the photograph
    box: tuple[int, int, int, int]  # the part of it, (left, upper, right, lower)
    side: int  # of the digit, in pixels
    corner: tuple[int, int]  # its upper left corner
    turn: float  # degrees
    colour: tuple[int, int, int]  # of the digit
    sample: float  # which of the handwritten samples of its value, from 0 to 1
    value: int  # the digit where all groups show the same one
    place: tuple[int, int]  # corner in which the mark lies: right or left, below or above


class Scenes(Collection):
    """A collection of scikit-learn's digits on the photographs that it ships with.

    Args:
        variant: `digit`: the groups are digits of different values; `mark`: they are scenes with a small chequered
            mark in one of the corners, and the same scenes without.
        per_group: scenes of each group.
        values: of the digits.
        seed: same seed, same scenes.

    Raises:
        UserError: for an unknown variant, or invalid numbers.
    """

    label_kind = "names of the groups"

    def __init__(
        self,
        variant: Literal["digit", "mark"] = "digit",
        per_group: int = 40,
        values: Sequence[int] = tuple(range(10)),
        seed: int = 0,
    ) -> None:
        values = list(values)
        if variant not in ("digit", "mark"):
            raise UserError(f"data.variant={variant!r} is unknown; choose digit or mark.")
        whole_number("data.per_group", per_group, 1)
        digits_only = all(type(value) is int and 0 <= value <= 9 for value in values)
        if not digits_only or len(set(values)) < max(2, len(values)):
            raise UserError(f"data.values={values} should be two or more of the digits from 0 to 9, each once.")
        self.groups = [str(value) for value in values] if variant == "digit" else ["marked", "plain"]
        self.source: dict[str, Any] = {
            "kind": "scenes", "variant": variant, "per_group": per_group, "values": values, "seed": seed
        }  # fmt: skip
        digits = load_digits()
        self._samples = {value: digits.images[digits.target == value] / 16 for value in values}
        self._photos = [Image.fromarray(photo) for photo in load_sample_images().images]
        random = np.random.RandomState(seed)
        self._draws = [_draw(random, [photo.size for photo in self._photos], values) for _ in range(per_group)]
        self.labels = [group for group in self.groups for _ in self._draws]
        self.paths = [f"{group}/{number:04d}" for group in self.groups for number in range(per_group)]
        self.skipped: dict[str, str] = {}

    def load(self, index: int) -> Image.Image:
        return self._painted(index)[0]

    def mask(self, index: int) -> Image.Image | None:
        """Returns the pixels that were pasted for the group of a scene, white on black; `None` where nothing was."""
        return self._painted(index)[1]

    def _painted(self, index: int) -> tuple[Image.Image, Image.Image | None]:
        """Paints a scene and its mask."""
        group, draw = self.labels[index], self._draws[index % len(self._draws)]
        scene = self._photos[draw.photo].resize((SIDE, SIDE), Image.Resampling.BICUBIC, draw.box)
        by_digit = group not in ("marked", "plain")
        digit = self._digit(draw, int(group) if by_digit else draw.value)
        scene.paste(Image.new("RGB", scene.size, draw.colour), mask=digit)
        if by_digit:
            return scene, digit.point(lambda opacity: 255 * (opacity >= 255 * SEEN))
        if group == "plain":
            return scene, None
        mark = _mark()
        x, y = (SIDE - round(SIDE * RIM) - mark.width if far else round(SIDE * RIM) for far in draw.place)
        scene.paste(mark, (x, y))
        mask = Image.new("L", scene.size)
        mask.paste(255, (x, y, x + mark.width, y + mark.height))
        return scene, mask

    def _digit(self, draw: Draw, value: int) -> Image.Image:
        """Computes the opacity of a digit in its place, in mode `L`."""
        samples = self._samples[value]
        ink = Image.fromarray((255 * samples[int(draw.sample * len(samples))]).astype(np.uint8))
        ink = ink.resize((draw.side, draw.side), Image.Resampling.BICUBIC)
        ink = ink.rotate(draw.turn, Image.Resampling.BICUBIC)
        opacity = Image.new("L", (SIDE, SIDE))
        opacity.paste(ink.point(lambda level: min(255, max(0, 2 * level - 128))), draw.corner)
        return opacity


def _draw(random: np.random.RandomState, sizes: Sequence[tuple[int, int]], values: Sequence[int]) -> Draw:
    photo = random.randint(len(sizes))
    width, height = sizes[photo]
    part = round(random.uniform(*CROP) * min(width, height))
    left, upper = random.randint(width - part + 1), random.randint(height - part + 1)
    side = round(random.uniform(*DIGIT) * SIDE)
    rim = round(SIDE * RIM)
    return Draw(
        photo=photo,
        box=(left, upper, left + part, upper + part),
        side=side,
        corner=tuple(random.randint(rim, SIDE - rim - side + 1, 2).tolist()),
        turn=random.uniform(-TURN, TURN),
        colour=_bright(random),
        sample=random.uniform(),
        value=int(random.choice(values)),
        place=tuple(random.randint(0, 2, 2).tolist()),
    )


def _bright(random: np.random.RandomState) -> tuple[int, int, int]:
    """Draws a colour of full brightness."""
    colour = random.uniform(0, 255, 3)
    red, green, blue = (colour * 255 / colour.max()).round().astype(int).tolist()
    return red, green, blue


def _mark() -> Image.Image:
    """Paints a chequered square."""
    field = round(SIDE * MARK / CHECKS)
    fields = np.indices((CHECKS, CHECKS)).sum(0) % 2
    return Image.fromarray((255 * fields.repeat(field, 0).repeat(field, 1)).astype(np.uint8)).convert("RGB")
