import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from whycluster.backbones import Backbone, build_backbone
from whycluster.backbones.preprocessing import Preprocessing
from whycluster.evaluation import Evaluator
from whycluster.evaluation.choosing import Rules, candidate_rules, choose_rules, distinct, n_passes
from whycluster.evaluation.measurement import assigned_clusters
from whycluster.explain import ClusterModel, Explainer
from whycluster.heads import NeuralizedKMeans
from whycluster.lrp import Composite, Convolution, Epsilon, Flat
from whycluster.lrp.composites import COMPOSITES

SIDE = 8
EXACT, BLURRED, SCALED = (Rules(name, None, "attn") for name in ("exact", "blurred", "scaled"))


class Moved(nn.Module):
    """The brightness of the pixel three to the left and three above, as a feature map: a kernel with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 1, 7, padding=3, bias=False)
        self.features.weight.data[:] = 0
        self.features.weight.data[:, :, 0, 0] = 1 / 3

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


@pytest.fixture(scope="module")
def moved():
    """Explainers of a model for which `Flat` gives the pixels around the right one as much as that one, and images."""
    preprocessing = Preprocessing(SIDE, SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    backbone = Backbone(Moved(), preprocessing, "features", "flatten").double()
    centroids = torch.stack([torch.full((SIDE * SIDE,), 0.75), torch.full((SIDE * SIDE,), 0.25)]).double()
    model = ClusterModel(backbone, NeuralizedKMeans(centroids, beta=0.1))
    rules = {EXACT: Epsilon(), BLURRED: Flat(), SCALED: Epsilon(1e-9)}
    explainers = {key: Explainer(model, Composite([(Convolution, rule)])) for key, rule in rules.items()}
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(12, 1, SIDE, SIDE, generator=generator, dtype=torch.float64).expand(-1, 3, -1, -1)
    return explainers, images.contiguous()


def chosen(moved, names, n_images=12, **settings):
    explainers, images = moved
    images = images[:n_images]
    flipping = Evaluator(patch=1, steps=4, fills=["mean"], **settings).flipping(images)
    clusters = assigned_clusters(explainers[EXACT].model, images)
    pairs = [(name, explainers[name]) for name in names]
    return choose_rules(pairs, images, clusters, flipping, seed=3, batch_size=5)


def test_rules_that_are_much_better_are_chosen(moved):
    choice = chosen(moved, (BLURRED, SCALED, EXACT))
    assert choice.rules in (EXACT, SCALED)
    _, best, _ = choice.candidates
    assert best.gain.low > 0
    assert best.gain.value == pytest.approx(best.srg.value - choice.candidates[0].srg.value)
    assert choice.images == 12


def test_the_default_stays_where_nothing_is_better(moved):
    assert chosen(moved, (EXACT, BLURRED)).rules == EXACT
    worse = chosen(moved, (EXACT, BLURRED)).candidates[1]
    assert worse.gain.high < 0
    same = chosen(moved, (SCALED, EXACT))  # the same order of pixels
    assert same.rules == SCALED
    assert same.candidates[1].gain[:] == (0, 0, 0)


def test_one_image_decides_nothing(moved):
    choice = chosen(moved, (BLURRED, EXACT), n_images=1)
    assert choice.rules == BLURRED
    assert math.isnan(choice.candidates[1].gain.low)


def test_srg_is_the_area_between_the_curves(moved):
    """Restated: the discriminant is linear in the pixels, so each pixel replaced changes it by itself."""
    explainers, images = moved
    found = chosen(moved, (BLURRED, EXACT)).candidates[1].srg.value
    weight = np.zeros((SIDE, SIDE))
    weight[: SIDE - 3, : SIDE - 3] = 1  # those that a feature shows
    discriminants = explainers[EXACT].model(images).max(1).values.numpy()
    signs = np.where(assigned_clusters(explainers[EXACT].model, images) == 0, 1, -1)
    gaps, mean = [], float(images.mean())  # the fill
    for image, sign in zip(images[:, 0].numpy(), signs, strict=True):
        least_first = (sign * weight * image).ravel().argsort()
        change = (sign * weight * (mean - image)).ravel()  # zero for pixels without relevance, in whatever order
        counts = [0, 8, 16, 24, 32]
        curves = [[change[order][:count].sum() for count in counts] for order in (least_first, least_first[::-1])]
        gaps.append((np.trapezoid(curves[0], counts) - np.trapezoid(curves[1], counts)) / counts[-1])
    assert found == pytest.approx(np.mean(gaps) / discriminants.mean())


def test_the_same_seed_gives_the_same_choice(moved):
    assert chosen(moved, (BLURRED, EXACT)) == chosen(moved, (BLURRED, EXACT))


def test_a_choice_in_json(moved):
    values = chosen(moved, (BLURRED, EXACT)).to_json()
    assert (values["composite"], values["gamma"], values["attention"]) == EXACT
    assert (values["chosen"], values["images"]) == (1, 12)
    assert [row["composite"] for row in values["candidates"]] == ["blurred", "exact"]
    assert set(values["candidates"][0]["gain"]) == {"value", "low", "high"}


@pytest.mark.parametrize("attention", ["attn", "cp"])
def test_candidates_begin_with_the_default_and_differ(attention):
    first, *others = rules = candidate_rules(attention)
    assert first == ("epsilon_gamma_box", 0.25, attention)
    assert len(set(rules)) == len(rules)
    assert {one.composite for one in rules} <= set(COMPOSITES)
    assert {one.attention for one in others} == {"attn", "cp"}
    gammas = [one.gamma for one in others if one.composite == "epsilon_gamma_box" and one.attention == attention]
    assert min(gammas) < 0.25 < max(gammas)


def test_rules_that_are_the_same_in_a_network_are_tried_once(glyphs):
    backbone = build_backbone("glyphnet", "DEFAULT", pool="flatten")
    model = ClusterModel(backbone, NeuralizedKMeans(torch.rand(3, backbone.n_features), beta=0.02))
    explainers = {rules: Explainer(model, **rules._asdict()) for rules in candidate_rules()}
    left = distinct(explainers)
    assert list(left) == candidate_rules()[:-1]  # it has no attention, and no linear layer on tokens


def test_passes_are_counted(moved):
    flipping = Evaluator(patch=1, steps=4).flipping(moved[1])
    assert n_passes(3, 10, flipping) == 3 * 10 * (2 + 2 * 2 * 5)


def test_rules_in_words():
    assert str(Rules("epsilon_plus", None, "cp")) == "epsilon_plus, attention cp"
    assert str(Rules("epsilon_gamma_box", 0.1, "attn")) == "epsilon_gamma_box, gamma 0.1, attention attn"
