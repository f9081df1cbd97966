"""LRP beside zennit 0.5.1 and beside one plain input gradient, in one process.

    PYTHONPATH=tests python tests/benchmarks/lrp.py [names …] [--batch 8] [--size 224] [--rounds 3] [--no-peer] …

Random weights, EpsilonGammaBox; the runs of a round follow each other, so that all meet the same machine, and ratios
are medians of those of each round. The gradient is that of the layout of images, contiguous or channels last, for which
it is faster. Memory is the peak above what was there before a run: of the process on the CPU (Linux only), of torch's
allocator on a GPU. zennit is given a network with its batch norms folded already, and the residual rule that it has
(`norm`) is used on both sides.
"""

import argparse
import operator
import statistics
from collections.abc import Callable
from contextlib import nullcontext

import torch
import zennit.composites
from architectures import gradient
from measure import peak, seconds
from networks import network_of, without_norms
from torch import Tensor, nn
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

from whycluster.lrp import LRP, EpsilonGammaBox

LOW, HIGH = -2.2, 2.7


class Peer:
    """zennit, set up once as ours is."""

    def __init__(self, name: str, network: nn.Module) -> None:
        self.network = without_norms(network)
        canonizer = ResNetCanonizer() if "resne" in name else VGGCanonizer()
        self.composite = zennit.composites.EpsilonGammaBox(LOW, HIGH, canonizers=[canonizer])

    def __call__(self, images: Tensor, cotangent: Tensor) -> Tensor:
        leaf = images.clone().requires_grad_()
        with self.composite.context(self.network) as hooked:
            output = hooked(leaf)
            return torch.autograd.grad(output, leaf, output.detach() * cotangent)[0]


def compare(name: str, options: argparse.Namespace) -> list[str]:
    """The lines of the table for one network."""
    device = torch.device(options.device)
    network = network_of(name).to(device)
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    images = torch.rand(options.batch, 3, options.size, options.size).to(device, memory_format=layout)
    images = LOW + (HIGH - LOW) * images
    one = torch.zeros(options.batch, 1000, device=device)
    one[:, 7] = 1
    lrp = LRP(network, EpsilonGammaBox(LOW, HIGH, residual="norm"))
    last = images.contiguous(memory_format=torch.channels_last)
    runs: dict[str, Callable[[], object]] = {
        "whycluster": lambda: lrp(images, lambda output: output * one),
        "one gradient": lambda: gradient(network, images, one),
        "one gradient, channels last": lambda: gradient(network, last, one),
    }
    if not options.no_peer:
        peer = Peer(name, network)
        runs["zennit 0.5.1"] = lambda: peer(images, one)
    context = torch.autocast(device.type, torch.bfloat16) if options.autocast else nullcontext()
    taken: dict[str, list[float]] = {run: [] for run in runs}
    with context:
        for round in range(options.rounds + 1):
            for run, call in runs.items():
                figure = seconds(call, device)
                if round:  # the first warms up
                    taken[run].append(figure)
        memory = {run: statistics.median(peak(call, device) for _ in range(3)) for run, call in runs.items()}
    slower = max(("one gradient", "one gradient, channels last"), key=lambda run: statistics.median(taken[run]))
    del taken[slower]
    ours = taken["whycluster"]
    ratio = {run: statistics.median(map(operator.truediv, ours, theirs)) for run, theirs in taken.items()}
    return [
        f"| {name} | {run} | {statistics.median(figures) / options.batch:.3f} s | {ratio[run]:.2f} | "
        f"{memory[run]:.0f} MiB | {memory['whycluster'] / memory[run]:.2f} |"
        for run, figures in taken.items()
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=["vgg16", "resnet50"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--autocast", action="store_true", help="multiply in bfloat16")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--no-peer", action="store_true", help="leave zennit out")
    options = parser.parse_args()
    print("| network | run | time an image | ours / it | peak memory | ours / it |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in options.names:
        print("\n".join(compare(name, options)), flush=True)


if __name__ == "__main__":
    main()
