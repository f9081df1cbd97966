import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from whycluster.backbones import Backbone, Preprocessing, build_backbone
from whycluster.data import UnreadableImageError
from whycluster.explain import ClusterModel, Explainer, parse_target
from whycluster.heads import NeuralizedKMeans
from whycluster.lrp import Add, Convolution, EpsilonPlus
from whycluster.lrp.composites import COMPOSITES

EPSILON, GAMMA = 1e-6, 0.25


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d(1)

    def forward(self, images):
        return self.avgpool(self.features(images)).flatten(1)


@pytest.fixture
def tiny():
    """Everything in float64, for images of 6×6 pixels."""
    torch.manual_seed(0)
    preprocessing = Preprocessing(6, 6, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    backbone = Backbone(Tiny().double(), preprocessing)
    images = torch.rand(20, 3, 6, 6, dtype=torch.float64)
    centroids = backbone(images)[[0, 7, 9, 12]] + 0.01 * torch.rand(4, 6, dtype=torch.float64)
    return ClusterModel(backbone, NeuralizedKMeans(centroids, beta=5.0)), images[3:8]


def dense(convolution, shape):
    """A convolution as a matrix `(out, in)` and a bias `(out,)`, for one image of this shape."""
    n = int(np.prod(shape))
    with torch.no_grad():
        bias = convolution(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
        columns = convolution(torch.eye(n, dtype=torch.float64).reshape(n, *shape)).flatten(1)
    return (columns - bias).T.numpy(), bias.numpy()


def share(contributions, bias, relevance):
    """Relevance of outputs handed on in proportion to contributions `(out, in)`, output by output."""
    received = np.zeros(contributions.shape[1])
    for j, r in enumerate(relevance):
        z = contributions[j].sum() + bias[j]
        if z != 0:
            received += contributions[j] / (z + np.copysign(EPSILON, z)) * r
    return received


def head_relevance(a, mu, c, competitors, beta, rule):
    """The paper's two layers, competitor by competitor; `w_k = 2 (mu_c - mu_k)`, `b_k = |mu_k|² - |mu_c|²`."""
    h = {k: 2 * (mu[c] - mu[k]) @ a + mu[k] @ mu[k] - mu[c] @ mu[c] for k in competitors}
    f = min(h.values())
    weight = {k: np.exp(-beta * (h[k] - f)) for k in competitors}
    relevance = np.zeros_like(a)
    for k in competitors:
        border = (mu[c] + mu[k]) / 2 if rule == "midpoint" else 0
        denominator = np.copysign(max(abs(h[k]), 0.01 * abs(f)), h[k])
        relevance += f * weight[k] / sum(weight.values()) * 2 * (mu[c] - mu[k]) * (a - border) / denominator
    return f, relevance


def restated(model, image, c, competitors, rule, beta=5.0):
    """The whole chain for one image, from pixels `(3, H, W)` to the heatmap."""
    backbone = model.backbone
    first, _, second, _ = [copy.deepcopy(m) for m in Tiny().double().features]
    layers = [p.detach() for p in backbone.network.parameters()]
    first.weight.data, first.bias.data, second.weight.data, second.bias.data = layers
    mean, std = (np.array(v).reshape(3, 1, 1) for v in ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)))
    x = ((image.numpy() - mean) / std).ravel()
    low, high = (np.broadcast_to((v - mean) / std, (3, 6, 6)).ravel() for v in (0, 1))
    w1, b1 = dense(first, (3, 6, 6))
    w2, b2 = dense(second, (4, 6, 6))
    y1 = np.maximum(w1 @ x + b1, 0)
    y2 = np.maximum(w2 @ y1 + b2, 0)
    pool = np.kron(np.eye(6), np.full(16, 1 / 16))  # (6, 6·16)
    f, relevance = head_relevance(pool @ y2, model.head.centroids.numpy(), c, competitors, beta, rule)
    relevance = share(pool * y2, np.zeros(6), relevance)
    relevance = share(
        (w2 + GAMMA * w2.clip(min=0)) * y1,  # behind a ReLU inputs are not negative, and only z > 0 has relevance
        b2 + GAMMA * b2.clip(min=0),
        np.where(y2 > 0, relevance, 0),
    )
    box = w1 * x - w1.clip(min=0) * low - w1.clip(max=0) * high
    relevance = share(box, np.zeros(len(b1)), relevance)
    return f, relevance.reshape(3, 6, 6).sum(0)


