"""Ways to explain an assignment: ours, and those that it has to beat. Gradients and occlusion are captum's."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from whycluster.errors import UserError
from whycluster.explain import ClusterModel, Explainer, Target

NOISE = 0.15  # of the range of values: deviation of the noise that SmoothGrad adds (Smilkov et al. 2017)
SAMPLES = 16  # of SmoothGrad, and steps of integrated gradients
WINDOWS = 7  # occlusion hides so many by so many squares, one after the other
BLOB = 0.25  # of the image's side: deviation of the blob


class Method(NamedTuple):
    """A way to explain.

    Attributes:
        explain: images `(N, 3, H, W)` from 0 to 1, clusters `(N,)`, and a generator for what is drawn at random `->`
            heatmaps `(N, H, W)`.
        passes: what it costs an image, in passes through the network, forward or back.
    """

    explain: Callable[[Tensor, Tensor, torch.Generator], Tensor]
    passes: int


def of_explainer(explainer: Explainer) -> Method:
    """Layer-wise relevance propagation: one pass forward, one back."""

    def explain(images: Tensor, clusters: Tensor, generator: torch.Generator) -> Tensor:
        (explanation,) = explainer.explain_targets(images, [Target("given", clusters)])
        return explanation.heatmap

    return Method(explain, 2)


def random(model: ClusterModel) -> Method:
    """Noise: what any explanation should beat."""

    def explain(images: Tensor, clusters: Tensor, generator: torch.Generator) -> Tensor:
        return torch.rand(len(images), *images.shape[2:], generator=generator).to(images.device)

    return Method(explain, 0)


def blob(model: ClusterModel) -> Method:
    """A Gaussian in the middle, where photographers put what they mean."""

    def explain(images: Tensor, clusters: Tensor, generator: torch.Generator) -> Tensor:
        y, x = (torch.linspace(-0.5, 0.5, n, device=images.device) for n in images.shape[2:])
        return (-(y[:, None].square() + x.square()) / (2 * BLOB**2)).exp().expand(len(images), -1, -1)

    return Method(explain, 0)


def squared_gradient(model: ClusterModel) -> Method:
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
    """Mean gradient of noisy copies, squared (SmoothGrad², the better one in Hooker et al. 2019)."""
    from captum.attr import NoiseTunnel, Saliency

    low, high = model.backbone.bounds()
    tunnel, deviation = NoiseTunnel(Saliency(_discriminant(model))), NOISE * float((high - low).mean())
    settings = {"nt_type": "smoothgrad_sq", "nt_samples": SAMPLES, "nt_samples_batch_size": 1}
    return _attributed(
        model, lambda x, clusters: _attribute(tunnel, x, clusters, stdevs=deviation, abs=False, **settings), 2 * SAMPLES
    )


def integrated_gradients(model: ClusterModel) -> Method:
    """Gradients on the way from the mean colour to the image, times the way (Sundararajan et al. 2017)."""
    from captum.attr import IntegratedGradients

    path = IntegratedGradients(_discriminant(model))

    def explain(x: Tensor, clusters: Tensor) -> Tensor:
        return _attribute(path, x, clusters, n_steps=SAMPLES, internal_batch_size=len(x))

    return _attributed(model, explain, 2 * SAMPLES)


def occlusion(model: ClusterModel) -> Method:
    """How much the discriminant falls when a square is hidden under the mean colour (Zeiler and Fergus 2014)."""
    from captum.attr import Occlusion

    hiding = Occlusion(_discriminant(model))

    def explain(x: Tensor, clusters: Tensor) -> Tensor:
        side = (x.shape[1], *(math.ceil(n / WINDOWS) for n in x.shape[2:]))
        with torch.no_grad():
            return _attribute(hiding, x, clusters, sliding_window_shapes=side, strides=side)

    side = model.backbone.preprocessing.crop
    return _attributed(model, explain, math.ceil(side / math.ceil(side / WINDOWS)) ** 2 + 1)


BASELINES: dict[str, Callable[[ClusterModel], Method]] = {
    "random": random,
    "blob": blob,
    "gradient_squared": squared_gradient,
    "gradient_times_input": gradient_times_input,
    "smoothgrad": smoothgrad,
    "integrated_gradients": integrated_gradients,
    "occlusion": occlusion,
}


def baseline(name: str, model: ClusterModel) -> Method:
    """A baseline by its name.

    Raises:
        UserError: for an unknown name, or if captum is not there.
    """
    if name not in BASELINES:
        raise UserError(f"baseline {name!r} is unknown; choose from {', '.join(BASELINES)}.")
    try:
        return BASELINES[name](model)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "captum":
            raise
        raise UserError(
            f"the baseline {name!r} wants captum: pip install 'whycluster[evaluation]'; or name others, such as "
            "evaluation.baselines=[random,blob]."
        ) from error


def _discriminant(model: ClusterModel) -> Callable[[Tensor, Tensor], Tensor]:
    """Normalised images `(N, 3, H, W)` and clusters `(N,)` `->` discriminants `(N,)`, to be differentiated."""

    def discriminant(x: Tensor, clusters: Tensor) -> Tensor:
        discriminants: Tensor = model.head(model.backbone.network(x))
        return discriminants.gather(1, clusters[:, None])[:, 0]

    return discriminant


def _attribute(by: Any, x: Tensor, clusters: Tensor, **settings: Any) -> Tensor:
    attributions: Tensor = by.attribute(x, additional_forward_args=(clusters,), **settings)
    return attributions


def _attributed(model: ClusterModel, attribute: Callable[[Tensor, Tensor], Tensor], passes: int) -> Method:
    """A method of captum, whose noise comes from the generator as well."""

    def explain(images: Tensor, clusters: Tensor, generator: torch.Generator) -> Tensor:
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            x = model.backbone.normalise(images.clone()).requires_grad_()
            attributions = attribute(x, clusters.clone())
        return attributions.detach().sum(1).float()

    return Method(explain, passes)
