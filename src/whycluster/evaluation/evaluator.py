"""The evaluator: measures our explanations and the baselines on the same images, and runs the sanity checks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from whycluster.errors import UserError, whole_number
from whycluster.evaluation.fills import FILLS
from whycluster.evaluation.flipping import Flipping, flip_counts, n_patches, region_side
from whycluster.evaluation.measurement import assigned_clusters, measure_method
from whycluster.evaluation.methods import BASELINES, Method, baseline, explainer_method
from whycluster.evaluation.results import Evaluation
from whycluster.evaluation.sanity import sanity_checks
from whycluster.explain import ClusterModel, Explainer

OURS = "whycluster"
SANITY_IMAGES = 16  # evenly spaced in the sample; the sanity checks take several explanations of each

OnProgress = Callable[[str, float], None]  # called with what is done next and the fraction of all work done


class Evaluator:
    """Evaluates explanations of assigned clusters: ours beside baselines, by patch flipping, masks and sanity checks.

    Args:
        sample: number of images to draw from a collection; `None`: all.
        patch: side of the patches that are removed, in pixels; `None`: a 14th of the image's.
        fraction: of the patches that is removed at the end of a curve.
        steps: points of the curves after the first.
        fills: what replaces removed patches; see `FILLS`.
        baselines: methods to compare with; see `BASELINES`.
        seed: of the sample, of methods that draw, and of the sanity checks.

    Raises:
        UserError: for settings out of range or unknown names.
    """

    def __init__(
        self,
        sample: int | None = 64,
        patch: int | None = None,
        fraction: float = 0.5,
        steps: int = 10,
        fills: Sequence[str] = ("mean", "blur"),
        baselines: Sequence[str] = tuple(BASELINES),
        seed: int = 0,
    ) -> None:
        self.sample = None if sample is None else whole_number("evaluation.sample", sample, 1)
        self.patch = None if patch is None else whole_number("evaluation.patch", patch, 1)
        if not isinstance(fraction, int | float) or not 0 < fraction <= 1:
            raise UserError(f"evaluation.fraction={fraction} should be above 0, and at most 1.")
        self.fraction = float(fraction)
        self.steps = whole_number("evaluation.steps", steps, 1)
        self.fills = _known_names("fills", fills, FILLS)
        self.baselines = _known_names("baselines", baselines, BASELINES)
        if not self.fills:
            raise UserError(f"evaluation.fills=[] should name at least one of {', '.join(FILLS)}.")
        self.seed = whole_number("evaluation.seed", seed, 0)
        if self.seed >= 2**32:  # NumPy and PyTorch take no larger ones
            raise UserError(f"evaluation.seed={seed} should be below 2**32.")

    def methods(self, explainer: Explainer) -> dict[str, Method]:
        """Our method and the baselines, by name.

        Raises:
            UserError: if captum is needed and not installed, or if a patch is as large as the model's images.
        """
        self.check_patch(explainer.model)
        baselines = {name: baseline(name, explainer.model) for name in self.baselines}
        return {OURS: explainer_method(explainer), **baselines}

    def check_patch(self, model: ClusterModel) -> None:
        """Checks that a patch is smaller than the model's images.

        Raises:
            UserError: if it is not.
        """
        side = model.backbone.preprocessing.crop
        if self.patch is not None and self.patch >= side:
            raise UserError(
                f"evaluation.patch={self.patch} should be smaller than the images, {side} by {side} pixels."
            )

    def flipping(self, images: Tensor) -> Flipping:
        """Settings of patch flipping for images `(N, 3, H, W)`."""
        patch = self.patch or region_side(images)
        counts = flip_counts(n_patches(images, patch), self.fraction, self.steps)
        return Flipping(patch, counts, {name: FILLS[name](images, patch) for name in self.fills})

    def evaluate(
        self,
        explainer: Explainer,
        images: Tensor,
        masks: Tensor | None = None,
        progress: OnProgress = lambda what, done: None,
        batch_size: int = 16,
    ) -> Evaluation:
        """Evaluates on all images given.

        Args:
            explainer: whose explanations are evaluated.
            images: `(N, 3, H, W)`, uint8 or floats from 0 to 1; they are moved to the model's device in batches.
            masks: the pixels that are known to be the only possible reason, `(N, H, W)` bool; empty where unknown.
            progress: called as the work goes on.
            batch_size: images at once.

        Raises:
            UserError: if there are no images, and as `methods` does.
        """
        if not len(images):
            raise UserError("there are no images to evaluate on.")
        methods = self.methods(explainer)
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        clusters, flipping = assigned_clusters(explainer.model, images, batch_size), self.flipping(images)
        results = {}
        for number, (name, method) in enumerate(methods.items()):

            def advance(done: int, name: str = name, number: int = number) -> None:
                progress(name, (number + done / len(images)) / (len(methods) + 1))

            results[name] = measure_method(
                method, explainer.model, images, clusters, flipping, masks, self.seed, batch_size, advance
            )
        progress("sanity", len(methods) / (len(methods) + 1))
        some = torch.linspace(0, len(images) - 1, min(SANITY_IMAGES, len(images))).round().long()
        sanity = sanity_checks(explainer, images[some], clusters[some], self.seed, batch_size)
        progress("done", 1.0)
        areas = None if masks is None else masks[masks.any(2).any(1)].float().mean((1, 2))
        return Evaluation(
            results,
            flipping.counts,
            n_patches(images, flipping.patch),
            areas if areas is not None and len(areas) else None,
            sanity,
            self._settings(explainer, images, flipping.patch),
        )

    def _settings(self, explainer: Explainer, images: Tensor, patch: int) -> dict[str, Any]:
        return {
            "images": len(images),
            "patch": patch,
            "fraction": self.fraction,
            "steps": self.steps,
            "fills": self.fills,
            "seed": self.seed,
            "region": region_side(images),
            "composite": explainer.composite,
            "gamma": explainer.gamma,
            "attention": explainer.network.attention,
            "residual": explainer.residual,
            "head_rule": explainer.head_rule,
            "beta": str(float(explainer.model.head.beta) if explainer.beta is None else explainer.beta),
        }


def _known_names(setting: str, given: Any, known: Mapping[str, Any]) -> list[str]:
    """The names given, as a list.

    Raises:
        UserError: for anything but a sequence of different known names.
    """
    names = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else None
    if names is None or not all(name in known for name in names) or len(set(names)) < len(names):
        raise UserError(f"evaluation.{setting}={given} should be a list of some of {', '.join(known)}, each once.")
    return names
