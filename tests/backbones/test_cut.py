"""A network cut at any of its layers gives there what it computes itself, and exports."""

import copy
import io
import pickle

import pytest
import torch
from families import FAMILIES
from networks import randomized
from torch import nn
from torch.nn import functional as F
from torchvision.models import get_model
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from whycluster.backbones.cut import CutNetwork
from whycluster.backbones.layers import layer_names


class Winding(nn.Module):
    """Modules that are called again, changes in place, several results, and weights that few layers need."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 1), self.act)
        self.scale = nn.Parameter(torch.rand(4, 1, 1))
        self.classifier = nn.Sequential(nn.Linear(4, 1000), nn.ReLU(), nn.Linear(1000, 3))

    def forward(self, images):
        x = self.act(self.norm(self.conv(images)))
        first, second = self.inner(x).chunk(2, 1)
        x = torch.cat([second, first], 1) * self.scale
        x += 1 - self.act(x - 0.3)
        x = F.relu(x, inplace=True)
        return self.classifier(x.mean((2, 3)))


@pytest.fixture
def images():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def winding():
    torch.manual_seed(0)
    return randomized(Winding()).eval()


def by_hand(network, images):
    """What each kind of layer holds, computed step by step."""
    conv = network.conv(images)
    x = F.relu(network.norm(conv))
    inner = network.inner(x)
    cat = torch.cat([inner[:, 2:], inner[:, :2]], 1)
    scaled = cat * network.scale
    less = scaled - 0.3
    added = scaled + (1 - F.relu(less))
    return {
        "conv": conv,
        "norm": network.norm(conv),
        "act": x,
        "inner": inner,
        "inner.0": network.inner[0](x),
        "act_1": inner,  # the same module is called inside `inner`, under its first name
        "getitem": inner[:, :2],
        "getitem_1": inner[:, 2:],
        "cat": cat,
        "mul": scaled,
        "sub": less,
        "act_2": F.relu(less),
        "sub_1": 1 - F.relu(less),
        "add": added,
        "relu": F.relu(added),
        "mean": F.relu(added).mean((2, 3)),
        "classifier.1": F.relu(network.classifier[0](F.relu(added).mean((2, 3)))),
    }


KINDS = list(by_hand(randomized(Winding()).eval(), torch.zeros(1, 3, 8, 8)))


@pytest.mark.parametrize("layer", KINDS)
def test_each_kind_of_layer(winding, images, layer):
    with torch.no_grad():
        expected = by_hand(winding, images)[layer]
        cut = CutNetwork(winding, layer, torch.zeros(1, 3, 8, 8))
        torch.testing.assert_close(cut(images), expected, rtol=0, atol=1e-6)
        wide = torch.cat([images, images], 3)
        torch.testing.assert_close(cut(wide), by_hand(winding, wide)[layer], rtol=0, atol=1e-6)


def exported(cut, images):
    """The graph of a cut network, as LRP works on it, and the names of the weights that it computes with."""
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(cut, (images,), dynamic_shapes=batch).run_decompositions({})
    read = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    specs = program.graph_signature.input_specs
    return program.module(), {spec.target for spec in specs if spec.arg.name in read and spec.target}


@pytest.mark.parametrize("layer", KINDS)
def test_exports(winding, images, layer):
    with torch.no_grad():
        cut = CutNetwork(winding, layer, images)
        graph, read = exported(cut, images)
        more = torch.cat([images, images.flip(0), images])
        torch.testing.assert_close(graph(more), cut(more), rtol=0, atol=1e-6)
    assert read <= cut.state_dict().keys()
    assert not [name for name, module in cut.named_modules() if module._forward_hooks or module._forward_pre_hooks]


SIZE = 32


@pytest.mark.parametrize("family", ["resnet", "densenet", "mobilenet_v3", "shufflenet", "efficientnet", "convnext"])
def test_layers_are_the_nodes_of_torchvision(family):
    """With the values that torchvision's own extractor, another mechanism, gives them: model files hold their names."""
    torch.manual_seed(0)
    network = randomized(FAMILIES[family][0]()).eval()
    images = torch.rand(2, 3, SIZE, SIZE)
    nodes = get_graph_node_names(network, suppress_diff_warning=True)[1][1:]
    with torch.no_grad():
        extracted = create_feature_extractor(copy.deepcopy(network), nodes, suppress_diff_warning=True)(images)
        tensors = {
            name: value
            for name, value in extracted.items()
            if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter)
        }
        assert len(tensors) > 10
        for name in tensors:
            # In place, what follows changes what the extractor has kept; an extractor of one node has nothing follow.
            alone = create_feature_extractor(copy.deepcopy(network), [name], suppress_diff_warning=True)(images)[name]
            torch.testing.assert_close(CutNetwork(network, name, images)(images), alone, rtol=1e-5, atol=1e-6)
    assert tensors.keys() <= set(layer_names(network, images))


