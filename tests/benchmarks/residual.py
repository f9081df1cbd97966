"""Which rule for residual sums? A really trained residual network, and branches that cancel.

    WHYCLUSTER_ASSETS=… PYTHONPATH=tests python tests/benchmarks/residual.py [--images 20] [--pictures folder]

The score of the predicted class of a ResNet-56, or the discriminant of a cluster of its features, for images of
CIFAR-10, is explained with either rule. Then each image is destroyed patch by patch, most or least relevant first, up
to half of it; SRG is the area between the two curves of the score, as a fraction of where it began: higher is better.
`inflation` is the relevance of the pixels summed without signs, and `absorbed` what layers kept, summed without signs;
both as multiples of what entered, median and worst image.
"""

import argparse
import copy
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from networks import ResNet56
from PIL import Image
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from whycluster.heads import neuralize
from whycluster.lrp import COMPOSITES, LRP, EpsilonPlus, named_composite
from whycluster.lrp.composites import RESIDUALS
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


class Question(NamedTuple):
    """What is explained.

    Attributes:
        network: images `->` `(N, outputs)`.
        score: output `->` the number explained, `(N,)`.
        relevance: output `->` its share of each unit of the output, `(N, outputs)`.
    """

    network: nn.Module
    score: Callable[[Tensor], Tensor]
    relevance: Callable[[Tensor], Tensor]


def questions(network: nn.Module, images: Tensor) -> dict[str, Question]:
    """The score of the predicted class; the discriminant of the cluster of ten, by either rule of the head."""
    with torch.no_grad():
        classes = network(images).argmax(1)
        trunk = copy.deepcopy(network)
        trunk.linear = nn.Identity()
        features = trunk(images)
    one = torch.eye(10)[classes]
    head = neuralize(KMeans(10, n_init=10, random_state=0).fit(features.numpy()))
    clusters = head(features).argmax(1)

    def discriminant(features: Tensor) -> Tensor:
        return head(features).gather(1, clusters[:, None])[:, 0].float()

    def relevance(features: Tensor, rule: str) -> Tensor:
        return head.attribute(features, clusters, None, rule).relevance.float()

    return {
        "class": Question(network, lambda output: (output * one).sum(1), lambda output: output * one),
        "cluster, zero": Question(trunk, discriminant, partial(relevance, rule="zero")),
        "cluster, midpoint": Question(trunk, discriminant, partial(relevance, rule="midpoint")),
    }


@torch.no_grad()
def flipping(question: Question, images: Tensor, relevance: Tensor) -> Tensor:
    """SRG of each image, `(N,)`: the area between the curves of least and of most relevant first."""
    n, _, height, width = images.shape
    patches = nn.functional.avg_pool2d(relevance.sum(1, keepdim=True), PATCH).flatten(1)  # (N, patches)
    start = question.score(question.network(images)).mean()
    areas = []
    for sign in (1, -1):
        order = (sign * patches).argsort(1)
        destroyed, curve = images.clone(), []
        for step in order[:, : order.shape[1] // 2].split(order.shape[1] // 32, 1):
            mask = torch.zeros_like(patches).scatter_(1, step, 1).view(n, 1, height // PATCH, width // PATCH)
            mask = mask.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
            destroyed = destroyed * (1 - mask)  # zero is the mean colour
            curve.append(question.score(question.network(destroyed)) / start)
        areas.append(torch.stack(curve).mean(0))
    return areas[0] - areas[1]


def rows(name: str, question: Question, images: Tensor, composite: str) -> Iterator[str]:
    """The lines of the table for one question and composite."""
    srg = {}
    for residual in RESIDUALS:
        lrp = LRP(question.network, named_composite(composite, LOW, HIGH, residual))
        _, relevance, receipt = lrp.attribute(images, question.relevance)
        entered = receipt.entered.abs()
        inflation = per_image(relevance.abs()) / entered
        absorbed = sum(layer.total.abs() for layer in receipt.layers.values()) / entered
        missing = (receipt.entered - receipt.arrived - receipt.absorbed).abs() / entered
        srg[residual] = flipping(question, images, relevance)
        yield (
            f"| {name} | {composite} | {residual} | {srg[residual].mean():.3f} | {inflation.median():.3g} / "
            f"{inflation.max():.3g} | {absorbed.median():.3g} / {absorbed.max():.3g} | {missing.max():.1e} |"
        )
    more = srg["ratio"] - srg["norm"]
    yield f"| | | ratio - norm | {more.mean():+.3f} ± {more.std() / len(more) ** 0.5:.3f} | | | |"


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


def pictures(question: Question, images: Tensor, each: int, folder: Path) -> None:
    """Some images with their heatmaps by either rule."""
    folder.mkdir(parents=True, exist_ok=True)
    for residual in RESIDUALS:
        lrp = LRP(question.network, named_composite("epsilon_gamma_box", LOW, HIGH, residual))
        heatmaps = lrp(images, question.relevance)[1].sum(1)
        for at in range(0, len(images), each):
            photo = ((images[at] * STD[0] + MEAN[0]) * 255).round().byte().permute(1, 2, 0).numpy()
            picture = heatmap_picture(photo, heatmaps[at].numpy(), residual)
            Image.fromarray(picture).save(folder / f"{at:03d}_{residual}.png")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=20, help="of each of the ten classes")
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    assets = Path(os.environ["WHYCLUSTER_ASSETS"])
    network = trained(assets)
    images = (photos(assets, options.images) - MEAN) / STD
    print("| explained | composite | residual | SRG | inflation | absorbed | imbalance |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    asked = questions(network, images)
    for name, question in asked.items():
        for composite in COMPOSITES:
            for line in rows(name, question, images, composite):
                print(line, flush=True)
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
        pictures(asked["cluster, zero"], images, options.images, options.pictures)


if __name__ == "__main__":
    main()
