"""Every family of torchvision's networks, its own classes with few channels."""

from collections.abc import Callable
from typing import Any

from networks import Block
from torch import nn
from torchvision.models import (
    convnext,
    densenet,
    efficientnet,
    inception,
    maxvit,
    mnasnet,
    mobilenetv2,
    mobilenetv3,
    regnet,
    resnet,
    shufflenetv2,
    squeezenet,
    swin_transformer,
    vision_transformer,
)
from torchvision.models.googlenet import Inception as GoogLeNetInception


def headed(*body: nn.Module, channels: int, size: int = 1) -> nn.Module:
    """A body with what makes it a network: a convolution before it, classes after it."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), *body, nn.AdaptiveAvgPool2d(size), nn.Flatten(), nn.Linear(channels, 3)
    )


def narrow_mobilenet_v3() -> nn.Module:
    rows = [(8, 3, 12, 8, True, "RE", 1, 1), (8, 5, 12, 8, True, "HS", 2, 1), (8, 3, 16, 8, False, "HS", 1, 2)]
    settings = [mobilenetv3.InvertedResidualConfig(*row, 1.0) for row in rows]
    return mobilenetv3.MobileNetV3(settings, last_channel=8, num_classes=3)


def narrow_efficientnet() -> nn.Module:
    settings = [
        efficientnet.FusedMBConvConfig(2, 3, 1, 8, 8, 1),
        efficientnet.FusedMBConvConfig(1, 3, 2, 8, 8, 2),
        efficientnet.MBConvConfig(2, 3, 2, 8, 8, 2),
    ]
    return efficientnet.EfficientNet(settings, dropout=0.1, num_classes=3, last_channel=8)


def narrow_convnext() -> nn.Module:
    settings = [convnext.CNBlockConfig(4, 6, 1), convnext.CNBlockConfig(6, None, 1)]
    return convnext.ConvNeXt(settings, num_classes=3)


def narrow_regnet() -> nn.Module:
    return regnet.RegNet(
        regnet.BlockParams([1, 2], [8, 8], [4, 4], [1.0, 2.0], [2, 1], 0.25), num_classes=3, stem_width=4
    )


def thin(inputs: int, outputs: int, **settings: Any) -> nn.Module:
    """A convolution of Inception v3 with a 16th of its channels."""
    return inception.BasicConv2d(inputs if inputs == 4 else inputs // 16, outputs // 16, **settings)


def wide_block(**settings: Any) -> nn.Module:
    down = nn.Sequential(nn.Conv2d(4, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
    return headed(resnet.Bottleneck(4, 4, 2, down, **settings), channels=16)


FAMILIES: dict[str, tuple[Callable[[], nn.Module], int]] = {  # and the size of its images
    "resnet": (lambda: headed(resnet.BasicBlock(4, 4), resnet.BasicBlock(4, 4), channels=4), 8),
    "resnet, bottleneck": (wide_block, 8),
    "resnext": (lambda: wide_block(groups=2, base_width=64), 8),
    "wide_resnet": (lambda: wide_block(base_width=128), 8),
    "resnet of cifar": (lambda: headed(Block(4, 4, 1), Block(4, 8, 2), channels=8), 9),
    "densenet": (lambda: densenet.DenseNet(2, (2, 2), 4, 2, num_classes=3), 32),
    "googlenet": (
        lambda: headed(GoogLeNetInception(4, 2, 2, 3, 2, 2, 2), nn.MaxPool2d(3, 2, ceil_mode=True), channels=9),
        9,
    ),
    "inception a": (lambda: headed(inception.InceptionA(4, 16, thin), channels=15), 8),
    "inception b": (lambda: headed(inception.InceptionB(4, thin), channels=34), 8),
    "inception c": (lambda: headed(inception.InceptionC(4, 128, thin), channels=48), 8),
    "inception d": (lambda: headed(inception.InceptionD(4, thin), channels=36), 8),
    "inception e": (lambda: headed(inception.InceptionE(4, thin), channels=128), 6),
    "mnasnet": (lambda: headed(mnasnet._InvertedResidual(4, 4, 5, 1, 2), channels=4), 8),
    "mobilenet_v2": (lambda: mobilenetv2.MobileNetV2(3, 0.1, [[1, 4, 1, 1], [2, 4, 2, 2]], 4), 8),
    "mobilenet_v3": (narrow_mobilenet_v3, 8),
    "shufflenet": (
        lambda: headed(shufflenetv2.InvertedResidual(4, 8, 2), shufflenetv2.InvertedResidual(8, 8, 1), channels=8),
        8,
    ),
    "regnet": (narrow_regnet, 8),
    "efficientnet": (narrow_efficientnet, 20),
    "convnext": (narrow_convnext, 16),
    "squeezenet": (lambda: headed(squeezenet.Fire(4, 2, 3, 3), nn.MaxPool2d(3, 2, ceil_mode=True), channels=6), 9),
}


def awake(network: nn.Module) -> nn.Module:
    """A transformer whose weights are large enough for attention to differ from an average."""
    for name, weight in network.named_parameters():
        if name.endswith("relative_position_bias_table") or "token" in name:
            nn.init.normal_(weight)
        elif weight.ndim == 2:
            nn.init.xavier_normal_(weight)
        elif "norm" in name:
            nn.init.uniform_(weight, 0.5, 1.5)
    return network


def narrow_vit() -> nn.Module:
    return awake(vision_transformer.VisionTransformer(8, 4, 2, 2, 8, 12, num_classes=3))


def narrow_swin(second: bool) -> nn.Module:
    block, merging = swin_transformer.SwinTransformerBlock, swin_transformer.PatchMerging
    if second:
        block, merging = swin_transformer.SwinTransformerBlockV2, swin_transformer.PatchMergingV2
    # The second block of each stage shifts its windows.
    return awake(
        swin_transformer.SwinTransformer(
            [2, 2], 4, [2, 2], [2, 2], [2, 2], 2.0, num_classes=3, block=block, downsample_layer=merging
        )
    )


def narrow_maxvit() -> nn.Module:
    return awake(maxvit.MaxVit((16, 16), 4, 2, [8, 8], [1, 1], 4, 0.0, num_classes=3))


TRANSFORMERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "vit": (narrow_vit, 8),
    "swin": (lambda: narrow_swin(second=False), 16),
    "swin_v2": (lambda: narrow_swin(second=True), 16),
    "maxvit": (narrow_maxvit, 16),
}
