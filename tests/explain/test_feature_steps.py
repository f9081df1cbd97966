"""Relevance passes the feature steps as gradient times feature, with the norm as a constant."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from whycluster.backbones import build_backbone
from whycluster.clustering.feature_steps import FeatureSettings, FeatureSteps
from whycluster.evaluation.measurement import cluster_scores
from whycluster.evaluation.methods import gradient_times_input
from whycluster.explain import ClusterModel, Explainer
from whycluster.heads import NeuralizedKMeans, neuralize
from whycluster.lrp import LRP, EpsilonPlus

SETTINGS = {
    "l2": {},
    "standardize": {"normalize": "none", "standardize": True},
    "pca": {"normalize": "none", "pca": 5},
    "all": {"standardize": True, "pca": 5, "whiten": True},
    "drop": {"drop": [0, 3, 17]},
}


@pytest.fixture(scope="module")
def backbone():
    return build_backbone("glyphnet", "DEFAULT", layer=["features", "features.3"], pool="avg").double()


@pytest.fixture
def photos():
    return torch.rand(9, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def built(backbone, images, settings):
    """A model in float64 whose centroids are four of the images, moved a little."""
    features = backbone(images)
    steps = FeatureSettings(**settings).fit([features.float()], backbone.widths).double()
    z = steps(features)[:4]
    noise = torch.rand(z.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * z.std()
    noise = noise if steps.kept is None else noise * steps.kept  # no fitted centroid has what was dropped
    return ClusterModel(backbone, NeuralizedKMeans(z + noise, beta=torch.inf), steps=steps)


def relevance_of_features(model, features):
    """Gradient times feature of the hard discriminant of the assigned cluster, with all norms detached, `(N, D)`."""
    a = features.detach().requires_grad_()
    steps = model.steps
    x = a if steps.kept is None else a * steps.kept
    if steps.normalise:
        x = torch.cat([part / part.norm(dim=1, keepdim=True).detach() for part in x.split(steps.widths, 1)], 1)
    z = x if steps.mean is None else x - steps.mean
    z = z if steps.scale is None else z * steps.scale
    z = z if steps.components is None else z @ steps.components.T
    z = z / z.norm(dim=1, keepdim=True).detach() if steps.normalise else z
    nearest = (z[:, None] - model.head.centroids).square().sum(2).sort(1).values
    discriminant = nearest[:, 1] - nearest[:, 0]
    (gradient,) = torch.autograd.grad(discriminant.sum(), a)
    return discriminant.detach(), a.detach() * gradient


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("target", ["assigned", "pair"])
def test_relevance_is_gradient_times_feature(backbone, photos, name, target):
    model = built(backbone, photos, SETTINGS[name])
    features = backbone(photos)
    discriminant, relevance = relevance_of_features(model, features)
    explainer = Explainer(model, "epsilon_plus")
    if target == "assigned":
        explanation = explainer.explain(photos)
    else:  # against the runner-up alone, which is the same with a hard minimum
        own = [model.assign(model.features(image[None])) for image in photos]
        parts = [
            explainer.explain(image[None], f"{int(one.cluster)}:{int(one.runner_up)}")
            for image, one in zip(photos, own, strict=True)
        ]
        receipts = [torch.cat(column) for column in zip(*(part.receipt for part in parts), strict=True)]
        heatmap = torch.cat([part.heatmap for part in parts])
        explanation = parts[0]._replace(heatmap=heatmap, receipt=parts[0].receipt._make(receipts))
    receipt = explanation.receipt
    torch.testing.assert_close(receipt.discriminant, discriminant, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(receipt.features, relevance.sum(1), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(receipt.discriminant, receipt.pixels + receipt.absorbed, rtol=1e-8, atol=1e-10)
    network = LRP(backbone.network, EpsilonPlus(residual="norm"))
    below = network.attribute(backbone.normalise(photos), relevance).relevance.sum(1)
    torch.testing.assert_close(explanation.heatmap, below, rtol=1e-6, atol=1e-10)


def test_affine_steps_explain_as_a_pipeline_of_scikit_learn(backbone, photos):
    features = backbone(photos)
    pipeline = make_pipeline(StandardScaler(), PCA(5), KMeans(3, random_state=0)).fit(features.numpy())
    settings = FeatureSettings(normalize="none", standardize=True, pca=5)
    steps = settings.fit([features.float()], backbone.widths).double()
    torch.testing.assert_close(steps(features).numpy(), pipeline[:2].transform(features.numpy()), rtol=1e-4, atol=1e-4)
    centroids = torch.from_numpy(pipeline[-1].cluster_centers_)
    receipt = (
        Explainer(ClusterModel(backbone, NeuralizedKMeans(centroids), steps=steps), beta=2.0).explain(photos).receipt
    )
    whole = neuralize(pipeline, beta=2.0).attribute(features, rule="zero")
    torch.testing.assert_close(receipt.discriminant, whole.explained, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(receipt.features, whole.relevance.sum(1), rtol=1e-3, atol=1e-3)


def test_a_midpoint_rule_passes_a_norm_and_refuses_centred_features(backbone, photos):
    model = built(backbone, photos, {})
    receipt = Explainer(model, head_rule="midpoint").explain(photos).receipt
    torch.testing.assert_close(receipt.features, receipt.discriminant, rtol=1e-9, atol=1e-12)  # it conserves
    for name in ("standardize", "pca", "all"):
        with pytest.raises(ValueError, match="head_rule=midpoint is not defined behind features"):
            Explainer(built(backbone, photos, SETTINGS[name]), head_rule="midpoint")


@pytest.mark.parametrize("head_rule", ["zero", "midpoint"])
def test_dropped_channels_have_no_relevance(backbone, photos, head_rule):
    explanation = Explainer(built(backbone, photos, SETTINGS["drop"]), head_rule=head_rule).explain(photos)
    assert not explanation.concepts[:, [0, 3, 17]].any()
    assert (explanation.concepts != 0).sum(1).min() > 10


def test_the_table_of_rules_shows_the_steps(backbone, photos):
    lines = Explainer(built(backbone, photos, SETTINGS["all"])).describe().splitlines()
    steps = [line.split()[:3] for line in lines if line.startswith("steps.")]
    assert ["steps.linear", "Linear", "Epsilon(stabilizer=0)"] in steps
    assert ["steps.sub", "Shift", "Epsilon(stabilizer=0)"] in steps
    assert ["steps.mul", "mul", "pass"] in steps


def test_a_vector_of_zeros_gets_no_relevance(backbone):
    steps = FeatureSteps(backbone.widths)
    head = NeuralizedKMeans(torch.rand(3, sum(backbone.widths), dtype=torch.float64))
    model = ClusterModel(backbone, head, steps=steps)
    dead = ClusterModel(
        build_backbone("glyphnet", "DEFAULT", layer=["features", "features.3"], pool="avg"), head, steps=steps
    )
    for weights in dead.backbone.network.parameters():
        weights.zero_()
    explanation = Explainer(dead.double()).explain(torch.rand(2, 3, 32, 32))
    assert not explanation.heatmap.any()
    torch.testing.assert_close(explanation.receipt.absorbed, explanation.receipt.discriminant)
    assert model.features(torch.rand(1, 3, 32, 32)).any()


def test_evaluation_measures_the_whole_model(backbone, photos):
    model = built(backbone, photos, SETTINGS["all"])
    clusters = model(photos).argmax(1)
    scores = cluster_scores(model, photos, clusters)
    torch.testing.assert_close(scores[:, 0], model(photos).amax(1))
    pytest.importorskip("captum", reason="captum is not installed (whycluster[evaluation])")
    x = backbone.normalise(photos).requires_grad_()
    own = model.head(model.steps(backbone.network(x))).gather(1, clusters[:, None]).sum()
    expected = (torch.autograd.grad(own, x)[0] * x).sum(1).detach().float()
    found = gradient_times_input(model).explain(photos, clusters, torch.Generator())
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
