import copy

import pytest
import torch
from scipy.stats import spearmanr

from whycluster.evaluation.sanity import discriminativity, randomization, receipts, sensitivity, shuffle, unrelated
from whycluster.explain import ClusterModel, Explainer, Target
from whycluster.heads import NeuralizedKMeans


def generator():
    return torch.Generator().manual_seed(0)


def test_shuffled_weights_keep_their_values():
    layer = torch.nn.BatchNorm2d(50)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.uniform_(layer.running_var, 1, 2)
    before = copy.deepcopy(layer)
    shuffle(layer, generator())
    for name in ("weight", "running_var"):
        now, was = getattr(layer, name), getattr(before, name)
        assert torch.equal(now.sort().values, was.sort().values)
        assert not torch.equal(now, was)


def test_explanations_fall_apart_with_the_weights_and_the_explainer_stays(glyphs):
    explainer, images = glyphs
    clusters = explainer.model(images).argmax(1)
    before = explainer.explain(images).heatmap
    stages = list(randomization(explainer, images, clusters, 3, generator()))
    assert [stage.layers for stage in stages] == sorted({stage.layers for stage in stages})
    assert stages[0].layers == 0
    assert stages[-1].layers > 3
    for stage in stages:
        assert stage.size.nanmean() < 0.4
        assert (stage.size >= stage.correlation.abs() - 1e-12).all()
    assert torch.equal(explainer.explain(images).heatmap, before)


def test_an_explanation_that_ignores_the_weights_would_be_found_out(glyphs, monkeypatch):
    explainer, images = glyphs
    monkeypatch.setattr("whycluster.evaluation.sanity._heatmaps", lambda explainer, lrp, images, *_: images.sum(1))
    for stage in randomization(explainer, images, torch.zeros(8, dtype=torch.long), 3, generator()):
        torch.testing.assert_close(stage.size, torch.ones(8, dtype=torch.float64))


def test_heatmaps_of_different_images_say_how_much_is_chance(glyphs, monkeypatch):
    explainer, images = glyphs
    clusters = explainer.model(images).argmax(1)
    found = unrelated(explainer, images, clusters)
    assert found.shape == (8,)
    assert 0 < found.mean() < 0.4
    ranks = [spearmanr(one.flatten(), other.flatten()).statistic for one, other in _pairs(explainer, images)]
    torch.testing.assert_close(found[0], torch.tensor(ranks).abs().mean())
    assert unrelated(explainer, images[:1], clusters[:1]).isnan().all()
    monkeypatch.setattr(
        "whycluster.evaluation.sanity._heatmaps", lambda explainer, lrp, images, *_: images[:1].expand_as(images).sum(1)
    )
    torch.testing.assert_close(unrelated(explainer, images, clusters), torch.ones(8, dtype=torch.float64))


def _pairs(explainer, images):
    """The first heatmap with each of those that it is compared with."""
    heatmaps = explainer.explain(images).heatmap
    return [(heatmaps[0], heatmaps[-shift]) for shift in range(1, 6)]


def test_sensitivity_is_small_where_the_explanation_is_smooth(glyphs):
    explainer, images = glyphs
    found = sensitivity(explainer, images, explainer.model(images).argmax(1), generator())
    assert (found.change > 0).all()
    assert found.change.median() < 1
    assert found.correlation.median() > 0.5


def test_two_clusters_are_explained_by_opposite_heatmaps(glyphs):
    explainer, images = glyphs
    head = explainer.model.head
    two = Explainer(ClusterModel(explainer.model.backbone, NeuralizedKMeans(head.centroids[:2])))
    found = discriminativity(two, images)
    torch.testing.assert_close(found.runner_up, -torch.ones(8, dtype=torch.float64), rtol=0, atol=1e-3)
    assert found.pairs.isnan().all()  # there is one competitor only


def test_discriminativity_asks_about_clusters_and_competitors(glyphs):
    explainer, images = glyphs
    found = discriminativity(explainer, images)
    assert found.runner_up.shape == found.pairs.shape == (8,)
    assert (found.pairs < 1).all()
    assert found.runner_up.mean() < found.pairs.mean()


def test_receipts(glyphs):
    explainer, images = glyphs
    found = receipts(explainer, [images[:5], images[5:]])
    receipt = explainer.explain_targets(images, [Target("assigned")])[0].receipt
    assert found["pixels"] == pytest.approx(float(receipt.pixels.sum() / receipt.discriminant.sum()))
    assert found["pixels"] + found["absorbed"] == pytest.approx(1, abs=1e-4)
    assert found["imbalance"] < 1e-4
