"""Networks that tests and benchmarks share."""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision import models
from torchvision.models import get_model, list_models

NOT_CNNS = ("vit", "swin", "maxvit")


def cnns() -> list[str]:
    """The names of torchvision's CNNs."""
    return [name for name in list_models(module=models) if not name.startswith(NOT_CNNS)]


def network_of(name: str, seed: int = 0) -> nn.Module:
    """A network of torchvision with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    slow = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network: nn.Module = get_model(name, weights=None, **slow).eval()
    return randomized(network)


def randomized(network: nn.Module) -> nn.Module:
    """Biases, statistics and scales away from their trivial first values, so that a mistake with them shows."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
            if module.track_running_stats:
                nn.init.normal_(module.running_mean, 0, 0.2)
                nn.init.uniform_(module.running_var, 0.5, 2)
        if isinstance(getattr(module, "bias", None), Tensor):
            nn.init.normal_(module.bias, 0, 0.1)
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():  # heads and tokens that training starts from zero
            nn.init.normal_(parameter, 0, 0.05)
        elif parameter.numel() > 1 and 0 < parameter.min() == parameter.max() < 0.01:  # the scales of branches
            nn.init.uniform_(parameter, 0.1, 0.5)
    return network


def without_norms(network: nn.Module) -> nn.Module:
    """A copy with batch norms merged into the convolutions before them; zennit's own merging fails on new torch."""
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        children = list(parent.named_children())
        for (first, conv), (second, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, first, fuse_conv_bn_eval(conv, norm))
                setattr(parent, second, nn.Identity())
    return network


class Block(nn.Module):
    """Two convolutions beside a shortcut without parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more))
        return F.relu(out + x)


class ResNet56(nn.Module):
    """The residual network for CIFAR-10 of He et al. 2016, section 4.2; images `(N, 3, 32, 32)`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(9)))
        self.layer2 = nn.Sequential(Block(16, 32, 2), *(Block(32, 32, 1) for _ in range(8)))
        self.layer3 = nn.Sequential(Block(32, 64, 2), *(Block(64, 64, 1) for _ in range(8)))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))
