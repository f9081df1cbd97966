"""Choice of rules by measurement: several explainers of one model `->` the one whose heatmaps are best by flipping."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from whycluster.evaluation.flipping import Flipping, area
from whycluster.evaluation.measurement import measure_method
from whycluster.evaluation.methods import explainer_method
from whycluster.evaluation.results import SCORES, MethodResults
from whycluster.evaluation.statistics import Interval, interval
from whycluster.explain import Explainer
from whycluster.lrp import Attention
from whycluster.lrp.composites import GAMMA

# Below and above the default one; docs/defaults.md has what they do.
OTHER_GAMMAS = (0.1, 1.0)
OTHER_ATTENTION: dict[Attention, Attention] = {"attn": "cp", "cp": "attn"}


class Rules(NamedTuple):
    """Rules for a network, by the arguments of `Explainer`."""

    composite: str
    gamma: float | None
    attention: Attention

    def __str__(self) -> str:
        gamma = "" if self.gamma is None else f", gamma {self.gamma:g}"
        return f"{self.composite}{gamma}, attention {self.attention}"


class Candidate(NamedTuple):
    """What was measured of some rules.

    Attributes:
        rules: the rules.
        srg: mean area between the curves of least and of most relevant first, in units of the discriminant.
        gain: by how much that is more than with the default rules, on the same images.
    """

    rules: Rules
    srg: Interval
    gain: Interval


class Choice(NamedTuple):
    """The rules that were chosen, and why.

    Attributes:
        chosen: the number of the chosen candidate.
        candidates: all of them, the default first.
        images: how many they were measured on.
    """

    chosen: int
    candidates: list[Candidate]
    images: int

    @property
    def rules(self) -> Rules:
        """The rules that were chosen."""
        return self.candidates[self.chosen].rules

    def to_json(self) -> dict[str, Any]:
        """Returns everything as JSON values; what is undefined is NaN."""
        table = [
            {**one.rules._asdict(), "srg": one.srg._asdict(), "gain": one.gain._asdict()} for one in self.candidates
        ]
        return {**self.rules._asdict(), "chosen": self.chosen, "images": self.images, "candidates": table}


def candidate_rules(attention: Attention = "attn") -> list[Rules]:
    """Lists the rules that may suit a network, the default first.

    Args:
        attention: of the default; the other rule of attention is a candidate.
    """
    box, other = "epsilon_gamma_box", OTHER_ATTENTION.get(attention, attention)
    return [
        *(Rules(box, gamma, attention) for gamma in (GAMMA, *OTHER_GAMMAS)),
        *(Rules(name, None, attention) for name in ("epsilon_plus_flat", "epsilon_alpha2_beta1")),
        Rules(box, GAMMA, other),
    ]


def distinct(explainers: Mapping[Rules, Explainer]) -> dict[Rules, Explainer]:
    """Leaves out explainers whose rules are the same at every node, such as those of attention where there is none."""
    found: dict[str, Rules] = {}
    for rules, explainer in explainers.items():
        found.setdefault(explainer.describe(), rules)
    return {rules: explainers[rules] for rules in found.values()}


def choose_rules(
    explainers: Iterable[tuple[Rules, Explainer]],
    images: Tensor,
    clusters: Tensor,
    flipping: Flipping,
    seed: int = 0,
    batch_size: int = 16,
) -> Choice:
    """Chooses, of the rules that are better than the default, those of largest SRG; if none are, the default.

    Better means that the 95 % interval of the difference, by a bootstrap over the images, lies above zero. The interval
    is that of one difference: it does not account for the choice among several.

    Args:
        explainers: of one model, the default first; each may be freed when the next one is asked for.
        images: `(N, 3, H, W)`, from 0 to 1.
        clusters: that they are assigned to, `(N,)`.
        flipping: the settings.
        seed: of the order of equally relevant patches.
        batch_size: images at once.
    """
    rules, results = [], []
    for each, explainer in explainers:
        method = explainer_method(explainer)
        rules.append(each)
        results.append(measure_method(method, explainer.model, images, clusters, flipping, None, seed, batch_size))
    at_start = next(iter(results[0].curves.values())).most[:, 0, SCORES.index("discriminant")]  # of the whole images
    gaps = [mean_gap(one, flipping) for one in results]
    candidates = [
        Candidate(each, interval(gap, at_start), interval(gap - gaps[0], at_start))
        for each, gap in zip(rules, gaps, strict=True)
    ]
    better = [number for number, one in enumerate(candidates) if one.gain.low > 0]
    best = max(better, key=lambda number: candidates[number].srg.value, default=0)
    return Choice(best, candidates, len(images))


def mean_gap(results: MethodResults, flipping: Flipping) -> Tensor:
    """Computes the area between the curves of least and of most relevant first, of the discriminant, as a mean over
    fills, `(N,)`.
    """
    gaps = [area(one.least, flipping.counts) - area(one.most, flipping.counts) for one in results.curves.values()]
    return torch.stack(gaps).mean(0)[:, SCORES.index("discriminant")]


def n_passes(n_explainers: int, n_images: int, flipping: Flipping) -> int:
    """Counts the passes through the network that a choice takes, forward or back."""
    return n_explainers * n_images * (2 + 2 * len(flipping.fills) * len(flipping.counts))