@pytest.mark.parametrize("family", ["resnet", "densenet", "shufflenet", "convnext"])
def test_layers_of_families_export(family):
    torch.manual_seed(0)
    network = randomized(FAMILIES[family][0]()).eval()
    images = torch.rand(2, 3, SIZE, SIZE)
    names = layer_names(network, images)
    with torch.no_grad():
        for name in names[len(names) // 6 :: len(names) // 2]:
            cut = CutNetwork(network, name, images)
            if isinstance(cut(images), torch.Tensor):
                graph, read = exported(cut, images)
                torch.testing.assert_close(graph(images), cut(images), rtol=1e-5, atol=1e-6)
                assert read <= cut.state_dict().keys()


def test_the_network_stays_as_it_was(winding, images):
    winding.train()
    before = {name: value.clone() for name, value in winding.state_dict().items()}
    attributes = [sorted(vars(module)) for module in winding.modules()]
    CutNetwork(winding, "cat", images)(images)
    layer_names(winding, images)
    with pytest.raises(ValueError, match="is no layer"):
        CutNetwork(winding, "cats", images)
    assert all(module.training for module in winding.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in winding.modules())
    assert [sorted(vars(module)) for module in winding.modules()] == attributes
    for name, value in winding.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_no_hooks_stay_after_an_exception(winding, images):
    cut = CutNetwork(winding, "cat", images)
    with pytest.raises(RuntimeError):
        cut(images[:, :2])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in cut.modules())
    assert torch.overrides._get_current_function_mode_stack() == []
    assert cut(images).shape == (2, 4, 8, 8)


def storage(tensor):
    return tensor.untyped_storage().nbytes()


def test_what_is_not_used_takes_no_memory():
    with torch.device("meta"):
        vgg = get_model("vgg16")
    cut = CutNetwork(vgg, "features", torch.zeros(1, 3, 64, 64, device="meta"))
    assert set(cut.state_dict()) == {f"network.features.{name}" for name in vgg.features.state_dict()}
    assert set(dict(cut.named_parameters())) == set(cut.state_dict())
    assert cut.network.classifier[0].weight.shape == (4096, 25088)
    assert storage(cut.network.classifier[0].weight) == 4


def test_weights_are_shared_not_copied(winding, images):
    cut = CutNetwork(winding, "inner", images)
    assert cut.network.conv.weight is winding.conv.weight


@pytest.mark.parametrize("layer", ["inner", "add"])
def test_moves_and_copies(winding, images, layer):
    cut = CutNetwork(winding, layer, images)
    expected = cut(images)
    saved = io.BytesIO()
    torch.save(cut, saved)
    saved.seek(0)
    for again in (copy.deepcopy(cut), pickle.loads(pickle.dumps(cut)), torch.load(saved, weights_only=False)):
        assert torch.equal(again(images), expected)
        assert again.state_dict().keys() == cut.state_dict().keys()
        assert storage(again.network.classifier[2].weight) == 4
        assert not any(module.training for module in again.modules())
    assert len(saved.getvalue()) < 30_000
    double = copy.deepcopy(cut).double()
    torch.testing.assert_close(double(images.double()).float(), expected, rtol=1e-5, atol=1e-6)
    assert double.network.classifier[2].weight.dtype == torch.float64
    assert storage(double.network.classifier[2].weight) == 8
    graph, _ = exported(double, images.double())
    assert torch.equal(graph(images.double()), double(images.double()))
    assert cut.to("meta")(images.to("meta")).shape == expected.shape


