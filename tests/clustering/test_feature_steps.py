"""The feature steps, restated with scikit-learn and NumPy."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from whycluster.clustering.feature_steps import FeatureSettings, FeatureSteps, covariance

STEPS = {
    "nothing": ({"normalize": "none"}, ()),
    "l2": ({}, (Normalizer(),)),
    "standardize": ({"normalize": "none", "standardize": True}, (StandardScaler(),)),
    "pca": ({"normalize": "none", "pca": 4}, (PCA(4),)),
    "whiten": ({"normalize": "none", "pca": 4, "whiten": True}, (PCA(4, whiten=True),)),
    "all": (
        {"standardize": True, "pca": 4, "whiten": True},
        (StandardScaler(), PCA(4, whiten=True, svd_solver="full"), Normalizer()),
    ),
}


@pytest.fixture
def features():
    """Correlated features far from zero, the last of them constant, `(60, 7)` float32."""
    random = np.random.RandomState(0)
    mixed = random.randn(60, 5) * [9, 4, 2, 1, 0.5] @ random.randn(5, 6) + 30
    return torch.from_numpy(np.hstack([mixed, np.full((60, 1), 0.1)]).astype(np.float32))


@pytest.mark.parametrize("name", ["standardize", "all"])
def test_a_feature_that_was_constant_counts_when_it_is_not(features, name):
    settings, steps = STEPS[name]
    new = features.clone()
    new[:, -1] += torch.arange(60.0)
    wanted = make_pipeline(*steps).fit(features.double().numpy()).transform(new.double().numpy())
    found = FeatureSettings(**settings).fit([features], [7])(new).numpy()
    np.testing.assert_allclose(np.abs(found), np.abs(wanted), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", STEPS)
def test_steps_are_those_of_scikit_learn(features, name):
    settings, steps = STEPS[name]
    fitted = FeatureSettings(**settings).fit(features.split(17), [7])
    found = fitted(features)
    wanted = make_pipeline("passthrough", *steps).fit_transform(features.double().numpy())
    assert found.dtype == torch.float32
    assert fitted.n_features == found.shape[1]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5)


def test_a_model_in_float64_takes_the_same_steps(features):
    steps = FeatureSettings(standardize=True, pca=3).fit([features], [7])
    torch.testing.assert_close(steps.double()(features.double()).float(), steps.float()(features), rtol=1e-4, atol=1e-5)


def test_covariances_do_not_cancel_and_do_not_depend_on_blocks():
    rows = torch.rand(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1e6
    n_rows, mean, found = covariance(rows.split(7))
    exact = rows.numpy() - 1e6
    assert n_rows == 40
    np.testing.assert_allclose(mean - 1e6, exact.mean(0), rtol=1e-8)
    np.testing.assert_allclose(found, np.cov(exact.T, bias=True), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(covariance(rows.split(7), diagonal=True).covariance, found.diagonal(), rtol=1e-9)


def test_directions_have_their_largest_entry_positive(features):
    components = FeatureSettings(pca=5).fit([features], [7]).components
    assert (components.gather(1, components.abs().argmax(1, keepdim=True)) > 0).all()
    torch.testing.assert_close(components @ components.T, torch.eye(5), rtol=0, atol=1e-5)


def test_layers_count_alike():
    features = torch.tensor([[3.0, 4, 0.5, 0, 0], [0, 0, 0, 2, 0]])
    steps = FeatureSteps([2, 3])
    half = 0.5**0.5
    expected = torch.tensor([[0.6 * half, 0.8 * half, half, 0, 0], [0, 0, 0, 1, 0]])
    torch.testing.assert_close(steps(features), expected)
    assert torch.equal(FeatureSteps([2, 3], normalise=False)(features), features)


def test_zero_stays_zero_under_l2():
    assert not FeatureSettings().fit([torch.zeros(3, 2)], [2])(torch.zeros(3, 2)).any()


def test_equal_rows_have_a_defined_result_or_an_error():
    rows = torch.full((5, 3), 0.1)
    assert not FeatureSettings(standardize=True).fit([rows], [3])(rows).any()
    with pytest.raises(ValueError, match=r"features\.pca=2 .* which are the same for all images"):
        FeatureSettings(pca=2).fit([rows], [3])


def test_more_components_than_directions_are_refused(features):
    with pytest.raises(ValueError, match=r"features\.pca=6 .* vary in 5 directions only"):
        FeatureSettings(pca=6).fit([torch.cat([features[:, :5], features[:, :2]], 1)], [7])


@pytest.mark.parametrize("settings", [{"standardize": True}, {"pca": 1}])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_refused(features, settings, value):
    features[3, 2] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        FeatureSettings(**settings).fit([features], [7])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalize": "l1"}, r"features\.normalize='l1' is unknown; choose l2 or none"),
        ({"pca": 0}, r"features\.pca=0 should be a whole number >= 1"),
        ({"pca": 2.5}, r"features\.pca=2\.5 should"),
        ({"standardize": "no"}, r"features\.standardize='no' should be true or false"),
        ({"whiten": 1, "pca": 2}, r"features\.whiten=1 should be true or false"),
        ({"whiten": True}, r"set features\.pca"),
        ({"drop": 3}, r"features\.drop=3 should be a list of channels, such as \[12,87\], or null"),
        ({"drop": "12,87"}, r"features\.drop='12,87' should be a list"),
        ({"drop": [1, -2]}, r"a channel in features\.drop=-2 should be a whole number >= 0"),
        ({"drop": [1.5]}, r"features\.drop=1\.5 should be a whole number"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FeatureSettings(**settings)


def test_settings_that_do_not_fit_a_collection_are_refused():
    settings = FeatureSettings(pca=9)
    settings.check(10, 9, 9)
    with pytest.raises(
        ValueError, match=r"features\.pca=9 should be < the number of images, 9, and <= that of f.*, 30"
    ):
        settings.check(9, 30, 30)
    with pytest.raises(ValueError, match="that of features, 8"):
        settings.check(30, 8, 8)
    with pytest.raises(ValueError, match="at most 8192 features"):
        settings.check(100, 10_000, 10)


def test_dropped_channels_are_zero_before_all_other_steps(features):
    for name in ("nothing", "l2", "all"):
        settings, steps = STEPS[name]
        found = FeatureSettings(**settings, drop=[4, 1, 4]).fit(features.split(17), [7])(features)
        without = features.double().numpy() * [1, 0, 1, 1, 0, 1, 1]
        wanted = make_pipeline("passthrough", *steps).fit_transform(without)
        np.testing.assert_allclose(found.abs().numpy(), np.abs(wanted), rtol=1e-3, atol=1e-3)


def test_all_features_of_a_dropped_channel_are_zero(features):
    channels = torch.tensor([0, 0, 1, 1, 2, 2, 2])
    steps = FeatureSettings(normalize="none", drop=[1]).fit([features], [7], channels)
    assert torch.equal(steps(features), features * torch.tensor([1, 1, 0, 0, 1, 1, 1]))


def test_layers_are_normalised_without_what_is_dropped():
    features = torch.tensor([[3.0, 4, 0.5, 9, 0]])
    steps = FeatureSettings(drop=[0, 3]).fit([features], [2, 3])
    torch.testing.assert_close(steps(features), torch.tensor([[0, 0.5**0.5, 0.5**0.5, 0, 0]]))


def test_channels_that_do_not_exist_cannot_be_dropped():
    settings = FeatureSettings(drop=[0, 5])
    settings.check(10, 18, 6)
    with pytest.raises(ValueError, match=r"features\.drop=\[0, 5\] names the channel 5; the backbone has 5, 0 to 4"):
        settings.check(10, 15, 5)
    with pytest.raises(ValueError, match=r"features\.drop names all 2 channels of the backbone"):
        FeatureSettings(drop=[0, 1]).check(10, 6, 2)


def test_what_a_file_holds_makes_the_same_steps(features):
    steps = FeatureSettings(standardize=True, pca=3, drop=[2]).fit([features], [7])
    again = FeatureSteps(**steps.content())
    assert torch.equal(again(features), steps(features))
    assert (again.widths, again.normalise) == ([7], True)
