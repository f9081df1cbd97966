import copy
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import spearmanr

from whycluster.evaluation.sanity import (
    discriminativity,
    randomization,
    receipts,
    sanity_checks,
    sensitivity,
    shuffle,
    unrelated,
)
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
    assert [stage[0] for stage in stages] == sorted({stage[0] for stage in stages})
    assert stages[0][0] == 0
    assert stages[-1][0] > 3
    for _, found in stages:
        assert found["size"].nanmean() < 0.4
        assert (found["size"] >= found["correlation"].abs() - 1e-12).all()
    assert torch.equal(explainer.explain(images).heatmap, before)


def correlations(before, after):
    """Spearman's, image by image."""
    return torch.tensor([spearmanr(*pair).statistic for pair in zip(before.flatten(1), after.flatten(1), strict=True)])


def heatmaps(explainer, images, clusters):
    return explainer.explain_targets(images, [Target("given", clusters)])[0].heatmap


def test_shuffled_features_are_those_of_shuffled_centroids(glyphs):
    explainer, images = glyphs
    clusters = torch.arange(8) % 4
    _, first = next(randomization(explainer, images, clusters, 3, generator()))
    head, draws, found = explainer.model.head, generator(), []
    for _ in range(3):
        order = torch.randperm(head.n_features, generator=draws)
        other = ClusterModel(
            explainer.model.backbone, NeuralizedKMeans(head.centroids[:, order.argsort()], beta=float(head.beta))
        )
        found.append(correlations(heatmaps(explainer, images, clusters), heatmaps(Explainer(other), images, clusters)))
    torch.testing.assert_close(first["correlation"], torch.stack(found).mean(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(first["size"], torch.stack(found).abs().mean(0), atol=1e-4, rtol=0)


def test_layers_are_shuffled_from_the_top(glyphs, monkeypatch):
    explainer, images = glyphs
    seen = []
    monkeypatch.setattr("whycluster.evaluation.sanity.shuffle", lambda layer, generator: seen.append(layer))
    stages = list(randomization(explainer, images[:2], torch.zeros(2, dtype=torch.long), 3, generator()))
    modules = list(explainer.model.backbone.network.modules())
    with_weights = [module for module in modules if list(module.parameters(recurse=False))]
    assert stages[-1][0] == len(with_weights)
    assert len(seen) == 3 * len(with_weights)
    for mine, theirs in zip(seen, reversed(with_weights), strict=False):  # the first stage's, of the first shuffle
        assert torch.equal(mine.weight, theirs.weight)
        if mine is seen[stages[1][0] - 1]:
            break


def test_an_explanation_that_ignores_the_weights_would_be_found_out(glyphs, monkeypatch):
    explainer, images = glyphs
    monkeypatch.setattr("whycluster.evaluation.sanity._heatmaps", lambda explainer, lrp, images, *_: images.sum(1))
    for _, stage in randomization(explainer, images, torch.zeros(8, dtype=torch.long), 3, generator()):
        torch.testing.assert_close(stage["size"], torch.ones(8, dtype=torch.float64))


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


def test_sensitivity_is_the_worst_of_four_draws_of_two_per_cent(glyphs):
    explainer, images = glyphs
    images = images.clone()
    images[:, :, :16] = images[:, :, :16].round()  # black and white, where noise would leave the range
    clusters = torch.arange(8) % 4
    found = sensitivity(explainer, images, clusters, generator())
    before, draws, changes, ranks = heatmaps(explainer, images, clusters), generator(), [], []
    for _ in range(4):
        noise = torch.empty(images.shape).uniform_(-0.02, 0.02, generator=draws)
        after = heatmaps(explainer, (images + noise).clamp(0, 1), clusters)
        changes.append((after - before).square().sum((1, 2)).sqrt() / before.square().sum((1, 2)).sqrt())
        ranks.append(correlations(before, after))
    torch.testing.assert_close(found["change"], torch.stack(changes).max(0).values, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found["correlation"], torch.stack(ranks).min(0).values, rtol=0, atol=1e-3)
    assert found["change"].median() < 1
    assert found["correlation"].median() > 0.5


def test_two_clusters_are_explained_by_opposite_heatmaps(glyphs):
    explainer, images = glyphs
    head = explainer.model.head
    two = Explainer(ClusterModel(explainer.model.backbone, NeuralizedKMeans(head.centroids[:2])))
    found = discriminativity(two, images)
    torch.testing.assert_close(found["runner_up"], -torch.ones(8, dtype=torch.float64), rtol=0, atol=1e-3)
    assert found["pairs"].isnan().all()  # there is one competitor only


def test_discriminativity_compares_clusters_and_pairs_of_competitors(glyphs):
    explainer, images = glyphs
    found = discriminativity(explainer, images)
    own, second, third, fourth = explainer.model(images).sort(descending=True, dim=1).indices.T
    of = {
        name: explainer.explain_targets(images, [Target(name, *asked)])[0].heatmap
        for name, asked in {
            "own": (own,),
            "runner-up": (second,),
            "second": (own, second),
            "third": (own, third),
            "fourth": (own, fourth),
        }.items()
    }
    expected = correlations(of["own"], of["runner-up"])
    torch.testing.assert_close(found["runner_up"], expected, atol=1e-4, rtol=0)
    pairs = (("second", "third"), ("second", "fourth"), ("third", "fourth"))
    expected = torch.stack([correlations(of[one], of[other]) for one, other in pairs]).mean(0)
    torch.testing.assert_close(found["pairs"], expected, atol=1e-4, rtol=0)


def test_receipts_are_shares_of_the_sum_and_the_worst_imbalance():
    """Of three images in two batches: discriminant, features, pixels, absorbed."""
    batches = {
        1: ((2.0, 8.0), (1.0, 7.0), (1.5, 9.0), (0.5, 1.0)),  # the second is out of balance by -2
        2: ((10.0,), (4.0,), (3.0,), (6.0,)),  # this one by +1
    }

    def explain_targets(images, targets):
        (target,) = targets
        assert (target.name, target.cluster) == ("assigned", None)
        return [SimpleNamespace(receipt=tuple(torch.tensor(column) for column in batches[images]))]

    found = receipts(SimpleNamespace(explain_targets=explain_targets), [1, 2])
    assert found == pytest.approx({"features": 12 / 20, "pixels": 13.5 / 20, "absorbed": 7.5 / 20, "imbalance": 2 / 8})


def test_receipts_of_an_explainer_balance(glyphs):
    explainer, images = glyphs
    found = receipts(explainer, [images[:5], images[5:]])
    assert found["pixels"] + found["absorbed"] == pytest.approx(1, abs=1e-4)
    assert found["imbalance"] < 1e-4


def test_batches_change_nothing_but_the_company_of_images(glyphs):
    explainer, images = glyphs
    clusters = explainer.model(images).argmax(1)
    whole, parts = (sanity_checks(explainer, images, clusters, 3, size) for size in (8, 4))
    assert whole["images"] == parts["images"] == 8
    for stage, other in zip(whole["randomised"], parts["randomised"], strict=True):
        assert stage["layers"] == other["layers"]
        for name in ("correlation", "size"):
            assert stage[name]["value"] == pytest.approx(other[name]["value"], abs=1e-3)
    for name in ("runner_up", "pairs"):
        figures = [one["discriminativity"][name]["value"] for one in (whole, parts)]
        assert figures[0] == pytest.approx(figures[1], abs=1e-3)
