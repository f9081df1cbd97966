import numpy as np
import pytest
import torch

from whycluster.backbones import build_backbone
from whycluster.explain import ClusterModel, Explainer
from whycluster.explain import clusters as module
from whycluster.heads import NeuralizedKMeans


@pytest.fixture(scope="module")
def explainer_and_images():
    torch.manual_seed(0)
    backbone = build_backbone("glyphnet", "DEFAULT", pool="flatten")
    images = torch.rand(20, 3, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    with torch.no_grad():
        centroids = backbone(images[:3])
    return Explainer(ClusterModel(backbone, NeuralizedKMeans(centroids, beta=0.02))), images


def test_clusters_of_images_are_described(explainer_and_images):
    """Restated with NumPy, from explanations of all images at once."""
    explainer, images = explainer_and_images
    explanation = explainer.explain(images)
    features, cluster = explanation.features.double().numpy(), explanation.cluster.numpy()
    found = explainer.describe_clusters(images)
    assert [one.cluster for one in found] == np.unique(cluster).tolist()
    for one in found:
        rows = np.flatnonzero(cluster == one.cluster)
        distance = np.linalg.norm(features[rows] - features[rows].mean(0), axis=1)
        assert one.prototypes == rows[distance.argsort(kind="stable")][:8].tolist()
        discriminant = explanation.discriminant.numpy()[rows]
        assert one.borderline == rows[discriminant.argsort(kind="stable")][:8].tolist()
        relevance = explanation.concepts.double().numpy()[rows].mean(0)
        top = one.concepts[0]
        assert top.channel == relevance.argmax()
        assert top.share == pytest.approx(relevance.max() / relevance.clip(min=0).sum(), rel=1e-4)


def test_the_batches_change_nothing(explainer_and_images, monkeypatch):
    explainer, images = explainer_and_images
    whole = explainer.describe_clusters(images)
    monkeypatch.setattr(module, "BATCH_SIZE", 3)
    parts = explainer.describe_clusters(list(images))
    for one, other in zip(parts, whole, strict=True):
        assert (one.cluster, one.prototypes, one.borderline) == (other.cluster, other.prototypes, other.borderline)
        assert [concept.channel for concept in one.concepts] == [concept.channel for concept in other.concepts]


def test_no_images_are_refused(explainer_and_images):
    with pytest.raises(ValueError, match="there are no images to explain"):
        explainer_and_images[0].describe_clusters(torch.empty(0, 3, 32, 32))
    with pytest.raises(ValueError, match="images are given as int"):
        explainer_and_images[0].describe_clusters(5)
