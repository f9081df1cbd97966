"""The first part of an explain run with `composite=auto`: the rules are chosen on a sample of the images."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from whycluster.data import PreparedImages
from whycluster.data.image_pass import CPU_BATCH
from whycluster.errors import UserError
from whycluster.evaluation import Evaluator
from whycluster.evaluation.choosing import Choice, Rules, candidate_rules, choose_rules, distinct, n_passes
from whycluster.evaluation.measurement import assigned_clusters
from whycluster.explain import Explainer
from whycluster.explain.predict import ExplanationModule
from whycluster.files import write_json
from whycluster.lrp import Attention
from whycluster.output.console import say
from whycluster.runs.evaluate_sample import sample_to_choose
from whycluster.runs.ranks import by_first

AUTO = "auto"  # the composite
RULES = "rules.json"  # in the state of a run


class RuleChooser(pl.Callback):
    """Chooses the rules of a pass before it begins: in the first process, which tells the others.

    Args:
        images: all images of the run.
        evaluator: says how explanations are measured.
        n_images: that are measured.
        batch_size: images computed at once.
        state: where the choice is kept for a run that goes on.
        explainer: makes an explainer from `Rules`.

    Attributes:
        figures: for `metrics.json`: the choice, and on what it rests; empty before.
    """

    def __init__(
        self,
        images: PreparedImages,
        evaluator: Evaluator,
        n_images: int,
        batch_size: int,
        state: Path,
        explainer: Callable[..., Explainer],
    ) -> None:
        self.images, self.evaluator, self.n_images, self.batch_size = images, evaluator, n_images, batch_size
        self.file, self.explainer = state / RULES, explainer
        self.figures: dict[str, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if not isinstance(pl_module, ExplanationModule):
            raise TypeError(f"{type(pl_module).__name__} explains nothing.")
        default = pl_module.explainer
        pl_module.model.to(trainer.strategy.root_device)
        self.figures = {"rules": by_first(lambda: self._kept(default))}
        if self.figures["rules"]["chosen"]:  # 0 is the default
            pl_module.explainer = self.explainer(**rules_of(self.figures["rules"])._asdict())

    def _kept(self, default: Explainer) -> dict[str, Any]:
        """Reads what was chosen before, or chooses."""
        if not self.file.exists():
            write_json(self.file, self._chosen(default).to_json())
        choice: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
        say(sentence(choice))
        return choice

    def _chosen(self, default: Explainer) -> Choice:
        """Measures the candidates, and says before what it costs."""
        model, device = default.model, default.model.head.centre.device
        batch_size = min(CPU_BATCH, self.batch_size) if device.type == "cpu" else self.batch_size
        first, *others = candidate_rules(default.network.attention)
        explainers = distinct({first: default, **{rules: self.explainer(**rules._asdict()) for rules in others}})
        photos = sample_to_choose(self.images, self.n_images, self.evaluator.seed).float() / 255
        since = time.perf_counter()
        clusters = assigned_clusters(model, photos, batch_size)
        seconds = (time.perf_counter() - since) / len(photos)  # of a pass
        flipping = self.evaluator.flipping(photos)
        passes = n_passes(len(explainers), len(photos), flipping)
        say(
            f"choosing rules among {len(explainers)} on {len(photos)} images: {passes} passes through the network, "
            f"about {max(1, round(passes * seconds))} s"
        )
        return choose_rules(_one_by_one(explainers), photos, clusters, flipping, self.evaluator.seed, batch_size)


def rules_asked_for(composite: str, gamma: float | None, attention: Attention) -> Rules:
    """Returns the rules of a user's settings; of `composite=auto` those that it compares others with.

    Raises:
        UserError: if a gamma is given that would be chosen.
    """
    if composite != AUTO:
        return Rules(composite, gamma, attention)
    if gamma is not None:
        raise UserError(f"gamma={gamma} would be chosen by composite=auto; leave out one of the two.")
    return candidate_rules(attention)[0]


def rules_of(choice: Mapping[str, Any]) -> Rules:
    """Reads the rules that were chosen from what `Choice.to_json` returned."""
    return Rules(*(choice[name] for name in Rules._fields))


def _one_by_one(explainers: dict[Rules, Explainer]) -> Iterator[tuple[Rules, Explainer]]:
    """Yields all, and keeps none: weights, as rules modify them, take several times the memory of the network."""
    while explainers:
        rules = next(iter(explainers))
        yield rules, explainers.pop(rules)


def sentence(choice: Mapping[str, Any]) -> str:
    """Says in one line what was chosen, and why.

    Args:
        choice: as `Choice.to_json` returns it.
    """
    rules = rules_of(choice)
    best, default = (choice["candidates"][number]["srg"]["value"] for number in (choice["chosen"], 0))
    if choice["chosen"]:
        return f"rules: {rules} (SRG {best:.2f} against {default:.2f} of the default, on {choice['images']} images)"
    others = len(choice["candidates"]) - 1
    return f"rules: {rules}, the default (SRG {default:.2f}; none of {others} others is reliably better)"
