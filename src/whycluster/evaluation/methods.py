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
    """An explanation method."""

    # Images (N, 3, H, W) from 0 to 1, clusters (N,), and a random generator -> heatmaps (N, H, W).
    explain: Callable[[Tensor, Tensor, torch.Generator], Tensor]
    passes: int  # its cost per image, in passes through the network, forward or back


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

    return _by_captum(model, Saliency, 2, lambda x: {"abs": False}, power=2)


def gradient_times_input(model: ClusterModel) -> Method:
    """Gradient times the normalised pixel."""
    from captum.attr import InputXGradient

    return _by_captum(model, InputXGradient, 2)


def smoothgrad(model: ClusterModel) -> Method:
    """Mean of the squared gradients of noisy copies, summed over colours.

    SmoothGrad of Smilkov et al. 2017, arXiv 1706.03825, squared as in Hooker et al. 2019, arXiv 1806.10758, where that
    is the better one.
    """
    from captum.attr import NoiseTunnel, Saliency

    low, high = model.backbone.bounds()
    settings = {
        "nt_type": "smoothgrad_sq",
        "nt_samples": SMOOTHGRAD_SAMPLES,
        "nt_samples_batch_size": 1,
        "stdevs": SMOOTHGRAD_NOISE * float((high - low).mean()),
        "abs": False,
    }
    return _by_captum(model, lambda f: NoiseTunnel(Saliency(f)), 2 * SMOOTHGRAD_SAMPLES, lambda x: settings)


def integrated_gradients(model: ClusterModel) -> Method:
    """Mean gradient on the straight path from the mean colour to the image, times the path.

    Sundararajan et al. 2017, arXiv 1703.01365, eq. 1.
    """
    from captum.attr import IntegratedGradients

    def settings(x: Tensor) -> dict[str, Any]:
        return {"n_steps": INTEGRATION_STEPS, "internal_batch_size": len(x)}

    return _by_captum(model, IntegratedGradients, 2 * INTEGRATION_STEPS, settings)


def occlusion(model: ClusterModel) -> Method:
    """Fall of the discriminant when a square is hidden under the mean colour (Zeiler and Fergus, arXiv 1311.2901)."""
    from captum.attr import Occlusion

    def settings(x: Tensor) -> dict[str, Any]:
        square = (x.shape[1], *(math.ceil(n / OCCLUSION_GRID) for n in x.shape[2:]))
        return {"sliding_window_shapes": square, "strides": square}

    side = model.backbone.preprocessing.crop
    return _by_captum(model, Occlusion, math.ceil(side / math.ceil(side / OCCLUSION_GRID)) ** 2 + 1, settings)


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


def _by_captum(
    model: ClusterModel,
    make: Callable[[Any], Any],
    passes: int,
    settings: Callable[[Tensor], dict[str, Any]] = lambda x: {},
    power: int = 1,
) -> Method:
    """A method of captum on normalised pixels, its noise seeded by the generator and the global random state left as it
    was.

    Args:
        model: whose discriminants are explained.
        make: makes captum's method from the differentiable function that it explains.
        passes: as in `Method`.
        settings: of the method, for normalised images `(N, 3, H, W)`.
        power: to which attributions are raised before they are summed over colours.
    """

    def discriminant(x: Tensor, clusters: Tensor) -> Tensor:
        discriminants: Tensor = model.head(model.steps(model.backbone.network(x)))
        return discriminants.gather(1, clusters[:, None])[:, 0]

    method = make(discriminant)

    def explain(images: Tensor, clusters: Tensor, generator: torch.Generator) -> Tensor:
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            x = model.backbone.normalise(images.clone()).requires_grad_()
            found: Tensor = method.attribute(x, additional_forward_args=(clusters.clone(),), **settings(x))
        return found.detach().pow(power).sum(1).float()

    return Method(explain, passes)