@pytest.mark.parametrize("rule", ["zero", "midpoint"])
@pytest.mark.parametrize("target", ["assigned", "runner_up", "2", "1:3"])
def test_the_whole_chain_restated(tiny, rule, target):
    model, images = tiny
    assigned = model(images)
    explanation = Explainer(model, head_rule=rule).explain(images, target)
    for n, image in enumerate(images):
        order = assigned[n].argsort(descending=True).tolist()
        c = {"assigned": order[0], "runner_up": order[1], "2": 2, "1:3": 1}[target]
        competitors = [3] if target == "1:3" else [k for k in range(4) if k != c]
        f, heatmap = restated(model, image, c, competitors, rule)
        assert int(explanation.target[n]) == c
        assert int(explanation.cluster[n]) == order[0]
        np.testing.assert_allclose(float(explanation.discriminant[n]), f, rtol=1e-9)
        np.testing.assert_allclose(explanation.heatmap[n], heatmap, rtol=1e-7, atol=1e-9 * np.abs(heatmap).max())


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("rule", ["zero", "midpoint"])
@pytest.mark.parametrize("target", ["assigned", "runner_up", "1", "1:0"])
def test_receipts_add_up(model, images, composite, rule, target):
    explanation = Explainer(model, composite, rule).explain(images, target)
    receipt = explanation.receipt
    scale = receipt.discriminant.abs() + receipt.features.abs() + receipt.absorbed.abs()
    missing = (receipt.discriminant - receipt.pixels - receipt.absorbed).abs()
    assert (missing <= 1e-4 * scale).all()
    torch.testing.assert_close(explanation.heatmap.sum((1, 2)), receipt.pixels.float(), rtol=1e-3, atol=1e-3)
    (chosen,) = parse_target(target, 4)
    head = model.head.attribute(model.backbone(images), explanation.target, chosen.against, rule)
    torch.testing.assert_close(
        receipt.features.float(), head.relevance.sum(1), rtol=1e-3, atol=1e-4 * float(scale.max())
    )
    torch.testing.assert_close(receipt.discriminant, head.explained, rtol=1e-4, atol=1e-4)


def test_targets_are_consistent_with_the_head(model, images):
    explainer = Explainer(model)
    discriminants = model(images)
    order = discriminants.argsort(1, descending=True)
    assigned, runner_up, third, pair = (explainer.explain(images, t) for t in ("assigned", "runner_up", 2, "2:0"))
    for explanation in (assigned, runner_up, third, pair):
        assert torch.equal(explanation.cluster, order[:, 0])
        assert torch.equal(explanation.assignment.runner_up, order[:, 1])
    assert torch.equal(assigned.target, order[:, 0])
    assert torch.equal(runner_up.target, order[:, 1])
    assert third.target.tolist() == pair.target.tolist() == [2] * len(images)
    for explanation in (assigned, runner_up, third):
        expected = discriminants.gather(1, explanation.target[:, None])[:, 0]
        torch.testing.assert_close(explanation.discriminant, expected, rtol=1e-4, atol=1e-4)
    distances = torch.cdist(model.backbone(images), model.head.centroids).square()
    torch.testing.assert_close(pair.discriminant, distances[:, 0] - distances[:, 2], rtol=1e-3, atol=1e-2)


