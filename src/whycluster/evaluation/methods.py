"""Explanation methods: ours, and the baselines it is compared with. Gradients and occlusion are captum's."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from whycluster.errors import UserError
from whycluster.explain import ClusterModel, Explainer, Target

SMOOTHGRAD_NOISE = 0.15  # standard deviation, as a fraction of the range of values
SMOOTHGRAD_SAMPLES = 16
INTEGRATION_STEPS = 16
OCCLUSION_GRID = 7  # squares in a row, each hidden once
BLOB_SIGMA = 0.25  # as a fraction of the image's side


class Method(NamedTuple):
    """An explanation method.

    Attributes:
        explain: images `(N, 3, H, W)` from 0 to 1, clusters `(N,)`, and a random generator `->` heatmaps `(N, H, W)`.
        passes: its cost per image, in passes through the network, forward or back.
    """

    explain: Callable[[Tensor, Tensor, torch.Generator], Tensor]
    passes: int


def explainer_method(explainer: Explainer) -> Method:
    """Layer-wise relevance propagation, as an explainer does it: one pass forward, one back."""

    def explain(images: Tensor, clusters: Tensor, generator: torch.Generator) -> Tensor:
        (explanation,) = explainer.explain_targets(images, [Target("given", clusters)])
        return explanation.heatmap

    return Method(explain, 2)


def random(model: ClusterModel) -> Method:
    """Uniform noise, which any explanation should beat."""

    def explain(images: Tensor, clusters: Tensor, generator: torch.Generator) -> Tensor:
        return torch.rand(len(images), *images.shape[2:], generator=generator).to(images.device)

    return Method(explain, 0)


def blob(model: ClusterModel) -> Method:
    """A Gaussian in the centre, where photographers place their subject."""

    def explain(images: Tensor, clusters: Tensor, generator: torch.Generator) -> Tensor:
        y, x = (torch.linspace(-0.5, 0.5, n, device=images.device) for n in images.shape[2:])
        return (-(y[:, None].square() + x.square()) / (2 * BLOB_SIGMA**2)).exp().expand(len(images), -1, -1)

    return Method(explain, 0)


def gradient_squared(model: ClusterModel) -> Method:
    """Squared gradient of the discriminant, summed over colours."""
    from captum.attr import Saliency

    saliency = Saliency(_discriminant(model))
    return _attributed(model, lambda x, clusters: _attribute(saliency, x, clusters, abs=False).square(), 2)


def gradient_times_input(model: ClusterModel) -> Method:
    """Gradient times the normalised pixel."""
    from captum.attr import InputXGradient

    product = InputXGradient(_discriminant(model))
    return _attributed(model, lambda x, clusters: _attribute(product, x, clusters), 2)


def smoothgrad(model: ClusterModel) -> Method:
    """Mean of the squared gradients of noisy copies, summed over colours.

    SmoothGrad of Smilkov et al. 2017, arXiv 1706.03825, squared as in Hooker et al. 2019, arXiv 1806.10758, where that
    is the better one.
    """
    from captum.attr import NoiseTunnel, Saliency

    low, high = model.backbone.bounds()
    tunnel = NoiseTunnel(Saliency(_discriminant(model)))
    settings = {
        "nt_type": "smoothgrad_sq",
        "nt_samples": SMOOTHGRAD_SAMPLES,
        "nt_samples_batch_size": 1,
        "stdevs": SMOOTHGRAD_NOISE * float((high - low).mean()),
        "abs": False,
    }
    return _attributed(model, lambda x, clusters: _attribute(tunnel, x, clusters, **settings), 2 * SMOOTHGRAD_SAMPLES)


def integrated_gradients(model: ClusterModel) -> Method:
    """Mean gradient on the straight path from the mean colour to the image, times the path.

    Sundararajan et al. 2017, arXiv 1703.01365, eq. 1.
    """
    from captum.attr import IntegratedGradients

    path = IntegratedGradients(_discriminant(model))

    def explain(x: Tensor, clusters: Tensor) -> Tensor:
        return _attribute(path, x, clusters, n_steps=INTEGRATION_STEPS, internal_batch_size=len(x))

    return _attributed(model, explain, 2 * INTEGRATION_STEPS)


def occlusion(model: ClusterModel) -> Method:
    """Fall of the discriminant when a square is hidden under the mean colour (Zeiler and Fergus, arXiv 1311.2901)."""
    from captum.attr import Occlusion

    hiding = Occlusion(_discriminant(model))

    def explain(x: Tensor, clusters: Tensor) -> Tensor:
        side = (x.shape[1], *(math.ceil(n / OCCLUSION_GRID) for n in x.shape[2:]))
        with torch.no_grad():
            return _attribute(hiding, x, clusters, sliding_window_shapes=side, strides=side)

    side = model.backbone.preprocessing.crop
    return _attributed(model, explain, math.ceil(side / math.ceil(side / OCCLUSION_GRID)) ** 2 + 1)


BASELINES: dict[str, Callable[[ClusterModel], Method]] = {
    "random": random,
    "blob": blob,
    "gradient_squared": gradient_squared,
    "gradient_times_input": gradient_times_input,
    "smoothgrad": smoothgrad,
    "integrated_gradients": integrated_gradients,
    "occlusion": occlusion,
}


def baseline(name: str, model: ClusterModel) -> Method:
    """The method of that name in `BASELINES`.

    Raises:
        UserError: if captum is needed and not installed.
    """
    try:
        return BASELINES[name](model)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "captum":
            raise
        raise UserError(
            f"the baseline {name!r} needs captum: pip install 'whycluster[evaluation]'; or choose others, such as "
            "evaluation.baselines=[random,blob]."
        ) from error


def _discriminant(model: ClusterModel) -> Callable[[Tensor, Tensor], Tensor]:
    """The differentiable function of normalised images `(N, 3, H, W)` and clusters `(N,)` that gives `f_c`, `(N,)`."""

    def discriminant(x: Tensor, clusters: Tensor) -> Tensor:
        discriminants: Tensor = model.head(model.backbone.network(x))
        return discriminants.gather(1, clusters[:, None])[:, 0]

    return discriminant


def _attribute(by: Any, x: Tensor, clusters: Tensor, **settings: Any) -> Tensor:
    attributions: Tensor = by.attribute(x, additional_forward_args=(clusters,), **settings)
    return attributions


def _attributed(model: ClusterModel, attribute: Callable[[Tensor, Tensor], Tensor], passes: int) -> Method:
    """A method of captum, its noise seeded by the generator and the global random state left as it was."""

    def explain(images: Tensor, clusters: Tensor, generator: torch.Generator) -> Tensor:
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            x = model.backbone.normalise(images.clone()).requires_grad_()
            attributions = attribute(x, clusters.clone())
        return attributions.detach().sum(1).float()

    return Method(explain, passes)
