"""Conversion of images, in any of the usual forms, to batches of tensors."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from whycluster.backbones import Preprocessing
from whycluster.data import UnreadableImageError, read_image
from whycluster.data.decoding import to_rgb
from whycluster.errors import UserError

Array: TypeAlias = Tensor | NDArray[Any]
Images: TypeAlias = Array | Sequence[str | Path | Image.Image] | Sequence[Array]


def batches(images: Images, prepare: Preprocessing, size: int) -> Iterator[Tensor]:
    """Splits images into batches of at most `size`, each `(n, 3, H, W)`, uint8 or floats from 0 to 1.

    Args:
        images: paths or Pillow images, which `prepare` resizes and crops; or a tensor or NumPy array `(N, 3, H, W)` of
            images that are prepared already, or a list of such images `(3, H, W)`.
        prepare: the preprocessing of the model.
        size: of a batch.

    Raises:
        UserError: for no images, or tensors of another shape, type or range.
        UnreadableImageError: for a path that holds no image.
    """
    if isinstance(images, np.ndarray) and images.ndim == 1 and images.dtype.kind in "OUS":
        images = list(images)  # of paths
    _check_collection(images)
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        if isinstance(batch, Tensor | np.ndarray):
            yield _checked(_as_tensor(batch))
        else:
            yield _checked(torch.stack([_prepared(image, prepare) for image in batch]))


def _check_collection(images: Images) -> None:
    """Checks that there are several images, all of one kind and, as tensors, of one shape; else `UserError`."""
    if isinstance(images, str | Path | Image.Image):
        raise UserError("one image is given where a list is wanted; write explain([image]).")
    if not isinstance(images, Tensor | np.ndarray | Sequence):
        raise UserError(f"images are given as {type(images).__name__}; give a list of paths or a tensor (N, 3, H, W).")
    if isinstance(images, Tensor | np.ndarray) and (images.ndim != 4 or images.shape[1] != 3):
        raise UserError(f"images of shape {tuple(images.shape)} should have the shape (N, 3, H, W).")
    if not len(images):
        raise UserError("there are no images to explain.")
    if isinstance(images, Sequence) and any(isinstance(image, Tensor | np.ndarray) for image in images):
        _check_list(images)


def _check_list(images: Sequence[object]) -> None:
    shapes = {tuple(image.shape) if isinstance(image, Tensor | np.ndarray) else None for image in images}
    if None in shapes:
        raise UserError("tensors and other images are mixed in one list; explain them one list after the other.")
    for shape in shapes:
        if shape is not None and (len(shape) != 3 or shape[0] != 3):
            raise UserError(f"an image of shape {shape} in a list should have the shape (3, H, W).")
    if len(shapes) > 1:
        raise UserError(f"images of several shapes, {', '.join(map(str, shapes))}, should all have the same one.")


def _prepared(image: object, prepare: Preprocessing) -> Tensor:
    return _as_tensor(image) if isinstance(image, Tensor | np.ndarray) else prepare(_opened(image))


def _as_tensor(array: Array) -> Tensor:
    """Converts an array to a tensor, whatever its byte order, its strides, and whether it may be written to."""
    if isinstance(array, Tensor):
        return array
    if array.dtype.kind not in "biufc":
        raise UserError(f"images of type {array.dtype} should be uint8, or floats from 0 to 1.")
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _checked(images: Tensor) -> Tensor:
    """Checks that images have pixels, and values that are allowed."""
    if 0 in images.shape:
        raise UserError(f"images of shape {tuple(images.shape)} have no pixels.")
    if images.dtype != torch.uint8 and not (images.is_floating_point() and _within_0_and_1(images)):
        low, high = (float(value) for value in images.to(torch.complex128).real.aminmax())
        raise UserError(
            f"images of type {images.dtype} from {low:g} to {high:g} should be uint8, "
            "or floats from 0 to 1; the model normalises them itself."
        )
    return images


def _within_0_and_1(images: Tensor) -> bool:
    low, high = images.aminmax()
    return bool(low >= 0) and bool(high <= 1)


def _opened(image: object) -> Image.Image:
    """Opens an image in RGB, rotated as its EXIF data say."""
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if not isinstance(image, str | Path):
        raise UserError(f"{image!r:.100} is no image; give a path, a Pillow image, or a tensor (3, H, W).")
    try:
        return read_image(Path(image))
    except UnreadableImageError as error:
        raise UnreadableImageError(f"{str(image)!r}: {error}") from error