def same(one, other, **tolerance):
    for ours, theirs in zip(flattened(one), flattened(other), strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


def flattened(explanation):
    return [explanation.target, explanation.heatmap, *explanation.receipt, *explanation.assignment]


def test_explain_all_is_one_cluster_after_another(model, images):
    explainer = Explainer(model)
    every = explainer.explain_all(images)
    assert len(every) == 4
    for cluster, explanation in enumerate(every):
        same(explanation, explainer.explain(images, cluster), rtol=0, atol=0)


def test_for_all_clusters_each_layer_is_run_only_once(model, images, monkeypatch):
    explainer, runs, forward = Explainer(model), [], Convolution.forward
    monkeypatch.setattr(Convolution, "forward", lambda layer, xs: runs.append(layer) or forward(layer, xs))
    explainer.explain_all(images)
    assert len(runs) == 6
    assert len(set(runs)) == 6


def test_all_ways_to_give_an_image_agree(model, images, photos):
    explainer = Explainer(model)
    expected = explainer.explain(images)
    files = [photos / f"{number}.png" for number in range(len(images))]
    pictures = [Image.open(file) for file in files]
    for given in (files, [str(file) for file in files], pictures, tuple(pictures), [*files[:3], *pictures[3:]]):
        same(explainer.explain(given), expected, rtol=0, atol=0)
    same(explainer.explain(images.float() / 255), expected, rtol=1e-4, atol=1e-5)
    same(explainer.explain(images.double() / 255), expected, rtol=1e-4, atol=1e-5)


def test_arrays_and_lists_are_as_one_tensor(model, images):
    explainer = Explainer(model)
    expected = explainer.explain(images)
    array = images.numpy()
    frozen = array.copy()
    frozen.flags.writeable = False
    flipped = np.ascontiguousarray(array[..., ::-1])[..., ::-1]  # negative strides, the same values
    for given in (array, frozen, flipped, list(images), tuple(images), list(array), [array[0], *images[1:]]):
        same(explainer.explain(given), expected, rtol=0, atol=0)
    floats = explainer.explain(images.float() / 255)
    big_endian = (array / np.float32(255)).astype(">f4")
    same(explainer.explain(big_endian), floats, rtol=1e-4, atol=1e-5)
    many = [image for _ in range(3) for image in images]  # more than one batch
    assert torch.equal(explainer.explain(many).cluster, expected.cluster.repeat(3))


def test_an_array_of_paths(model, images, photos):
    files = np.array([str(photos / f"{number}.png") for number in range(len(images))])
    same(Explainer(model).explain(files), Explainer(model).explain(images), rtol=0, atol=0)


def test_pictures_are_prepared_as_files_are(model, images, tmp_path):
    rgba = Image.fromarray(images[0].permute(1, 2, 0).numpy()).convert("RGBA").resize((70, 40))
    rgba.putalpha(Image.linear_gradient("L").resize(rgba.size))
    deep = Image.fromarray(np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64))
    for number, picture in enumerate((rgba, deep)):
        picture.save(tmp_path / f"{number}.png")
        from_file = Explainer(model).explain([tmp_path / f"{number}.png"])
        assert from_file.heatmap.shape == (1, 32, 32)
        same(Explainer(model).explain([picture]), from_file, rtol=0, atol=0)


def test_several_batches_are_as_one_image_after_another(tiny):
    model, images = tiny
    many = torch.cat([images * share for share in (1, 0.9, 0.8, 0.5)])[:18]
    explainer = Explainer(model)
    whole = explainer.explain(many, "runner_up")
    assert whole.heatmap.shape == (18, 6, 6)
    for n in range(18):
        alone = explainer.explain(many[n : n + 1], "runner_up")
        same(alone, one_of(whole, n), rtol=1e-9, atol=1e-12)


def one_of(explanation, n):
    receipt, assignment = explanation.receipt, explanation.assignment
    return explanation._replace(
        target=explanation.target[n : n + 1],
        heatmap=explanation.heatmap[n : n + 1],
        receipt=type(receipt)(*(column[n : n + 1] for column in receipt)),
        assignment=type(assignment)(*(column[n : n + 1] for column in assignment)),
    )


def test_rule_and_stiffness_matter(model, images):
    heatmaps = {
        (rule, beta): Explainer(model, head_rule=rule, beta=beta).explain(images).heatmap
        for rule, beta in [("auto", None), ("zero", None), ("midpoint", None), ("zero", 0.0), ("zero", torch.inf)]
    }
    usual = heatmaps.pop(("zero", None))
    assert torch.equal(heatmaps.pop(("auto", None)), usual)
    for setting, heatmap in heatmaps.items():
        assert heatmap.isfinite().all(), setting
        assert (heatmap - usual).abs().max() > 1e-3 * usual.abs().max(), setting


def test_infinite_stiffness_explains_against_the_runner_up_alone(model, images):
    explanation = Explainer(model, beta=torch.inf).explain(images[:1])
    pair = f"{int(explanation.cluster)}:{int(explanation.assignment.runner_up)}"
    same(Explainer(model).explain(images[:1], pair), explanation, rtol=1e-5, atol=1e-6)


def test_a_composite_can_be_handed_in(model, images):
    built = Explainer(model, EpsilonPlus()).explain(images)
    same(built, Explainer(model, "epsilon_plus").explain(images), rtol=0, atol=0)
    assert not torch.equal(built.heatmap, Explainer(model).explain(images).heatmap)


