"""Methods side by side on the same images, and what else should be known of ours."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from whycluster.errors import UserError
from whycluster.evaluation.evaluation import Evaluation
from whycluster.evaluation.fills import FILLS
from whycluster.evaluation.measuring import Flips, assigned, measure, n_patches, region
from whycluster.evaluation.methods import BASELINES, Method, baseline, of_explainer
from whycluster.evaluation.sanity import checked
from whycluster.explain import Explainer

OURS = "whycluster"
CHECKED = 16  # images, spread over the sample, on which the sanity of explanations is checked

Progress = Callable[[str, float], None]  # what is done now, and which share of all the work is behind


class Evaluator:
    """Measures explanations of assigned clusters: ours beside baselines, by flipping, by masks, and for their sanity.

    Args:
        sample: how many images to draw from a collection; `None`: all.
        patch: side of the patches that are flipped, in pixels; `None`: a 14th of the image's.
        fraction: of the patches that is gone in the end.
        steps: points of the curves, besides the first.
        fills: what takes the place of patches; see `FILLS`.
        baselines: what to compare with; see `BASELINES`.
        seed: of all that is drawn.

    Raises:
        UserError: for settings that make no sense.
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
        for name, value, least in (("sample", sample, 1), ("patch", patch, 1), ("steps", steps, 1), ("seed", seed, 0)):
            optional = name in ("sample", "patch")
            if not (value is None and optional) and (type(value) is not int or not least <= value < 2**32):
                raise UserError(f"evaluation.{name}={value} should be a whole number >= {least}.")
        if not isinstance(fraction, int | float) or not 0 < fraction <= 1:
            raise UserError(f"evaluation.fraction={fraction} should be above 0, and at most 1.")
        self.fills = _some_of("fills", fills, FILLS)
        self.baselines = _some_of("baselines", baselines, BASELINES)
        if not self.fills:
            raise UserError(f"evaluation.fills=[] should name at least one of {', '.join(FILLS)}.")
        self.sample, self.patch, self.fraction, self.steps, self.seed = sample, patch, float(fraction), steps, seed

    def methods(self, explainer: Explainer) -> dict[str, Method]:
        """Ours, and the baselines.

        Raises:
            UserError: if captum is wanted and not there, or the images of the model have no two patches.
        """
        side = explainer.model.backbone.preprocessing.crop
        if self.patch is not None and self.patch >= side:
            raise UserError(
                f"evaluation.patch={self.patch} should be smaller than the images, {side} by {side} pixels."
            )
        theirs = {name: baseline(name, explainer.model) for name in self.baselines}
        return {OURS: of_explainer(explainer), **theirs}

    def flips(self, images: Tensor) -> Flips:
        """How to flip images `(N, 3, H, W)`."""
        height, width = images.shape[2:]
        patch = self.patch or region(images)
        fills = {name: FILLS[name](images, patch) for name in self.fills}
        return Flips.of((height, width), patch, self.fraction, self.steps, fills)

    def evaluate(
        self,
        explainer: Explainer,
        images: Tensor,
        masks: Tensor | None = None,
        progress: Progress = lambda what, done: None,
        batch_size: int = 16,
    ) -> Evaluation:
        """Measures on all images given.

        Args:
            explainer: what is to be judged.
            images: `(N, 3, H, W)`, uint8 or floats from 0 to 1; they travel to the model's device batch by batch.
            masks: the pixels that alone can be the reason, `(N, H, W)` bool; empty where that is not known.
            progress: is told how far the work is.
            batch_size: images at once.

        Raises:
            UserError: if there are no images, or captum is wanted and not there.
        """
        if not len(images):
            raise UserError("there are no images to evaluate on.")
        methods = self.methods(explainer)
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        clusters, flips = assigned(explainer.model, images, batch_size), self.flips(images)
        measured = {}
        for number, (name, method) in enumerate(methods.items()):

            def advance(done: int, name: str = name, number: int = number) -> None:
                progress(name, (number + done / len(images)) / (len(methods) + 1))

            measured[name] = measure(
                method, explainer.model, images, clusters, flips, masks, self.seed, batch_size, advance
            )
        progress("sanity", len(methods) / (len(methods) + 1))
        spread = torch.linspace(0, len(images) - 1, min(CHECKED, len(images))).round().long()
        sanity = checked(explainer, images[spread], clusters[spread], self.seed, batch_size)
        progress("done", 1.0)
        known = None if masks is None else masks[masks.any(2).any(1)].float().mean((1, 2))
        return Evaluation(
            measured,
            flips.counts,
            n_patches((images.shape[2], images.shape[3]), flips.patch),
            known if known is not None and len(known) else None,
            sanity,
            self._settings(explainer, images, flips.patch),
        )

    def _settings(self, explainer: Explainer, images: Tensor, patch: int) -> dict[str, Any]:
        return {
            "images": len(images),
            "patch": patch,
            "fraction": self.fraction,
            "steps": self.steps,
            "fills": self.fills,
            "seed": self.seed,
            "region": region(images),
            "composite": explainer.composite,
            "residual": explainer.residual,
            "head_rule": explainer.head_rule,
            "beta": str(float(explainer.model.head.beta) if explainer.beta is None else explainer.beta),
        }


def _some_of(name: str, given: Any, known: Mapping[str, Any]) -> list[str]:
    """A list of names, each once.

    Raises:
        UserError: for anything else.
    """
    names = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else None
    if names is None or not all(one in known for one in names) or len(set(names)) < len(names):
        raise UserError(f"evaluation.{name}={given} should be a list of some of {', '.join(known)}, each once.")
    return names
