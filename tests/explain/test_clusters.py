"""What clusters are about, restated."""

import numpy as np
import pytest
import torch

from whycluster.backbones import build_backbone
from whycluster.clustering.feature_steps import FeatureSettings
from whycluster.clustering.features import FeatureStore
from whycluster.explain import ClusterModel, Explainer, clusters
from whycluster.explain.clusters import (
    Concept,
    Contrast,
    Membership,
    concept_relevance,
    deciding,
    describe_clusters,
    outliers,
    strongest,
)
from whycluster.heads import NeuralizedKMeans

N, K = 60, 4


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """A model, features and assignments of random images, and what is said of the clusters."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("features")
    backbone = build_backbone("glyphnet", "DEFAULT", pool="flatten")
    images = torch.rand(N, 3, 32, 32) * torch.linspace(0.2, 1, N)[:, None, None, None]
    images[:, :, :16] *= torch.rand(N, 3, 1, 1)
    raw = backbone(images)
    steps = FeatureSettings().fit([raw], backbone.widths)
    model = ClusterModel(backbone, NeuralizedKMeans(steps(raw)[[3, 20, 40, 55]]), steps=steps)
    explainer = Explainer(model)
    where = model.assign(steps(raw))
    features = FeatureStore.write(folder / "features.npy", [raw], N, backbone.n_features)
    concepts = FeatureStore.write(
        folder / "concepts.npy", concept_relevance(explainer, features, where.cluster.numpy()), N, backbone.n_channels
    )
    assigned = Membership(*(column.numpy() for column in (where.cluster, where.discriminant, where.runner_up)))
    return explainer, images, raw, assigned, concepts, describe_clusters(explainer, features, concepts, assigned)


def test_relevance_of_channels_is_that_of_the_explanations(described):
    explainer, images, _, _, concepts, _ = described
    expected = explainer.explain(images).concepts
    np.testing.assert_allclose(concepts.open(), expected, rtol=1e-3, atol=1e-6)


def test_images_are_named_by_distance_and_by_discriminant(described):
    _, _, raw, assigned, _, found = described
    z = torch.nn.functional.normalize(raw.double()).numpy()
    assert [one.cluster for one in found] == np.unique(assigned.cluster).tolist()
    for one in found:
        rows = np.flatnonzero(assigned.cluster == one.cluster)
        distances = np.linalg.norm(z[rows] - z[rows].mean(0), axis=1)
        assert one.prototypes == rows[np.argsort(distances)][:8].tolist()
        assert one.borderline == rows[np.argsort(assigned.discriminant[rows])][:8].tolist()


def test_concepts_are_the_channels_of_largest_mean_relevance(described):
    *_, assigned, concepts, found = described
    relevance = np.array(concepts.open(), dtype=np.float64)
    for one in found:
        rows = np.flatnonzero(assigned.cluster == one.cluster)
        mean = relevance[rows].mean(0)
        order = np.argsort(-mean)[:5]
        assert [concept.channel for concept in one.concepts] == order.tolist()
        np.testing.assert_allclose(
            [concept.share for concept in one.concepts], mean[order] / mean.clip(min=0).sum(), rtol=1e-5
        )
        decisive = {concept.channel for contrast in one.contrasts for concept in contrast.concepts[:3]}
        assert one.regions.keys() == {*order.tolist(), *decisive}
        for channel, shown in one.regions.items():
            strongest_rows = rows[np.argsort(-relevance[rows, channel], kind="stable")]
            assert shown == strongest_rows[:6].tolist()


def test_contrasts_explain_the_margin_between_two_clusters(described):
    explainer, images, raw, assigned, _, found = described
    z = torch.nn.functional.normalize(raw.double()).numpy()
    for one in found:
        rows = np.flatnonzero(assigned.cluster == one.cluster)
        assert [contrast.rival for contrast in one.contrasts] == [other.cluster for other in found if other != one]
        assert sum(contrast.lost for contrast in one.contrasts) == len(rows)
        for contrast in one.contrasts:
            expected = explainer.explain(images[rows], f"{one.cluster}:{contrast.rival}").concepts.double().mean(0)
            order = expected.argsort(descending=True)[:5].tolist()
            assert [concept.channel for concept in contrast.concepts] == order
            shares = (expected[order] / expected.clamp(min=0).sum()).numpy()
            np.testing.assert_allclose([concept.share for concept in contrast.concepts], shares, rtol=1e-3)
            assert contrast.lost == (assigned.runner_up[rows] == contrast.rival).sum()
            others = z[assigned.cluster == contrast.rival]
            assert contrast.distance == pytest.approx(np.linalg.norm(z[rows].mean(0) - others.mean(0)), rel=1e-5)


def test_of_many_clusters_those_that_matter_most_are_rivals(described, monkeypatch, tmp_path):
    explainer, _, raw, assigned, concepts, found = described
    monkeypatch.setattr(clusters, "MOST_RIVALS", 1)
    features = FeatureStore.write(tmp_path / "features.npy", [raw], N, explainer.model.backbone.n_features)
    few = describe_clusters(explainer, features, concepts, assigned)
    for one, shorter in zip(found, few, strict=True):
        assert shorter.contrasts == [max(one.contrasts, key=lambda contrast: (contrast.lost, -contrast.distance))]


def test_channels_that_decide_most_contrasts_are_shown(monkeypatch):
    monkeypatch.setattr(clusters, "EXAMPLES", 2)
    channels = [(1, 2, 3, 9), (4, 2, 3, 9), (5, 6, 3, 9), (7, 6, 3, 9)]
    contrasts = [Contrast(0, 1.0, 0, [Concept(channel, 0.1) for channel in some]) for some in channels]
    assert deciding(contrasts, [3]) == [2, 6]
    assert deciding([], [3]) == []


def test_an_image_that_is_there_for_other_reasons_is_an_outlier():
    random = np.random.RandomState(0)
    relevance = np.abs(random.normal(1, 0.1, (40, 12)))
    relevance[:, 6:] *= 0.05
    relevance[17] = relevance[17, ::-1]  # through the other half of the channels
    (found, score), *others = outliers(relevance * random.uniform(0.5, 2, (40, 1)))
    assert found == 17
    assert score > 3.5
    assert len(others) <= 2


@pytest.mark.parametrize(
    "relevance",
    [np.ones((20, 5)), np.zeros((20, 5)), np.random.RandomState(0).rand(5, 4), np.zeros((0, 4))],
    ids=["alike", "nothing", "few", "none"],
)
def test_there_are_no_outliers_where_nothing_can_be_told(relevance):
    assert outliers(relevance) == []


def test_outliers_of_a_normal_cluster_are_rare():
    random = np.random.RandomState(1)
    counts = [len(outliers(random.normal(1, 0.3, (50, 20)))) for _ in range(40)]
    assert np.mean(counts) < 0.5


def test_channels_against_the_cluster_are_not_named():
    assert strongest(np.array([-3.0, 0.0, 1.0])) == [Concept(2, 1.0)]
    assert strongest(np.array([1.0, -9.0, 3.0])) == [Concept(2, 0.75), Concept(0, 0.25)]
    assert strongest(-np.ones(3)) == []
    assert strongest(np.zeros(3)) == []