def test_a_second_architecture():
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="random weights"):
        backbone = build_backbone("squeezenet1_0", None)
    images = torch.rand(2, 3, 64, 64)
    features = backbone(images)
    spread = (features[0] - features[1]).square().sum()
    model = ClusterModel(backbone, NeuralizedKMeans(features, beta=1 / float(spread)))
    explanation = Explainer(model).explain(images)
    assert explanation.cluster.tolist() == [0, 1]
    assert explanation.heatmap.shape == (2, 64, 64)
    receipt = explanation.receipt
    scale = receipt.features.abs() + receipt.absorbed.abs()
    assert ((receipt.discriminant - receipt.pixels - receipt.absorbed).abs() <= 1e-4 * scale).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head_rule": "gamma"}, "head_rule='gamma' is unknown; choose auto, zero or midpoint"),
        ({"beta": -1.0}, "beta=-1.0 should be a number >= 0"),
        ({"beta": float("nan")}, "beta=nan should be a number >= 0"),
        ({"composite": "epsilon"}, "composite='epsilon' is unknown; choose from epsilon_gamma_box"),
    ],
)
def test_unknown_settings_are_refused(model, settings, message):
    with pytest.raises(ValueError, match=message):
        Explainer(model, **settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "there are no images to explain"),
        (torch.zeros(0, 3, 32, 32), "there are no images to explain"),
        (torch.zeros(3, 32, 32), r"shape \(3, 32, 32\) should have the shape \(N, 3, H, W\)"),
        (torch.zeros(2, 1, 32, 32), r"shape \(2, 1, 32, 32\) should have"),
        (torch.zeros(1, 3, 64, 64), r"features of shape .* do not fit this model"),
        (torch.full((1, 3, 32, 32), 200.0), "float32 from 200 to 200 should be uint8, or floats from 0 to 1"),
        (torch.linspace(-2, 2, 3072).view(1, 3, 32, 32), "from -2 to 2 should be uint8"),
        (torch.full((1, 3, 32, 32), torch.nan), "from nan to nan should be uint8"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.int64), "int64 from 0 to 0 should be uint8"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.bool), "bool from 0 to 0 should be uint8"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.complex64), "complex64 from 0 to 0 should be uint8"),
        (torch.zeros(2, 3, 0, 32), r"shape \(2, 3, 0, 32\) have no pixels"),
        (torch.zeros(2, 3, 32, 0, dtype=torch.uint8), r"shape \(2, 3, 32, 0\) have no pixels"),
        (np.zeros((2, 3, 0, 32)), r"shape \(2, 3, 0, 32\) have no pixels"),
        (np.zeros((0, 3, 32, 32)), "there are no images to explain"),
        (np.zeros((2, 32, 32, 3)), r"shape \(2, 32, 32, 3\) should have the shape \(N, 3, H, W\)"),
        (np.zeros((2, 3, 32, 32), dtype=np.uint16), "uint16 from 0 to 0 should be uint8"),
        (np.array(["a"] * 3).reshape(1, 3, 1, 1), "images of type <U1 should be uint8"),
        ([torch.zeros(32, 32, 3)], r"image of shape \(32, 32, 3\) in a list should have the shape \(3, H, W\)"),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)], r"images of several shapes, .* should all have the same"),
        ([torch.zeros(3, 8, 8), "photo.png"], "tensors and other images are mixed in one list"),
        ([torch.zeros(3, 0, 8)], r"shape \(1, 3, 0, 8\) have no pixels"),
        ([None], "None is no image; give a path"),
        (None, "images are given as NoneType; give a list of paths or a tensor"),
        (iter(["photo.png"]), "images are given as list_iterator; give a list"),
    ],
)
def test_unfit_images_are_refused(model, given, message):
    with pytest.raises(ValueError, match=message):
        Explainer(model).explain(given)


@pytest.mark.parametrize(("target", "message"), [("all", "use explain_all"), (4, "no cluster 4"), ("best", "unknown")])
def test_unfit_targets_are_refused(model, images, target, message):
    with pytest.raises(ValueError, match=message):
        Explainer(model).explain(images, target)


def test_an_unreadable_file_is_named(model, photos):
    (photos / "broken.png").write_text("no image")
    with pytest.raises(UnreadableImageError, match=r"broken\.png': not an image"):
        Explainer(model).explain([photos / "0.png", photos / "broken.png"])


def snapshot(model):
    return [
        [(key, value.clone(), value._version) for key, value in model.state_dict(keep_vars=True).items()],
        [(id(p), p.requires_grad, p.grad) for p in model.parameters()],
        [
            (module.training, sorted(vars(module)), len(module._forward_hooks), len(module._backward_hooks))
            for module in model.modules()
        ],
    ]


def assert_unchanged(model, before):
    after = snapshot(model)
    for (key, old, version), (_, new, version_now) in zip(before[0], after[0], strict=True):
        assert torch.equal(old, new), key
        assert version == version_now, key
    assert before[1:] == after[1:]


def test_the_model_stays_as_it_was(model, images):
    model.train()
    before = snapshot(model)
    explainer = Explainer(model)
    explainer.explain(images, "runner_up")
    explainer.explain_all(images[:2])
    assert_unchanged(model, before)


