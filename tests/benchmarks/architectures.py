"""Every network of torchvision, and one of each family of timm: does relevance pass it, and at what cost?

    PYTHONPATH=tests python tests/benchmarks/architectures.py [names …] [--double]

One line a network, with random weights, batch norms calibrated by a few batches (or outputs would be 1e-14), and two
random images of the network's own size: the seconds that the export and the plan take, how many nodes relevance passes,
by how much the exported graph differs from the network, whether everything is finite, how far the receipt is from
balance (both as a share of the largest amount in it), and the time as a multiple of one plain input gradient. Names of
timm begin with `timm/`. Ends with status 1 if a network fails.
"""

import argparse
import statistics
import sys
import time
import warnings

import torch
from measure import seconds
from networks import network_of, randomized
from torch import Tensor, nn
from torchvision import models
from torchvision.models import list_models

from whycluster.lrp import LRP, EpsilonGammaBox

DIFFERENCE, BALANCE = {torch.float32: 1e-3, torch.float64: 1e-9}, {torch.float32: 1e-3, torch.float64: 1e-6}
TIMM = [
    "vit_tiny_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch16_dinov3",
    "vit_base_patch32_clip_224",
    "vit_base_patch16_siglip_224",
    "deit_tiny_patch16_224",
    "deit3_small_patch16_224",
    "eva02_tiny_patch14_224",
    "beit_base_patch16_224",
    "cait_xxs24_224",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "maxvit_tiny_tf_224",
    "xcit_nano_12_p16_224",
    "convnext_atto",
    "convnextv2_atto",
    "resnetv2_50",
    "tf_efficientnetv2_b0",
    "mobilenetv4_conv_small",
    "mixer_s32_224",
    "caformer_s18",
    "fastvit_t8",
    "resnet50d",
    "regnety_002",
    "levit_128s",
    "poolformer_s12",
    "twins_pcpvt_small",
    "pvt_v2_b0",
]


def gradient(network: nn.Module, images: Tensor, cotangent: Tensor) -> None:
    """The peer: one plain input gradient."""
    leaf = images.clone().requires_grad_()
    torch.autograd.grad(network(leaf), leaf, cotangent)


def built(name: str) -> tuple[nn.Module, int]:
    """A network with random weights, and the side of its images."""
    if not name.startswith("timm/"):
        window = {"swin_v2_t": 256, "swin_v2_s": 256, "swin_v2_b": 256, "inception_v3": 299, "vit_h_14": 224}
        return network_of(name), window.get(name, 224)
    import timm

    torch.manual_seed(0)
    size = {"img_size": 224} if "dinov2" in name else {}
    network: nn.Module = timm.create_model(name.removeprefix("timm/"), pretrained=False, **size)
    return randomized(network), size.get("img_size", network.pretrained_cfg["input_size"][-1])


def calibrated(network: nn.Module, side: int) -> nn.Module:
    """The network, evaluating, with the statistics of a few batches in its batch norms."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over batches
        norm.train()
    with torch.no_grad():
        for _ in range(2 if norms else 0):
            network(torch.randn(4, 3, side, side).clamp(-2, 2))
    return network.eval().requires_grad_(False)


def measure(name: str, repetitions: int, dtype: torch.dtype) -> tuple[list[str], bool]:
    """One line of the table, and whether all is well."""
    network, side = built(name)
    network = calibrated(network, side).to(dtype)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1)).clamp(-2, 2).to(dtype)
    lrp = LRP(network, EpsilonGammaBox(-2.0, 2.0))
    began = time.perf_counter()
    lrp.prepare(images)
    building = time.perf_counter() - began
    nodes = len(lrp.describe(images).splitlines()) - 1
    with torch.no_grad():
        output = network(images)
    one = torch.zeros_like(output)
    one[:, 7] = 1
    attribution = lrp.attribute(images, lambda output: output * one)
    difference = float((attribution.output - output).abs().max() / output.abs().max())
    finite = bool(attribution.relevance.isfinite().all())
    missing = float(attribution.receipt.imbalance.max())
    ours = [seconds(lambda: lrp(images, lambda output: output * one)) for _ in range(repetitions)]
    theirs = [seconds(lambda: gradient(network, images, one)) for _ in range(repetitions + 1)][1:]
    ratio = statistics.median(ours) / statistics.median(theirs)
    fine = difference <= DIFFERENCE[dtype] and finite and missing <= BALANCE[dtype] and nodes > 3
    figures = f"{building:.1f}", str(nodes), f"{difference:.1e}", str(finite), f"{missing:.1e}", f"{ratio:.2f}"
    return [name, *figures, "" if fine else "FAILS"], fine


def main() -> None:
    """Prints the table."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=[*list_models(module=models), *(f"timm/{name}" for name in TIMM)])
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--double", action="store_true", help="in float64")
    options = parser.parse_args()
    print("| network | building, s | nodes | difference | finite | balance | time / gradient | |")
    print("| --- | ---: | ---: | ---: | --- | ---: | ---: | --- |")
    fine = True
    for name in options.names:
        try:
            figures, well = measure(name, options.repetitions, torch.float64 if options.double else torch.float32)
        except Exception as error:  # one network that fails must not hide the others
            figures, well = [name, *[""] * 6, f"FAILS: {type(error).__name__}: {str(error)[:200]!r}"], False
        print("| " + " | ".join(figures) + " |", flush=True)
        fine &= well
    sys.exit(not fine)


if __name__ == "__main__":
    main()
