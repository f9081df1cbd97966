"""The preprocessing that a network was trained with: how images are resized and cropped, and pixels normalised."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

# Images longer than this many times their width are cropped to that first: a line of 1 by 60000 pixels would be resized
# to 10 GB, of which the centre crop keeps a square.
LONGEST = 200


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of a network: resize, centre crop, and later, on the device, `(x - mean) / std`.

    Attributes:
        resize: length of the shorter side after resizing, in pixels.
        crop: side of the square that is cut from the centre.
        mean: of each channel, for values from 0 to 1.
        std: of each channel.
        interpolation: of the resizing, as torchvision names it.
    """

    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bilinear"

    def __call__(self, image: Image.Image) -> Tensor:
        """Resizes and crops an RGB image, `(3, crop, crop)` uint8."""
        width, height = image.size
        if max(width, height) > LONGEST * min(width, height):
            image = F.center_crop(image, [min(height, LONGEST * width), min(width, LONGEST * height)])
        image = F.resize(image, [self.resize], InterpolationMode(self.interpolation))
        tensor: Tensor = F.pil_to_tensor(F.center_crop(image, [self.crop]))
        return tensor

    @classmethod
    def of_transforms(cls, transforms: Any) -> "Preprocessing":
        """Reads the preprocessing from the transforms of torchvision's weights (`weights.transforms()`)."""
        return cls(
            resize=_only(transforms.resize_size),
            crop=_only(transforms.crop_size),
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
            interpolation=transforms.interpolation.value,
        )

    def to_plain(self) -> dict[str, Any]:
        """Converts to numbers, strings and lists, from which `from_plain` makes the same preprocessing."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> "Preprocessing":
        """Makes the preprocessing that `to_plain` described."""
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


def _only(size: Sequence[int]) -> int:
    """Returns the one number of a torchvision size; all its classification weights have square ones."""
    return max(size)
