"""Trains `GlyphNet` on rendered letters: `python -m whycluster.backbones.pretrain`.

The letters a-z and A-Z are drawn in the typefaces that come with matplotlib, but no digits, so that digits can test the
features. Each sample is warped, scaled to fill its frame, redrawn with another stroke width, reduced to an 8×8 grid of
grey levels and enlarged again: coarse like small scans of handwriting. The run is deterministic for a seed, a device
and a thread count.
"""

import argparse
import io
import string
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional as F

from whycluster.backbones.glyphnet import IMAGE_SIZE, MEAN, STD, WEIGHTS, GlyphNet
from whycluster.files import written_whole

# A letter's place here is its class.
LETTERS = string.ascii_letters
# Letters whose capital has the same shape once both fill the frame; both have the same class.
TWINS = "cosvwxz"
# File stems of the typefaces in matplotlib that hold every letter in its usual place.
FACES = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmb10", "cmmi10", "cmss10", "cmti10", "cmtt10"),
)
# Height and width, in pixels, on which letters are drawn and bent.
CANVAS = 64
# Height of a letter on the canvas, in pixels, which leaves a margin to bend into.
INK = 38
# Height and width of the grid to which samples are reduced, and the steps between black and white on it.
COARSE = 8
GREY_LEVELS = 16


def letter_class(letter: str) -> int:
    """Returns the class of a letter: its place in `LETTERS`, or that of its twin."""
    return LETTERS.index(letter.lower() if letter.lower() in TWINS else letter)


def face_paths() -> list[Path]:
    """Lists the files of `FACES` inside the installed matplotlib.

    Raises:
        SystemExit: if matplotlib is not installed.
    """
    try:
        import matplotlib  # only its fonts are needed, and only by this script
    except ImportError:
        raise SystemExit('Pretraining needs the fonts of matplotlib: pip install "whycluster[pretrain]"') from None
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [folder / f"{face}.ttf" for face in FACES]


