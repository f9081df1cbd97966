import numpy as np
import pytest
import torch

from whycluster.evaluation.methods import BASELINES, baseline, explainer_method
from whycluster.explain import Explainer


def explained(method, images, clusters=None, seed=0):
    clusters = torch.zeros(len(images), dtype=torch.long) if clusters is None else clusters
    return method.explain(images, clusters, torch.Generator().manual_seed(seed))


def test_ours_is_the_explainers(glyphs):
    explainer, images = glyphs
    expected = explainer.explain(images, "2")
    assert torch.equal(explained(explainer_method(explainer), images, torch.full((8,), 2)), expected.heatmap)


MEAN, STD = (torch.tensor(values).double().view(3, 1, 1) for values in ((0.3, 0.4, 0.6), (0.1, 0.2, 0.5)))
CLUSTERS = torch.tensor([0, 1, 2, 0, 1, 2])


def gradient(model, x, clusters):
    """The gradient of each image's discriminant with respect to normalised pixels."""
    x = x.detach().requires_grad_()
    discriminants = model.head(model.backbone.network(x))
    return torch.autograd.grad(sum(discriminants[n, cluster] for n, cluster in enumerate(clusters)), x)[0]


def squared_gradient(model, x, clusters):
    return gradient(model, x, clusters) ** 2


def gradient_times_input(model, x, clusters):
    return gradient(model, x, clusters) * x


def smoothgrad(model, x, clusters):
    """Noise of 15 % of the range from black to white, its mean over the colours; 16 samples (Smilkov et al. 2017)."""
    deviation = 0.15 * float((1 / STD).mean())
    torch.manual_seed(int(torch.randint(2**31, (), generator=torch.Generator().manual_seed(0))))
    noisy = [x + torch.normal(0, torch.full(x.shape, deviation)) for _ in range(16)]  # in float32, as captum draws it
    return sum(gradient(model, one, clusters) ** 2 for one in noisy) / 16


def integrated_gradients(model, x, clusters):
    """The integral by the Gauss-Legendre rule of 16 points; 0 is the mean colour."""
    points, weights = np.polynomial.legendre.leggauss(16)
    return x * sum(w / 2 * gradient(model, (1 + a) / 2 * x, clusters) for a, w in zip(points, weights, strict=True))


def occlusion(model, x, clusters):
    """Squares of 2 pixels, as 7 in a row would be smaller than that; the fall is written to each of the colours."""
    fall = torch.zeros_like(x)
    for row in range(0, 8, 2):
        for column in range(0, 8, 2):
            square = (..., slice(row, row + 2), slice(column, column + 2))
            hidden = x.clone()
            hidden[square] = 0
            whole, without = (
                model.head(model.backbone.network(one)).gather(1, clusters[:, None]) for one in (x, hidden)
            )
            fall[square] = (whole - without)[:, :, None, None]
    return fall


RESTATED = {
    "gradient_squared": squared_gradient,
    "gradient_times_input": gradient_times_input,
    "smoothgrad": smoothgrad,
    "integrated_gradients": integrated_gradients,
    "occlusion": occlusion,
}


@pytest.mark.parametrize("name", RESTATED)
def test_baselines_of_a_nonlinear_model(name, curved):
    images = torch.rand(6, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = RESTATED[name](curved, (images - MEAN) / STD, CLUSTERS).detach().sum(1).float()
    torch.testing.assert_close(explained(baseline(name, curved), images, CLUSTERS), expected)
    assert expected.abs().amax((1, 2)).min() > 1e-3


def test_smoothgrad_and_integrated_gradients_are_not_the_gradient(curved):
    """What is tested above can tell them apart."""
    images = torch.rand(6, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for simple, better in (("gradient_squared", "smoothgrad"), ("gradient_times_input", "integrated_gradients")):
        one, other = (explained(baseline(name, curved), images, CLUSTERS) for name in (simple, better))
        assert (one - other).norm() > 0.1 * one.norm()


def test_gradients_of_a_linear_model_are_its_weights(linear, bright):
    """It is the sum of all pixels, over three colours of a third each."""
    pixels = bright[:, 0].float()
    for name in ("gradient_squared", "smoothgrad"):
        torch.testing.assert_close(explained(baseline(name, linear), bright), torch.full_like(pixels, 1 / 3))
    for name in ("gradient_times_input", "integrated_gradients"):
        torch.testing.assert_close(explained(baseline(name, linear), bright), pixels)


def test_the_blob_is_highest_in_the_middle(linear):
    heatmap = explained(baseline("blob", linear), torch.zeros(1, 3, 9, 7))[0]
    y, x = np.mgrid[-0.5:0.5:9j, -0.5:0.5:7j]
    np.testing.assert_allclose(heatmap, np.exp(-(x**2 + y**2) / (2 * 0.25**2)), rtol=1e-5)


def test_the_same_draws_of_the_same_seed(glyphs):
    explainer, images = glyphs
    for name in ("random", "smoothgrad"):
        method = baseline(name, explainer.model)
        assert torch.equal(explained(method, images), explained(method, images))
        assert not torch.equal(explained(method, images), explained(method, images, seed=1))


@pytest.mark.parametrize("name", BASELINES)
def test_costs_are_counted(name, glyphs):
    explainer, images = glyphs
    passes = 0

    def count(module, inputs, output):
        nonlocal passes
        passes += len(output)
        if output.requires_grad:
            output.register_hook(count_back)

    def count_back(gradient):
        nonlocal passes
        passes += len(gradient)

    method = baseline(name, explainer.model)
    handle = explainer.model.backbone.network.register_forward_hook(count)
    try:
        explained(method, images)
    finally:
        handle.remove()
    assert passes == method.passes * len(images)


def test_nothing_is_left_behind(glyphs):
    explainer, images = glyphs
    state = torch.get_rng_state()
    before = Explainer(explainer.model).explain(images).heatmap
    for name in BASELINES:
        heatmaps = explained(baseline(name, explainer.model), images)
        assert heatmaps.shape == (8, 32, 32)
        assert not heatmaps.requires_grad
        assert heatmaps.isfinite().all()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in explainer.model.parameters())
    assert torch.equal(Explainer(explainer.model).explain(images).heatmap, before)


def test_without_captum(glyphs, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "captum.attr", None)
    monkeypatch.setitem(__import__("sys").modules, "captum", None)
    assert baseline("random", glyphs[0].model).passes == 0
    with pytest.raises(ValueError, match=r"'occlusion' needs captum: pip install 'whycluster\[evaluation\]'"):
        baseline("occlusion", glyphs[0].model)
