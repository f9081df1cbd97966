"""Every CNN of torchvision: does it trace, fold, balance, and at what cost?

    PYTHONPATH=tests python tests/benchmarks/architectures.py [names …] [--double]

One line a network, with random weights and two random images: by how much folding the batch norms changes the output,
whether everything is finite, how far the receipt is from balance (both as a share of the largest amount in it), and the
time as a multiple of one plain input gradient. Ends with status 1 if a network fails.
"""

import argparse
import statistics
import sys
import warnings

import torch
from measure import seconds
from networks import cnns, network_of
from torch import Tensor, nn

from whycluster.lrp import LRP, EpsilonGammaBox

FOLDED, BALANCE = 1e-5, {torch.float32: 1e-3, torch.float64: 1e-6}


def gradient(network: nn.Module, images: Tensor, cotangent: Tensor) -> None:
    """The peer: one plain input gradient."""
    leaf = images.clone().requires_grad_()
    torch.autograd.grad(network(leaf), leaf, cotangent)


def measure(name: str, size: int, repetitions: int, dtype: torch.dtype) -> tuple[str, bool]:
    """One line of the table, and whether all is well."""
    network = network_of(name).to(dtype)
    size = max(size, 75) if name == "inception_v3" else size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)).clamp(-2, 2).to(dtype)
    lrp = LRP(network, EpsilonGammaBox(-2.0, 2.0))
    one = torch.zeros(2, 1000, dtype=dtype)
    one[:, 7] = 1
    with torch.no_grad():
        output = network(images)
    attribution = lrp.attribute(images, lambda output: output * one)
    folded = float((attribution.output - output).abs().max() / output.abs().max())
    finite = bool(attribution.relevance.isfinite().all())
    missing = float(attribution.receipt.imbalance.max())
    ours = [seconds(lambda: lrp(images, lambda output: output * one)) for _ in range(repetitions)]
    theirs = [seconds(lambda: gradient(network, images, one)) for _ in range(repetitions + 1)][1:]
    ratio = statistics.median(ours) / statistics.median(theirs)
    nodes = sum(step.reached for step in lrp.steps)
    fine = folded <= FOLDED and finite and missing <= BALANCE[dtype]
    line = f"{name:20} {nodes:6d} {folded:10.1e} {finite!s:>7} {missing:10.1e} {ratio:7.2f} {'' if fine else '  FAILS'}"
    return line, fine


def main() -> None:
    """Prints the table."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=cnns())
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--double", action="store_true", help="in float64")
    options = parser.parse_args()
    print(f"{'network':20} {'nodes':>6} {'folded':>10} {'finite':>7} {'balance':>10} {'time':>7}")
    fine = True
    for name in options.names:
        line, well = measure(
            name, options.size, options.repetitions, torch.float64 if options.double else torch.float32
        )
        print(line, flush=True)
        fine &= well
    sys.exit(not fine)


if __name__ == "__main__":
    main()
