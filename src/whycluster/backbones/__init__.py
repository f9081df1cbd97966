"""Images to features: any torchvision CNN by name, and the small embedded one."""

from whycluster.backbones.backbone import Backbone
from whycluster.backbones.build import build_backbone, check_restorable, restore_backbone
from whycluster.backbones.preprocessing import Preprocessing

__all__ = ["Backbone", "Preprocessing", "build_backbone", "check_restorable", "restore_backbone"]
