"""Methods side by side on the same images, and what else should be known of ours."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from whycluster.evaluation.evaluation import Evaluation
from whycluster.evaluation.fills import FILLS
from whycluster.evaluation.measuring import Flips, assigned, measure, n_patches
from whycluster.evaluation.methods import BASELINES, Method, baseline, of_explainer
from whycluster.evaluation.sanity import discriminativity, randomisation, receipts, sensitivity
from whycluster.evaluation.statistics import interval
from whycluster.explain import Explainer

OURS = "whycluster"
GRID = 14  # patches in a row, unless another size is asked for
CHECKED = 16  # images of the sample, the first ones, on which the sanity of explanations is checked
STAGES = 5  # of randomisation

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
        ValueError: for settings that make no sense.
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
        for name, value in (("sample", sample), ("patch", patch), ("steps", steps)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"evaluation.{name}={value} should be a whole number >= 1.")
        if not 0 < fraction <= 1:
            raise ValueError(f"evaluation.fraction={fraction} should be above 0, and at most 1.")
        for name, given, known in (("fills", fills, FILLS), ("baselines", baselines, BASELINES)):
            if isinstance(given, str) or not set(given) <= set(known):
                raise ValueError(f"evaluation.{name}={given} should be a list of some of {', '.join(known)}.")
        if not fills:
            raise ValueError(f"evaluation.fills=[] should name at least one of {', '.join(FILLS)}.")
        self.sample, self.patch, self.fraction, self.steps = sample, patch, float(fraction), steps
        self.fills, self.baselines, self.seed = list(fills), list(baselines), seed

    def methods(self, explainer: Explainer) -> dict[str, Method]:
        """Ours, and the baselines.

        Raises:
            ValueError: if captum is wanted and not there.
        """
        theirs = {name: baseline(name, explainer.model) for name in self.baselines}
        return {OURS: of_explainer(explainer), **theirs}

    def flips(self, images: Tensor) -> Flips:
        """How to flip images `(N, 3, H, W)`."""
        height, width = images.shape[2:]
        patch = self.patch or max(1, min(height, width) // GRID)
        fills = {name: FILLS[name](images, patch) for name in self.fills}
        return Flips.of((height, width), patch, self.fraction, self.steps, fills)

    def evaluate(
        self,
        explainer: Explainer,
        images: Tensor,
        masks: Tensor | None = None,
        progress: Progress = lambda what, done: None,
    ) -> Evaluation:
        """Measures on all images given.

        Args:
            explainer: what is to be judged.
            images: `(N, 3, H, W)`, uint8 or floats from 0 to 1, on the device of the explainer's model.
            masks: the pixels that alone can be the reason, `(N, H, W)` bool; empty where that is not known.
            progress: is told how far the work is.

        Raises:
            ValueError: if there are no images, or captum is wanted and not there.
        """
        if not len(images):
            raise ValueError("there are no images to evaluate on.")
        methods = self.methods(explainer)
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        images = images.contiguous(memory_format=torch.channels_last)  # half the time of a forward pass on a CPU
        clusters, flips = assigned(explainer.model, images), self.flips(images)
        measured = {}
        for number, (name, method) in enumerate(methods.items()):

            def advance(done: int, name: str = name, number: int = number) -> None:
                progress(name, (number + done / len(images)) / (len(methods) + 1))

            measured[name] = measure(method, explainer.model, images, clusters, flips, masks, self.seed, advance)
        progress("sanity", len(methods) / (len(methods) + 1))
        sanity = self._sanity(explainer, images[:CHECKED], clusters[:CHECKED])
        progress("done", 1.0)
        known = None if masks is None else masks[masks.any(2).any(1)].float().mean((1, 2))
        return Evaluation(
            measured,
            flips.counts,
            n_patches((images.shape[2], images.shape[3]), flips.patch),
            known if known is not None and len(known) else None,
            sanity,
            self._settings(explainer, len(images), flips.patch),
        )

    def _sanity(self, explainer: Explainer, images: Tensor, clusters: Tensor) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(self.seed)
        shuffled = randomisation(explainer, images, clusters, STAGES, generator)
        asked = discriminativity(explainer, images)
        noisy = sensitivity(explainer, images, clusters, generator)
        return {
            "images": len(images),
            "randomised": [{"layers": n, "correlation": interval(alike)._asdict()} for n, alike in shuffled],
            "discriminativity": {name: interval(alike)._asdict() for name, alike in asked._asdict().items()},
            "sensitivity": {name: interval(values)._asdict() for name, values in noisy._asdict().items()},
            "receipts": receipts(explainer, images),
        }

    def _settings(self, explainer: Explainer, n_images: int, patch: int) -> dict[str, Any]:
        return {
            "images": n_images,
            "patch": patch,
            "fraction": self.fraction,
            "steps": self.steps,
            "fills": self.fills,
            "seed": self.seed,
            "composite": type(explainer.lrp.composite).__name__,
            "head_rule": explainer.head_rule,
            "beta": float(explainer.model.head.beta) if explainer.beta is None else explainer.beta,
        }
