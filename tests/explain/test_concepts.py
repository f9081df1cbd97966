"""Concepts: relevance of channels, and what passes through one of them alone."""

import numpy as np
import pytest
import torch
import zennit.composites
from networks import network_of
from torch import nn
from zennit.attribution import Gradient

from whycluster.backbones import Backbone, Preprocessing, build_backbone
from whycluster.clustering.feature_steps import FeatureSettings
from whycluster.data import Digits, PreparedImages
from whycluster.explain import ClusterModel, Explainer, Target, parse_target
from whycluster.explain.concepts import (
    Box,
    concept_heatmaps,
    concept_heatmaps_of,
    feature_relevance,
    strongest_region,
)
from whycluster.heads import NeuralizedKernelKMeans, NeuralizedKMeans, NeuralizedLinear


def built(pool="avg", settings=None, layer=None, head=NeuralizedKMeans):
    """A model in float64."""
    backbone = build_backbone("glyphnet", "DEFAULT", pool=pool, layer=layer)
    photos = torch.rand(20, 3, 32, 32)
    steps = (settings or FeatureSettings()).fit([backbone(photos)], backbone.widths)
    features = steps(backbone(photos)).double()
    if head is NeuralizedKernelKMeans:
        made = head(features, torch.arange(20) % 4, gamma=3.0)
    elif head is NeuralizedLinear:
        made = head(features[:4], torch.rand(4, dtype=torch.float64))
    else:
        made = head(features[:4])
    return ClusterModel(backbone, made, steps=steps).double()


CASES = {
    "avg": {},
    "flatten": {"pool": "flatten"},
    "two layers": {"layer": ["features.3", "features"]},
    "components": {"settings": FeatureSettings(standardize=True, pca=6, whiten=True)},
    "kernel": {"head": NeuralizedKernelKMeans},
    "linear": {"head": NeuralizedLinear},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("target", ["assigned", "runner_up", "2:0"])
def test_conditional_heatmaps_of_all_channels_add_up_to_the_heatmap(case, target):
    model = built(**CASES[case])
    explainer, images = Explainer(model), torch.rand(3, 3, 32, 32, dtype=torch.float64)
    explanation = explainer.explain(images, target)
    n_channels = model.backbone.n_channels
    every = torch.arange(n_channels).expand(3, n_channels)
    (asked,) = parse_target(target, 4)
    found = concept_heatmaps(explainer, images, asked, every)
    scale = float(explanation.heatmap.abs().max())
    torch.testing.assert_close(found.sum(1), explanation.heatmap, rtol=0, atol=1e-12 * scale)
    assert float((found.abs().amax((2, 3)) > 1e-6 * scale).double().mean()) > 0.3  # not all through one channel


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("target", ["assigned", "2:0"])
def test_relevance_of_features_takes_no_pass_through_the_backbone(case, target):
    model = built(**CASES[case])
    explainer, images = Explainer(model), torch.rand(3, 3, 32, 32, dtype=torch.float64)
    explanation = explainer.explain(images, target)
    (asked,) = parse_target(target, 4)
    relevance = feature_relevance(explainer, model.backbone(images), asked)
    torch.testing.assert_close(model.backbone.channel_sums(relevance), explanation.concepts, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(explanation.concepts.sum(1), explanation.receipt.features, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(explanation.features, model.backbone(images), rtol=1e-9, atol=1e-12)


def test_each_image_has_channels_of_its_own():
    model = built()
    explainer, images = Explainer(model), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    channels = torch.tensor([[3, -1], [7, 5]])
    found = concept_heatmaps(explainer, images, Target("assigned"), channels)
    for row in range(2):
        alone = concept_heatmaps(explainer, images[[row]], Target("assigned"), channels[[row]])
        torch.testing.assert_close(found[row], alone[0], rtol=1e-9, atol=1e-14)
    assert (found[0, 1] == 0).all()  # there is no channel
    assert (found[1, 0] != found[1, 1]).any()


def test_zennit_with_a_mask_at_the_channel_gives_the_same():
    """Conditional relevance as zennit-crp computes it: gradients, which zennit turns into relevance, are masked."""
    network = network_of("vgg11").double().eval()
    preprocessing = Preprocessing(32, 32, (0.0,) * 3, (1.0,) * 3)
    backbone = Backbone(network, preprocessing, layer="features", pool="flatten")
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    features = backbone(images)
    head = NeuralizedKMeans(torch.stack([features[0], features[1], features.mean(0) / 2]))
    explainer = Explainer(ClusterModel(backbone, head), residual="norm")
    relevance = explainer.explain(images).concepts
    channels = relevance.abs().topk(3, 1).indices  # (2, 3)
    ours = concept_heatmaps(explainer, images, Target("assigned"), channels)

    composite = zennit.composites.EpsilonGammaBox(*(bound.double() for bound in backbone.bounds()))
    flat = nn.Sequential(network.features, nn.Flatten())
    for place in range(channels.shape[1]):
        masked = torch.zeros_like(relevance).scatter_(
            1, channels[:, [place]], relevance.gather(1, channels[:, [place]])
        )
        with Gradient(flat, composite) as attributor:
            _, theirs = attributor(images, masked)
        torch.testing.assert_close(ours[:, place], theirs.sum(1), rtol=0, atol=1e-8 * float(theirs.abs().max()))


def test_heatmaps_of_a_collection_name_their_images():
    model = built().float()
    explainer = Explainer(model)
    images = PreparedImages(Digits(limit=9), model.backbone.preprocessing)
    wanted = {5: [1, 2], 0: [4], 7: [0, 3, 9]}
    photos = torch.stack([image for _, image in images])
    clusters = (explainer.explain(photos).cluster.numpy() + (np.arange(9) == 5)) % 4  # one is given another one
    found = list(concept_heatmaps_of(explainer, images, clusters, wanted))
    assert sorted((one.row, one.channel) for one in found) == [(0, 4), (5, 1), (5, 2), (7, 0), (7, 3), (7, 9)]
    for one in found:
        pixels = images[one.row][1]
        np.testing.assert_array_equal(one.photo, pixels.permute(1, 2, 0))
        target = Target("given", int(clusters[one.row]))
        expected = concept_heatmaps(explainer, pixels[None], target, torch.tensor([[one.channel]]))[0, 0]
        np.testing.assert_allclose(one.heatmap, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max() + 1e-9))


@pytest.mark.parametrize(
    ("place", "box"), [((0, 0), Box(0, 0, 8)), ((23, 29), Box(16, 22, 8)), ((10, 15), Box(6, 11, 8))]
)
def test_a_region_lies_around_the_densest_place_and_inside(place, box):
    heatmap = np.full((24, 30), -1.0)
    heatmap[place] = 5
    heatmap[3, 20] = 1.0  # weaker
    assert strongest_region(heatmap) == box
    assert box.of(heatmap).shape == (8, 8)
    assert box.of(heatmap).max() == 5


def test_a_heatmap_without_positive_relevance_has_a_region_too():
    assert strongest_region(np.full((9, 12), -1.0)).side == 3
