"""A small plain convolutional network that has only ever seen rendered letters.

Its frozen feature maps describe strokes well enough to cluster small grey images of written
symbols, although it is a fraction of the size of a photograph backbone. The weights beside this
file are what ``python -m whycluster.backbones.pretrain`` writes with its defaults.
"""

from pathlib import Path

from torch import Tensor, nn

IMAGE_SIZE = 32
"""Height and width of the input in pixels."""

MEAN = (0.5, 0.5, 0.5)
"""Per-channel mean to subtract from RGB values in [0, 1]."""

STD = (0.5, 0.5, 0.5)
"""Per-channel deviation to divide by, after which values lie in [-1, 1]."""

WEIGHTS = Path(__file__).with_name("glyphnet.pt")
"""State dict of a trained ``GlyphNet()``, to be loaded with ``weights_only=True``."""


class GlyphNet(nn.Module):
    """Six 3x3 convolutions in three stages, then one linear layer for the letters.

    Attributes:
        features: Maps images (N, 3, 32, 32), normalised with ``MEAN`` and ``STD``, to
            non-negative maps (N, 64, 4, 4). Flattened, these 1024 values are the features to
            cluster: averaging over the 4x4 places would forget where a stroke lies.
        classifier: Maps those maps to letter logits (N, num_classes). Pretraining alone uses it.
    """

    def __init__(self, num_classes: int = 52) -> None:
        """Builds the network with random weights.

        Args:
            num_classes: Number of logits; 52 stands for the letters ``a-zA-Z``.
        """
        super().__init__()
        self.features = nn.Sequential(
            *_stage(3, 16),  # (N, 16, 16, 16)
            *_stage(16, 32),  # (N, 32, 8, 8)
            *_stage(32, 64),  # (N, 64, 4, 4)
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 4 * 4, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Scores every letter for every image.

        Args:
            images: RGB images (N, 3, 32, 32), normalised with ``MEAN`` and ``STD``.

        Returns:
            Logits (N, num_classes).
        """
        logits: Tensor = self.classifier(self.features(images))
        return logits


def _stage(inputs: int, outputs: int) -> list[nn.Module]:
    """Lists the layers of one stage, which halves height and width."""
    return [
        *_convolution(inputs, outputs),
        *_convolution(outputs, outputs),
        nn.MaxPool2d(2),
    ]


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    """Lists a size-preserving 3x3 convolution with its batch norm and ReLU."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
