"""The metrics can fail: explanations of known worth get the values they deserve."""

import numpy as np
import pytest
import torch

from whycluster.evaluation.fills import mean_fill
from whycluster.evaluation.flipping import Flipping, area, flip_counts
from whycluster.evaluation.measurement import assigned_clusters, cluster_scores, measure_method
from whycluster.evaluation.methods import Method
from whycluster.evaluation.results import Evaluation

BLACK = mean_fill(torch.zeros(3))
EXPLANATIONS = {
    "perfect": lambda images, clusters, generator: images[:, 0],
    "random": lambda images, clusters, generator: torch.rand(images[:, 0].shape, generator=generator),
    "inverted": lambda images, clusters, generator: -images[:, 0],
    "constant": lambda images, clusters, generator: torch.zeros_like(images[:, 0]),
}


@pytest.fixture
def flipping():
    return Flipping(2, flip_counts(16, 0.5, 8), {"black": BLACK})


def measured(name, linear, images, flipping, masks=None):
    return measure_method(
        Method(EXPLANATIONS[name], 1), linear, images, assigned_clusters(linear, images), flipping, masks
    )


def by_hand(images, flipping, most_first):
    """The sum of the pixels minus half of their number, as the darkest or brightest patches turn black."""
    patches = images[:, 0].numpy().reshape(-1, 4, 2, 4, 2).sum((2, 4)).reshape(-1, 16)
    order = np.sort(patches, 1)[:, ::-1] if most_first else np.sort(patches, 1)
    gone = np.concatenate([np.zeros((len(patches), 1)), order.cumsum(1)], 1)[:, flipping.counts]
    return patches.sum(1)[:, None] - gone - 32


def test_curves_of_a_perfect_and_of_an_inverted_explanation(linear, bright, flipping):
    perfect = measured("perfect", linear, bright, flipping).curves["black"]
    inverted = measured("inverted", linear, bright, flipping).curves["black"]
    np.testing.assert_allclose(perfect.most[..., 0], by_hand(bright, flipping, True), atol=1e-5)
    np.testing.assert_allclose(perfect.least[..., 0], by_hand(bright, flipping, False), atol=1e-5)
    assert torch.equal(inverted.most, perfect.least)
    assert torch.equal(inverted.least, perfect.most)


def test_the_order_and_the_values_of_srg(linear, bright, flipping):
    found = {name: measured(name, linear, bright, flipping) for name in EXPLANATIONS}
    evaluation = Evaluation(found, flipping.counts, 16, None, {}, {})
    srg = {name: evaluation.srg(name, "black") for name in found}
    gap = area(
        torch.from_numpy(by_hand(bright, flipping, False) - by_hand(bright, flipping, True))[..., None], flipping.counts
    )
    start = by_hand(bright, flipping, True)[:, 0]
    assert srg["perfect"].value == pytest.approx(float(gap.mean()) / start.mean())
    assert srg["perfect"].value == pytest.approx(-srg["inverted"].value)
    assert srg["perfect"].low > srg["random"].high
    assert srg["inverted"].high < srg["random"].low
    for name in ("random", "constant"):
        assert srg[name].low < 0 < srg[name].high


def test_an_explanation_that_says_nothing_is_worth_nothing_on_average(linear, flipping):
    pixels = 0.5 + 0.5 * torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    images = pixels.expand(-1, 3, -1, -1)
    for name in ("random", "constant"):
        curves = measured(name, linear, images, flipping).curves["black"]
        value = float((area(curves.least, flipping.counts) - area(curves.most, flipping.counts))[:, 0].mean())
        assert abs(value) < 0.1  # the perfect one has 3


def test_scores(linear, bright):
    found = cluster_scores(linear, bright, torch.tensor([0, 0, 0, 1, 1, 1]))
    discriminant = bright[:, 0].sum((1, 2)) - 32
    torch.testing.assert_close(found[:3, 0], discriminant[:3])
    torch.testing.assert_close(found[3:, 0], -discriminant[3:])
    torch.testing.assert_close(found[:3, 1], torch.sigmoid(0.1 * discriminant[:3]))
    assert found[:, 2].tolist() == [1, 1, 1, 0, 0, 0]


def test_images_change_their_cluster_once_too_little_is_left(linear, bright, flipping):
    found = measured("perfect", linear, bright, flipping)
    curve = found.curves["black"].most
    assert torch.equal(curve[..., 2] == 1, curve[..., 0] > 0)
    evaluation = Evaluation({"perfect": found}, flipping.counts, 16, None, {}, {})
    assert evaluation.flipped("perfect", "black", "most").value == 1
    assert evaluation.mean_curve("perfect", "black", "most", "assigned")[0] == 1
    curve = evaluation.mean_curve("perfect", "black", "least", "discriminant")
    assert curve[0] == 1
    assert (np.diff(curve) < 0).all()


def test_masks(linear, bright, flipping):
    masks = torch.zeros(6, 8, 8, dtype=torch.bool)
    masks[1, :4], masks[4, 4:, 4:] = True, True
    inside = measured("perfect", linear, bright, flipping, masks).mask_agreement
    pixels = bright[:, 0]
    torch.testing.assert_close(
        inside.mass, torch.stack([pixels[1, :4].sum() / pixels[1].sum(), pixels[4, 4:, 4:].sum() / pixels[4].sum()])
    )
    assert measured("perfect", linear, bright, flipping, torch.zeros_like(masks)).mask_agreement is None


def test_the_densest_region_is_a_14th_of_the_image_wide(glyphs):
    explainer, images = glyphs
    heatmaps = torch.zeros(8, 32, 32)
    heatmaps[:, 3, 3] = 1.5  # the strongest pixel; squares of 2 by 2 around it have less than the other one
    heatmaps[:, 20:22, 20:22] = 0.5
    masks = torch.zeros(8, 32, 32, dtype=torch.bool)
    masks[:4, 20:22, 20:22] = True
    masks[4:, 3, 3] = True
    flipping = Flipping(8, [0, 8], {"black": BLACK})
    method = Method(lambda images, clusters, generator: heatmaps, 0)
    found = measure_method(method, explainer.model, images, torch.zeros(8, dtype=torch.long), flipping, masks)
    assert found.mask_agreement.hit.tolist() == [1] * 4 + [0] * 4
    assert found.mask_agreement.rank.tolist() == [0.75] * 4 + [1] * 4
    assert found.mask_agreement.mass.tolist() == pytest.approx([2 / 3.5] * 4 + [1.5 / 3.5] * 4)


def test_seconds_are_those_of_the_explanations_per_image(linear, bright, flipping, monkeypatch):
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr("whycluster.evaluation.measurement.time.perf_counter", lambda: next(clock))
    method, clusters = Method(EXPLANATIONS["perfect"], 1), assigned_clusters(linear, bright)
    assert measure_method(method, linear, bright, clusters, flipping, batch_size=4).seconds == 2 * 3 / 6


def test_batches_change_nothing_and_are_told(linear, bright, flipping):
    whole = measured("perfect", linear, bright, flipping)
    told = []
    method = Method(EXPLANATIONS["perfect"], 1)
    clusters = assigned_clusters(linear, bright, 4)
    apart = measure_method(method, linear, bright, clusters, flipping, batch_size=4, advance=told.append)
    torch.testing.assert_close(apart.curves["black"].most, whole.curves["black"].most)
    assert told == [4, 6]
