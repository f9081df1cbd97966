"""Backbones compute features of images: networks of torchvision or timm, the small embedded one, or one's own."""

from whycluster.backbones.backbone import Backbone
from whycluster.backbones.build import build_backbone, check_restorable, restore_backbone
from whycluster.backbones.preprocessing import Preprocessing
from whycluster.backbones.timm_models import build_timm_backbone

__all__ = [
    "Backbone",
    "Preprocessing",
    "build_backbone",
    "build_timm_backbone",
    "check_restorable",
    "restore_backbone",
]