def test_state_dict_goes_back_in(winding, images):
    cut, other = (CutNetwork(network, "cat", images) for network in (winding, randomized(Winding())))
    assert not torch.equal(cut(images), other(images))
    other.load_state_dict(cut.state_dict())
    assert torch.equal(cut(images), other(images))
    third = CutNetwork(randomized(Winding()), "cat", images)  # that of the whole network will do as well
    third.load_state_dict({f"network.{name}": value for name, value in winding.state_dict().items()})
    assert torch.equal(cut(images), third(images))
    del other
    with pytest.raises(RuntimeError, match="Unexpected key"):
        cut.load_state_dict({**cut.state_dict(), "network.more": torch.zeros(1)})


class Sized(nn.Module):
    """Its classifier takes images of one size only, and what comes before takes any."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(inplace=True))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(2 * 6 * 6, 3))

    def forward(self, images):
        maps = self.features(images).abs()
        return self.classifier(maps.mul_(2) + 1)


@pytest.mark.parametrize("layer", ["features.0", "features", "abs"])
def test_other_sizes_than_what_follows_takes(images, layer):
    network, larger = Sized(), torch.rand(2, 3, 12, 20)
    cut = CutNetwork(network, layer, images)
    expected = network.features[0](larger) if layer == "features.0" else network.features(larger)
    torch.testing.assert_close(cut(larger), expected)
    graph, _ = exported(cut, larger)
    torch.testing.assert_close(graph(larger), expected)
    assert not any("forward" in vars(module) for module in cut.modules())


def test_an_export_that_fails_shows_why(images):
    cut = CutNetwork(Sized(), "abs", images)
    with pytest.raises(RuntimeError, match="channels"):
        exported(cut, images[:, :2])
    assert not any("forward" in vars(module) for module in cut.modules())


def test_gradients_reach_the_images(winding, images):
    images.requires_grad_()
    CutNetwork(winding, "add", images.detach())(images).sum().backward()
    assert images.grad.abs().sum() > 0


def test_unknown_layers_name_the_nearest(winding, images):
    with pytest.raises(ValueError, match=r"layer='inner\.7' is no layer .* nearest are inner\.0, inner"):
        CutNetwork(winding, "inner.7", images)
    with pytest.raises(ValueError, match="layer='act_3' is no layer"):
        CutNetwork(winding, "act_3", images)


class Forked(nn.Module):
    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 3)

    def forward(self, images):
        return self.small(images) if images.shape[2] < 10 else self.large(images)


def test_a_layer_that_some_images_do_not_reach(images):
    cut = CutNetwork(Forked(), "small", images)
    with pytest.raises(ValueError, match=r"the layer 'small' is not reached with images of shape \(1, 3, 16, 16\)"):
        cut(torch.zeros(1, 3, 16, 16))


def test_layer_names_in_order(winding, images):
    names = layer_names(winding, images)
    wanted = ["conv", "norm", "act", "inner", "chunk", "getitem", "getitem_1", "cat", "mul", "sub", "sub_1", "add"]
    assert [name for name in names if name in wanted] == wanted
    assert not any("linear" in name or "conv2d" in name for name in names)  # inside torch's own modules
    assert {"features", "features.28", "avgpool", "flatten", "classifier.6"} <= set(layer_names(get_model("vgg16")))


SEVERAL = (["act", "mul"], ["mul", "conv"], ["inner", "getitem_1", "add"], ["classifier.1", "inner"], ["sub"])


@pytest.mark.parametrize("layers", SEVERAL)
def test_several_layers_in_one_pass(winding, images, layers):
    """In the order of their names, whichever is computed first, and before the network overwrites them."""
    with torch.no_grad():
        expected = by_hand(winding, images)
        cut = CutNetwork(winding, layers, images)
        graph, read = exported(cut, images)
        for outputs in (cut(images), graph(images)):
            assert len(outputs) == len(layers)
            for name, output in zip(layers, outputs, strict=True):
                torch.testing.assert_close(output, expected[name], rtol=0, atol=1e-6)
    assert read <= cut.state_dict().keys()
    alone = [set(CutNetwork(winding, name, images).state_dict()) for name in layers]
    assert set(cut.state_dict()) == set.union(*alone)
    assert [{f"network.{path}" for path in one} for one in cut.read] == alone


@pytest.mark.parametrize("layers", [[], ["act", "act"], ["act", 3]])
def test_layers_have_to_be_different_names(winding, images, layers):
    with pytest.raises(ValueError, match=r"backbone\.layer=\[.*\] should be the name of a layer, or a list of diff"):
        CutNetwork(winding, layers, images)
