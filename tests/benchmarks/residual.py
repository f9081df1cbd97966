"""Which rule for residual sums? A really trained residual network, and branches that cancel.

    WHYCLUSTER_ASSETS=… python tests/benchmarks/residual.py [--images 20] [--pictures folder]

The score of the predicted class of a ResNet-56, for images of CIFAR-10, is explained with either rule. Then each image
is destroyed patch by patch, most or least relevant first, up to half of it; SRG is the area between the two curves of
the score, as a fraction of where it began: higher is better. `inflation` is the relevance of the pixels summed without
signs, and `absorbed` what layers kept, summed without signs; both as multiples of what entered, median and worst image.
"""

import argparse
import os
from pathlib import Path

import torch
from networks import ResNet56
from torch import Tensor, nn
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from whycluster.lrp import COMPOSITES, LRP, Attribution, EpsilonPlus, named_composite
from whycluster.lrp.receipts import per_image
from whycluster.output.heatmaps import heatmap_picture

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
LOW, HIGH = -MEAN / STD, (1 - MEAN) / STD
PATCH = 2


def trained(assets: Path) -> nn.Module:
    """The network with its published weights."""
    network = ResNet56()
    network.load_state_dict(torch.load(assets / "resnet56_cifar10.pt", weights_only=True))
    return network.eval()


def photos(assets: Path, each: int) -> Tensor:
    """The first so many of each class, `(N, 3, 32, 32)` from 0 to 1."""
    folder = ImageFolder(str(assets / "cifar10"))
    first = [at for kind in range(10) for at in [i for i, label in enumerate(folder.targets) if label == kind][:each]]
    return torch.stack([pil_to_tensor(folder[at][0]) / 255 for at in first])


def flipping(network: nn.Module, images: Tensor, relevance: Tensor, classes: Tensor) -> float:
    """SRG: the area between the curves of least and of most relevant first."""
    n, _, height, width = images.shape
    patches = nn.functional.avg_pool2d(relevance.sum(1, keepdim=True), PATCH).flatten(1)  # (N, patches)
    curves = []
    for sign in (1, -1):
        order = (sign * patches).argsort(1)
        destroyed, curve = images.clone(), [_scores(network, images, classes)]
        steps = order[:, : order.shape[1] // 2].split(order.shape[1] // 32, 1)
        for step in steps:
            mask = torch.zeros_like(patches).scatter_(1, step, 1).view(n, 1, height // PATCH, width // PATCH)
            mask = mask.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
            destroyed = destroyed * (1 - mask)  # zero is the mean colour
            curve.append(_scores(network, destroyed, classes))
        curves.append(torch.stack(curve).mean(1) / curve[0].mean())
    least, most = curves
    return float((least - most).mean())


@torch.no_grad()
def _scores(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    return network(images).gather(1, classes[:, None])[:, 0]


def explained(network: nn.Module, images: Tensor, classes: Tensor, composite: str, residual: str) -> Attribution:
    """The score of each image's class."""
    lrp = LRP(network, named_composite(composite, LOW, HIGH, residual))
    one = torch.eye(10)[classes]
    return lrp.attribute(images, lambda output: output * one)


def row(network: nn.Module, images: Tensor, classes: Tensor, composite: str, residual: str) -> str:
    """One line of the table."""
    _, relevance, receipt = explained(network, images, classes, composite, residual)
    entered = receipt.entered.abs()
    inflation = per_image(relevance.abs()) / entered
    absorbed = sum(layer.total.abs() for layer in receipt.layers.values()) / entered
    missing = (receipt.entered - receipt.arrived - receipt.absorbed).abs() / entered
    srg = flipping(network, images, relevance, classes)
    return (
        f"| {composite} | {residual} | {srg:.3f} | {inflation.median():.3g} / {inflation.max():.3g} | "
        f"{absorbed.median():.3g} / {absorbed.max():.3g} | {missing.max():.1e} |"
    )


class Cancelling(nn.Module):
    """A residual block whose branch takes away, at each place, nearly what the shortcut brings to its neighbour."""

    def __init__(self, rest: float) -> None:
        super().__init__()
        self.branch = nn.Conv2d(3, 3, (1, 3), padding=(0, 1), bias=False)
        self.branch.weight.data = torch.zeros(3, 3, 1, 3)
        self.branch.weight.data[range(3), range(3), 0, 2] = -(1 - rest)

    def forward(self, x: Tensor) -> Tensor:
        h = x.relu()
        return h + self.branch(h)


def pictures(network: nn.Module, images: Tensor, classes: Tensor, folder: Path) -> None:
    """Each image with its heatmap by either rule."""
    folder.mkdir(parents=True, exist_ok=True)
    for residual in ("norm", "ratio"):
        heatmaps = explained(network, images, classes, "epsilon_gamma_box", residual).relevance.sum(1)
        for at, (image, heatmap) in enumerate(zip(images * STD + MEAN, heatmaps, strict=True)):
            photo = (image * 255).round().byte().permute(1, 2, 0).numpy()
            heatmap_picture(photo, heatmap.numpy(), residual).save(folder / f"{at:03d}_{residual}.png")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=20, help="of each of the ten classes")
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    assets = Path(os.environ["WHYCLUSTER_ASSETS"])
    network = trained(assets)
    images = (photos(assets, options.images) - MEAN) / STD
    with torch.no_grad():
        classes = network(images).argmax(1)
    print("| composite | residual | SRG | inflation | absorbed | imbalance |")
    print("| --- | --- | --- | --- | --- | --- |")
    for composite in COMPOSITES:
        for residual in ("norm", "ratio"):
            print(row(network, images, classes, composite, residual), flush=True)
    print("\nInflation where branches cancel but for a rest; relevance of 1 enters at each output")
    print("| rest | norm | ratio |\n| --- | --- | --- |")
    for rest in (1e-1, 1e-2, 1e-3, 1e-4):
        inflation = []
        for residual in ("norm", "ratio"):
            lrp = LRP(Cancelling(rest), EpsilonPlus(residual=residual))
            attribution = lrp.attribute(torch.ones(1, 3, 8, 8), torch.ones_like)
            inflation.append(float(per_image(attribution.relevance.abs()) / attribution.receipt.entered))
        print(f"| {rest:g} | {inflation[0]:.3g} | {inflation[1]:.3g} |")
    if options.pictures:
        pictures(network, images[:: options.images], classes[:: options.images], options.pictures)


if __name__ == "__main__":
    main()