def draw_letter(font: ImageFont.FreeTypeFont, letter: str) -> Image.Image:
    """Draws one letter, white on black, scaled to a common height in the middle of the canvas.

    Args:
        font: a typeface at a size well above the canvas, so that scaling only ever reduces.
        letter: the letter.

    Returns:
        A grey image of `CANVAS` × `CANVAS` pixels.
    """
    left, top, right, bottom = (int(edge) for edge in font.getbbox(letter))
    ink = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(ink).text((-left, -top), letter, fill=255, font=font)
    width = min(max(round(INK * ink.width / ink.height), INK // 4), INK)
    canvas = Image.new("L", (CANVAS, CANVAS))
    scaled = ink.resize((width, INK), Image.Resampling.BOX)
    canvas.paste(scaled, ((CANVAS - width) // 2, (CANVAS - INK) // 2))
    return canvas


def render_letters(paths: Sequence[Path]) -> tuple[Tensor, Tensor]:
    """Draws every letter in every typeface.

    Args:
        paths: the files of the typefaces.

    Returns:
        Images `(M, 1, CANVAS, CANVAS)` from 0 to 1, and their classes `(M,)`.
    """
    fonts = [ImageFont.truetype(str(path), 2 * CANVAS) for path in paths]
    drawn = [np.array(draw_letter(font, letter)) for font in fonts for letter in LETTERS]
    classes = [letter_class(letter) for _ in fonts for letter in LETTERS]
    images = torch.from_numpy(np.stack(drawn)).unsqueeze(1).float() / 255
    return images, torch.tensor(classes)


def _bend(images: Tensor) -> Tensor:
    """Rotates, slants and elastically warps each of `(N, 1, CANVAS, CANVAS)` at random."""
    count = len(images)
    angle, slant = _uniform(count, -0.25, 0.25), _uniform(count, -0.35, 0.35)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(count)
    rows = [cos, slant * cos - sin, zero, sin, slant * sin + cos, zero]
    grid = F.affine_grid(torch.stack(rows, 1).view(count, 2, 3), list(images.shape), align_corners=False)
    # Few knots make a smooth warp that curves whole strokes without roughening their edges.
    knots = 0.12 * torch.randn(count, 2, 4, 4)
    warp = F.interpolate(knots, size=CANVAS, mode="bicubic", align_corners=True)
    return F.grid_sample(images, grid + warp.permute(0, 2, 3, 1), align_corners=False)


def _fill_frame(images: Tensor) -> Tensor:
    """Crops each of `(N, 1, CANVAS, CANVAS)` to its ink and scales it to fill a frame's height.

    Returns:
        Images `(N, 1, IMAGE_SIZE, IMAGE_SIZE)`, centred, of varied width.
    """
    count = len(images)
    left, width = _ink_span(images.amax((1, 2)))
    top, height = _ink_span(images.amax((1, 3)))
    tall = _uniform(count, 0.9, 1.0)  # part of the frame's height that the letter takes
    aspect = (_uniform(count, 0.7, 1.1) * width / height).clamp(min=0.25)
    wide = tall * torch.minimum(aspect, _uniform(count, 0.55, 0.85))
    # The map leads from output to input places, both from -1 to 1 across their image.
    crop = torch.zeros(count, 2, 3)
    crop[:, 0, 0], crop[:, 0, 2] = width / CANVAS / wide, (2 * left + width) / CANVAS - 1
    crop[:, 1, 1], crop[:, 1, 2] = height / CANVAS / tall, (2 * top + height) / CANVAS - 1
    grid = F.affine_grid(crop, [count, 1, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _vary_strokes(images: Tensor) -> Tensor:
    """Redraws each of `(N, 1, IMAGE_SIZE, IMAGE_SIZE)` with strokes of another width.

    A blurred letter is thresholded at a random level: a low threshold widens the strokes, a high one thins them.
    """
    blurred = _blur(images, _uniform(len(images), 0.6, 1.8))
    # Thin lines have a low peak after blurring; a threshold relative to it cannot remove them.
    peak = blurred.amax((1, 2, 3), keepdim=True)
    cut = peak * _uniform(len(images), 0.15, 0.55).view(-1, 1, 1, 1)
    return (8 * (blurred - cut) + 0.5).clamp(0, 1)


def _coarsen(images: Tensor) -> Tensor:
    """Reduces `(N, 1, IMAGE_SIZE, IMAGE_SIZE)` to a few grey cells and enlarges them again."""
    cells = F.avg_pool2d(images, IMAGE_SIZE // COARSE)
    cells = cells * _uniform(len(images), 0.8, 1.0).view(-1, 1, 1, 1)
    cells = (cells * GREY_LEVELS).round() / GREY_LEVELS
    return F.interpolate(cells, size=IMAGE_SIZE, mode="bilinear", align_corners=False)


def sample(letters: Tensor, classes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Draws a random batch of training samples.

    Args:
        letters: all rendered letters, `(M, 1, CANVAS, CANVAS)` from 0 to 1.
        classes: their classes `(M,)`.
        count: how many samples, `N`.

    Returns:
        Normalised images `(N, 3, IMAGE_SIZE, IMAGE_SIZE)` and their classes `(N,)`.
    """
    chosen = torch.randint(len(letters), (count,))
    grey = _coarsen(_vary_strokes(_fill_frame(_bend(letters[chosen]))))
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return (grey - mean) / std, classes[chosen]  # the single channel broadcasts to three


def train(letters: Tensor, classes: Tensor, steps: int, batch_size: int) -> GlyphNet:
    """Trains a network to name letters; randomness comes from torch's global generator.

    Args:
        letters: all rendered letters, `(M, 1, CANVAS, CANVAS)` from 0 to 1.
        classes: their classes `(M,)`.
        steps: number of optimiser steps.
        batch_size: samples per step.

    Returns:
        The trained network, in evaluation mode.
    """
    net = GlyphNet(len(LETTERS))
    for layer in net.features:
        if isinstance(layer, nn.Conv2d):
            # Neither biases nor norms would make up for the smaller default, with which activations die away.
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=steps, pct_start=0.15)
    start = time.monotonic()
    for step in range(1, steps + 1):
        loss, correct = _update(net, optimiser, *sample(letters, classes, batch_size))
        schedule.step()
        if step % 50 == 0 or step == steps:
            _report(f"step {step}/{steps}  loss {loss:.3f}  correct {correct:.0%}", start)
    return net.eval()


def save_weights(net: GlyphNet, path: Path) -> None:
    """Writes a `state_dict` to a file atomically."""
    buffer = io.BytesIO()  # torch would write the temporary name of a file into the archive
    torch.save(net.state_dict(), buffer)
    with written_whole(path) as beside:
        beside.write_bytes(buffer.getvalue())


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the training from the command line.

    Args:
        arguments: the command line without the program's name; `None`: that of this process.
    """
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(options.seed)
    letters, classes = (part.to(options.device) for part in render_letters(face_paths()))
    with torch.device(options.device):
        net = train(letters, classes, options.steps, options.batch_size)
    save_weights(net.cpu(), options.output)
    print(f"Wrote {options.output}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m whycluster.backbones.pretrain",
        description="Train GlyphNet on rendered letters and write its weights.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all randomness")
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="file to write")
    parser.add_argument("--steps", type=int, default=1500, help="optimiser steps")
    parser.add_argument("--batch-size", type=int, default=256, help="samples per step")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; changes what is drawn at random")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; changes rounding")
    return parser


def _update(net: GlyphNet, optimiser: torch.optim.Optimizer, images: Tensor, targets: Tensor) -> tuple[float, float]:
    """Takes one optimiser step; returns the loss of its batch, and the fraction of correct letters."""
    logits = net(images)
    # Without label smoothing a few confident features would become so large that they dominate all distances.
    loss = F.cross_entropy(logits, targets, label_smoothing=0.1)
    optimiser.zero_grad()
    torch.autograd.backward(loss)
    optimiser.step()
    correct = (logits.argmax(1) == targets).float().mean()
    return loss.item(), correct.item()


def _report(line: str, start: float) -> None:
    print(f"{line}  {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def _uniform(count: int, low: float, high: float) -> Tensor:
    return torch.empty(count).uniform_(low, high)


def _ink_span(profile: Tensor) -> tuple[Tensor, Tensor]:
    """Finds the first inked place, and the extent of the ink, in each row of `(N, CANVAS)`."""
    inked = (profile > 0.5).float()  # argmax gives the first of equal values
    first = inked.argmax(1)
    return first.float(), (CANVAS - inked.flip(1).argmax(1) - first).float()


def _blur(images: Tensor, sigmas: Tensor) -> Tensor:
    """Blurs each of `(N, 1, H, W)` by a Gaussian of its own deviation `(N,)`, in pixels."""
    count, reach = len(images), 5
    offsets = torch.arange(-reach, reach + 1)
    kernels = F.softmax(-(offsets**2) / (2 * sigmas.unsqueeze(1) ** 2), dim=1)
    stacked = images.transpose(0, 1)  # images as channels, so that each gets its own kernel
    rows = kernels.view(count, 1, 1, -1)
    across = F.conv2d(stacked, rows, padding=(0, reach), groups=count)
    down = F.conv2d(across, rows.mT, padding=(reach, 0), groups=count)
    return down.transpose(0, 1)


if __name__ == "__main__":
    main()
