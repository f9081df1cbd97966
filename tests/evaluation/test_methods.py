import pytest
import torch

from whycluster.evaluation.methods import BASELINES, WINDOWS, baseline, of_explainer
from whycluster.explain import Explainer


def explained(method, images, clusters=None, seed=0):
    clusters = torch.zeros(len(images), dtype=torch.long) if clusters is None else clusters
    return method.explain(images, clusters, torch.Generator().manual_seed(seed))


def test_ours_is_the_explainers(glyphs):
    explainer, images = glyphs
    expected = explainer.explain(images, "2")
    assert torch.equal(explained(of_explainer(explainer), images, torch.full((8,), 2)), expected.heatmap)


# The model `linear` is the sum of all pixels, over three colours of a third each.
EXPECTED = {
    "gradient_squared": lambda pixels: torch.full_like(pixels, 1 / 3),
    "smoothgrad": lambda pixels: torch.full_like(pixels, 1 / 3),
    "gradient_times_input": lambda pixels: pixels,
    "integrated_gradients": lambda pixels: pixels,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_gradients_of_a_linear_model(name, linear, bright):
    torch.testing.assert_close(explained(baseline(name, linear), bright), EXPECTED[name](bright[:, 0]).float())


def test_occlusion_of_a_linear_model_is_the_brightness_of_each_window(linear, bright):
    heatmaps = explained(baseline("occlusion", linear), bright)
    side = -(-8 // WINDOWS)
    for row in range(0, 8, side):
        for column in range(0, 8, side):
            window = (slice(None), slice(row, row + side), slice(column, column + side))
            total = bright[:, 0][window].sum((1, 2))
            share = heatmaps[window] / total.float()[:, None, None]
            torch.testing.assert_close(share, share[:1, :1, :1].expand_as(share))  # captum sums over the colours


def test_the_blob_is_highest_in_the_middle(linear):
    heatmap = explained(baseline("blob", linear), torch.zeros(1, 3, 9, 7))[0]
    assert heatmap.argmax() == 4 * 7 + 3
    torch.testing.assert_close(heatmap, heatmap.flip(0, 1))


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


def test_an_unknown_baseline(glyphs):
    with pytest.raises(ValueError, match="baseline 'lime' is unknown; choose from random, blob"):
        baseline("lime", glyphs[0].model)


def test_without_captum(glyphs, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "captum.attr", None)
    monkeypatch.setitem(__import__("sys").modules, "captum", None)
    assert baseline("random", glyphs[0].model).passes == 0
    with pytest.raises(ValueError, match=r"'occlusion' wants captum: pip install 'whycluster\[evaluation\]'"):
        baseline("occlusion", glyphs[0].model)
