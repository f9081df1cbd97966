"""Agreement of heatmaps with masks: the pixels that are known to be the only possible reason.

Arras et al. 2022 (CLEVR-XAI), Information Fusion 81, arXiv 2003.07258.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def mass_inside(heatmaps: Tensor, masks: Tensor) -> Tensor:
    """Share of the positive relevance that lies inside, `(N,)`; NaN where there is no positive relevance.

    Args:
        heatmaps: `(N, H, W)`.
        masks: `(N, H, W)`, bool.

    Example:
        >>> mass_inside(torch.tensor([[[3.0, 1.0, -9.0]]]), torch.tensor([[[True, False, True]]]))
        tensor([0.7500])
    """
    positive = heatmaps.clamp(min=0)
    return (positive * masks).sum((1, 2)) / positive.sum((1, 2))


def rank_accuracy(heatmaps: Tensor, masks: Tensor) -> Tensor:
    """Share of the `n` most relevant pixels that lies inside, where `n` is the size of the mask, `(N,)`.

    Arguments as above. Pixels that tie with the last of the `n` share the remaining places equally.
    """
    accuracies = []
    for heatmap, mask in zip(heatmaps.flatten(1), masks.flatten(1), strict=True):
        size = int(mask.sum())
        last = heatmap.sort(descending=True).values[size - 1]
        above, equal = heatmap > last, heatmap == last
        places = (size - above.sum()) / equal.sum()
        accuracies.append(((above & mask).sum() + places * (equal & mask).sum()) / size)
    return torch.stack(accuracies)


def hits(heatmaps: Tensor, masks: Tensor, window: int) -> Tensor:
    """Whether the square of highest mean relevance has its centre inside, `(N,)`; `window` is its side in pixels."""
    before, after = (window - 1) // 2, window // 2
    density = F.avg_pool2d(heatmaps[:, None], window, stride=1).flatten(1)
    centres = masks[:, before : masks.shape[1] - after, before : masks.shape[2] - after].flatten(1)
    return centres.gather(1, density.argmax(1, keepdim=True))[:, 0]
