"""Properties of images that have nothing to do with what they show: how bright, sharp or compressed they are, what
their edges look like, and what kind of file they come from.

`N` images.
"""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

THUMBNAIL = 112  # side of the small images that are compared pixel by pixel
EDGE = 1 / 28  # width of the border, and side of a corner four times that, as a fraction of the shorter side
BORDER_AND_CORNERS = ("border", "top left corner", "top right corner", "bottom left corner", "bottom right corner")
OF_PIXELS = (
    *("brightness", "contrast", "colourfulness", "saturation", "red cast", "yellow cast", "sharpness", "blockiness"),
    *(f"{name} of the {place}" for place in BORDER_AND_CORNERS for name in ("red", "green", "blue", "variation")),
)
OF_FILE = ("width", "height", "aspect ratio", "bytes per pixel", "JPEG file", "PNG file")
PROPERTIES = OF_PIXELS + OF_FILE
BLOCK = 8  # side of the blocks of JPEG


def pixel_properties(images: Tensor) -> Tensor:
    """Computes `OF_PIXELS` of images as the network sees them.

    Colourfulness is that of Hasler and Süsstrunk 2003 (doi 10.1117/12.477378), the casts are the means of its two
    opponent colours; sharpness is the logarithm of the variance of the Laplacian; blockiness compares differences of
    neighbouring pixels across a grid of 8 pixels with those within, for the best position of the grid.

    Args:
        images: `(N, 3, H, W)` uint8.

    Returns:
        `(N, len(OF_PIXELS))` float32; colours from 0 to 1.
    """
    x = images.float() / 255
    red, green, blue = x.unbind(1)
    grey = x.mean(1)  # (N, H, W)
    opponents = torch.stack((red - green, (red + green) / 2 - blue), 1).flatten(2)  # (N, 2, H·W)
    spread, cast = opponents.var(2).sum(1).sqrt(), opponents.mean(2)
    saturation = x.amax(1) - x.amin(1)
    whole = [grey.mean((1, 2)), grey.std((1, 2)), spread + 0.3 * cast.norm(dim=1), saturation.mean((1, 2))]
    columns = [*whole, *cast.unbind(1), _sharpness(grey), _blockiness(grey)]
    for mask in _edges(*x.shape[2:]):
        inside = x[:, :, mask]  # (N, 3, n)
        columns += [*inside.mean(2).unbind(1), inside.std(2).mean(1)]
    return torch.stack(columns, 1)


def file_properties(path: Path | None) -> list[float]:
    """Reads `OF_FILE` from the head of an image file; zeros where there is no file, or it can no longer be read."""
    if path is None:
        return [0.0] * len(OF_FILE)
    try:
        with Image.open(path) as image:
            (width, height), kind = image.size, image.format
        size = path.stat().st_size
    except (OSError, ValueError, Image.DecompressionBombError):
        return [0.0] * len(OF_FILE)
    return [width, height, width / height, size / (width * height), float(kind == "JPEG"), float(kind == "PNG")]


def thumbnails(images: Tensor) -> Tensor:
    """Reduces images `(N, 3, H, W)` uint8 to the size at which they are compared, `(N, 3, 112, 112)` uint8."""
    return F.adaptive_avg_pool2d(images.float(), THUMBNAIL).round().to(torch.uint8)


def with_colours_of(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Gives each image another mean and standard deviation of each colour (Reinhard et al. 2001, Color Transfer between
    Images, in RGB): what undoes a cast, or a change of brightness or contrast.

    Args:
        images: `(N, 3, H, W)` uint8.
        mean: `(3,)` from 0 to 1.
        deviation: `(3,)`.

    Returns:
        `(N, 3, H, W)`, from 0 to 1.
    """
    x = images.float() / 255
    own_mean, own_deviation = x.mean((2, 3), keepdim=True), x.std((2, 3), keepdim=True).clamp(min=1e-3)
    given = mean.to(x).view(1, 3, 1, 1), deviation.to(x).view(1, 3, 1, 1)
    return ((x - own_mean) / own_deviation * given[1] + given[0]).clamp(0, 1)


def _sharpness(grey: Tensor) -> Tensor:
    """Computes the logarithm of the variance of the Laplacian of `(N, H, W)`, `(N,)`."""
    kernel = grey.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]]).view(1, 1, 3, 3)
    return (F.conv2d(grey[:, None], kernel).flatten(1).var(1) + 1e-6).log()


def _blockiness(grey: Tensor) -> Tensor:
    """Computes the logarithm of how much larger steps between blocks are than those within, `(N,)`."""
    found = []
    for steps in (grey.diff(dim=1).abs().mean(2), grey.diff(dim=2).abs().mean(1)):  # (N, n): between rows, columns
        n = steps.shape[1] // BLOCK
        if n:
            phases = steps[:, : n * BLOCK].reshape(len(steps), n, BLOCK).mean(1)  # (N, 8)
            largest = phases.amax(1)
            found.append(((largest + 1e-4) / ((phases.sum(1) - largest) / (BLOCK - 1) + 1e-4)).log())
    return torch.stack(found).mean(0) if found else grey.new_zeros(len(grey))


def _edges(height: int, width: int) -> list[Tensor]:
    """Masks, `(H, W)` bool each, of the border and of the four corners."""
    edge = max(1, round(EDGE * min(height, width)))
    border = torch.ones(height, width, dtype=torch.bool)
    border[edge : height - edge, edge : width - edge] = False
    masks = [border]
    for rows in (slice(4 * edge), slice(-4 * edge, None)):
        for columns in (slice(4 * edge), slice(-4 * edge, None)):
            corner = torch.zeros_like(border)
            corner[rows, columns] = True
            masks.append(corner)
    return masks
