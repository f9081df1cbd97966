"""A small CNN that was trained on rendered letters only.

Its feature maps describe strokes well enough to cluster small grey images of written symbols, although it is much
smaller than a backbone for photos. It has no biases: black gives zeros, and an image of half the contrast gives half
the features, so that all relevance of its features arrives at the pixels. `python -m whycluster.backbones.pretrain
--device cuda` writes the weights beside this file.
"""

from pathlib import Path

from torch import Tensor, nn

# Height and width of the input, in pixels.
IMAGE_SIZE = 32
# Of each channel, for values from 0 to 1; black has to stay 0.
MEAN = (0.0, 0.0, 0.0)
STD = (1.0, 1.0, 1.0)
# A `state_dict` of a trained `GlyphNet()`.
WEIGHTS = Path(__file__).with_name("glyphnet.pt")


class GlyphNet(nn.Module):
    """Six 3×3 convolutions in three stages, then one linear layer for the letters, all without biases.

    Args:
        num_classes: number of logits; 52 stands for the letters a-z and A-Z.
        batch_norm: build the network of earlier versions instead, with biases and batch norms, for the model files that
            hold its weights.

    Attributes:
        features: images `(N, 3, 32, 32)`, normalised with `MEAN` and `STD`, `->` non-negative maps `(N, 64, 4, 4)`.
            Flattened, these 1024 values are the features to cluster: averaging over the 4×4 places would forget where
            a stroke lies.
        classifier: those maps `->` logits of the letters `(N, num_classes)`; pretraining alone uses it.
    """

    def __init__(self, num_classes: int = 52, batch_norm: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_stage(3, 16, batch_norm),  # (N, 16, 16, 16)
            *_stage(16, 32, batch_norm),  # (N, 32, 8, 8)
            *_stage(32, 64, batch_norm),  # (N, 64, 4, 4)
        )
        logits = nn.Linear(64 * 4 * 4, num_classes, bias=batch_norm)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), logits)

    def forward(self, images: Tensor) -> Tensor:
        """Computes logits `(N, num_classes)` of normalised images `(N, 3, 32, 32)`."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


def _stage(inputs: int, outputs: int, batch_norm: bool) -> list[nn.Module]:
    """Builds the layers of one stage, which halves height and width."""
    return [
        *_convolution(inputs, outputs, batch_norm),
        *_convolution(outputs, outputs, batch_norm),
        nn.MaxPool2d(2),
    ]


def _convolution(inputs: int, outputs: int, batch_norm: bool) -> list[nn.Module]:
    """Builds a 3×3 convolution that keeps the size, its batch norm if there is one, and its ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=batch_norm)
    return [convolution, *([nn.BatchNorm2d(outputs)] if batch_norm else []), nn.ReLU()]