def test_the_model_stays_as_it_was_after_an_exception(model, images, monkeypatch):
    before = snapshot(model)
    explainer = Explainer(model)

    def fail(*_):
        raise RuntimeError("midway")

    with monkeypatch.context() as patched:
        patched.setattr(Convolution, "transpose", fail)
        with pytest.raises(RuntimeError, match="midway"):
            explainer.explain(images)
    assert_unchanged(model, before)
    same(Explainer(model).explain(images), Explainer(copy.deepcopy(model)).explain(images), rtol=0, atol=0)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_any_gradient_mode_will_do(model, images, mode):
    expected = Explainer(model).explain(images)
    with mode():
        explainer = Explainer(model)
        same(explainer.explain(images), expected, rtol=0, atol=0)
        every = explainer.explain_all(images[:1].float() / 255)
    assert not any(tensor.requires_grad for tensor in flattened(every[0]))


def test_images_that_want_gradients_get_none(model, images):
    wanting = (images.float() / 255).requires_grad_()
    explanation = Explainer(model).explain(wanting)
    assert not any(tensor.requires_grad for tensor in flattened(explanation))
    assert wanting.grad is None


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("rule", ["zero", "midpoint"])
def test_constant_images_have_finite_explanations(model, level, rule):
    constant = torch.full((1, 3, 32, 32), level, dtype=torch.uint8)
    for explanation in Explainer(model, head_rule=rule).explain_all(constant):
        assert all(tensor.isfinite().all() for tensor in flattened(explanation))
        receipt = explanation.receipt
        scale = receipt.features.abs() + receipt.absorbed.abs()
        assert ((receipt.discriminant - receipt.pixels - receipt.absorbed).abs() <= 1e-4 * scale).all()


@pytest.mark.parametrize("rule", ["zero", "midpoint"])
@pytest.mark.parametrize("beta", [0.0, None, torch.inf])
def test_equal_centroids_have_finite_explanations(model, images, rule, beta):
    centroids = model.head.centroids
    twice = ClusterModel(model.backbone, NeuralizedKMeans(torch.cat([centroids, centroids[:2]]), 0.02))
    explainer = Explainer(twice, head_rule=rule, beta=beta)
    for explanation in (*explainer.explain_all(images), explainer.explain(images, "0:4")):
        assert all(tensor.isfinite().all() for tensor in flattened(explanation))


def test_changed_weights_are_noticed(model, images):
    explainer = Explainer(model)
    before = explainer.explain(images).heatmap
    with torch.no_grad():
        next(model.backbone.network.parameters()).mul_(0.5)
    changed = explainer.explain(images)
    same(changed, Explainer(model).explain(images), rtol=0, atol=0)
    assert not torch.equal(changed.heatmap, before)


def test_tiny_is_the_network_restated(tiny):
    model, images = tiny
    normal = model.backbone.normalise(images)
    first, second = list(model.backbone.network.parameters())[::2], list(model.backbone.network.parameters())[1::2]
    maps = F.relu(F.conv2d(F.relu(F.conv2d(normal, first[0], second[0], padding=1)), first[1], second[1]))
    torch.testing.assert_close(model.backbone(images), maps.mean((2, 3)))


@pytest.mark.parametrize(("rule", "residual"), [("auto", "norm"), ("zero", "norm"), ("midpoint", "ratio")])
def test_residual_sums_by_the_head_rule(model, rule, residual):
    explainer = Explainer(model, head_rule=rule)
    assert (explainer.composite, explainer.residual) == ("epsilon_gamma_box", residual)
    assert type(explainer.network.composite.rule(Add, "", False)).__name__.lower() == residual
    assert Explainer(model, head_rule=rule, residual="ratio").residual == "ratio"
    assert Explainer(model, EpsilonPlus()).residual is None


@pytest.mark.parametrize("copied", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy])
def test_an_explainer_can_be_pickled_as_workers_of_a_loader_need_it(model, images, copied):
    explainer = Explainer(model)
    expected = explainer.explain(images)
    found = copied(explainer).explain(images)
    assert torch.equal(found.heatmap, expected.heatmap)
    assert torch.equal(explainer.explain(images).heatmap, expected.heatmap)


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f4"])
def test_arrays_of_either_byte_order_are_explained_alike(model, images, dtype):
    floats = images.float() / 255 if images.dtype == torch.uint8 else images
    expected = Explainer(model).explain(floats).heatmap
    torch.testing.assert_close(Explainer(model).explain(floats.numpy().astype(dtype)).heatmap, expected)
