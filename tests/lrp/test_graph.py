import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.prune import l1_unstructured

from whycluster.lrp import LRP, EpsilonGammaBox, EpsilonPlus
from whycluster.lrp.graph import trace
from whycluster.lrp.linear_maps import AveragePool, Convolution, Linear, LinearMap

Forward = Callable[[nn.Module, Tensor], Tensor]


class OwnNorm(nn.BatchNorm2d):
    """Adds nothing."""


class OwnConvolution(nn.Conv2d):
    def __init__(self, *settings: int, padding: int) -> None:
        super().__init__(*settings, padding=padding)

    def of_interest(self) -> float:
        return float(self.weight.norm())


class Network(nn.Module):
    """Some layers, and what they do given as a function."""

    def __init__(self, compute: Forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.compute = compute
        self.conv, self.again = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.relu, self.linear = nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Linear(4, 4)
        self.layer = nn.LayerNorm(3)
        self.layers = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3))
        self.register_buffer("mean", torch.ones(3, 1, 1))
        self.register_buffer("order", torch.tensor([1, 1, 0]))
        self.own = nn.Sequential(OwnNorm(3), OwnConvolution(3, 2, 3, padding=1))
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self, x)


def in_place_for_a_bystander(net: nn.Module, x: Tensor) -> Tensor:
    x = net.conv(x)
    net.relu(x)  # what it returns is not used, and x has changed
    return net.again(x)


def in_place_under_a_second_name(net: nn.Module, x: Tensor) -> Tensor:
    x = net.conv(x)
    before = net.again(x)
    y = F.relu(x, True)
    return torch.cat([x, before, y], 1)


def in_place(net: nn.Module, x: Tensor, write: Callable[[Tensor], object]) -> Tensor:
    h = net.conv(x)
    write(h)
    return net.again(h)


def with_options(net: nn.Module, x: Tensor, mask: Tensor | None = None, scale: float = 2.0) -> Tensor:
    h = net.conv(x) * scale
    return h if mask is None else h * mask


def residual_in_place(net: nn.Module, x: Tensor) -> Tensor:
    h = net.conv(x)
    h += x
    return net.again(h)


def multiplied_in_place(net: nn.Module, x: Tensor) -> Tensor:
    h = net.conv(x)
    skip = net.again(h)
    h *= 2.0
    h -= 0.1
    h /= 3.0
    return h + skip


def shuffled(net: nn.Module, x: Tensor) -> Tensor:
    left, right = net.again(net.conv(x)).chunk(2, dim=3)
    both = torch.cat([left, net.conv(right)], 1)
    n, c, h, w = both.size()
    return both.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


WAYS_OF_WRITING = {
    "indices as a tensor": lambda net, x: net.conv(x[:, torch.tensor([2, 1, 0])])[:, net.order],
    "layers of one's own kind": lambda net, x: net.own(net.conv(x)),
    "layers as functions": lambda net, x: F.linear(
        F.conv2d(x, net.conv.weight, net.conv.bias, padding=1), net.linear.weight, bias=net.linear.bias
    ),
    "a convolution as a function, as large as before": lambda net, x: F.conv2d(x, net.conv.weight, None, 1, "same"),
    "a gate of unknown operations": lambda net, x: (lambda h: h * torch.sigmoid(h.amax((2, 3), True).cumsum(1)))(
        net.conv(x)
    ),
    "a pooled gate": lambda net, x: (lambda h: h * torch.sigmoid(net.again(h)).mean((2, 3), keepdim=True))(net.conv(x)),
    "a clamped gate": lambda net, x: net.conv(x) * torch.sigmoid(net.again(x)).clamp(0.1, 0.9),
    "clamped": lambda net, x: net.again(torch.clamp(net.conv(x), min=0)),
    "relu_ as method": lambda net, x: net.again(net.conv(x).relu_()),
    "relu by position in place": lambda net, x: net.again(F.relu(net.conv(x), True)),
    "relu by keyword in place": lambda net, x: net.again(F.relu(net.conv(x), inplace=True)),
    "input by keyword": lambda net, x: net.again(torch.relu(input=net.conv(x))),
    "in place for a bystander": in_place_for_a_bystander,
    "in place under a second name": in_place_under_a_second_name,
    "concatenated with itself": lambda net, x: (lambda h: torch.cat([h, x, h], dim=1))(net.conv(x)),
    "concatenated along an axis": lambda net, x: torch.concat((net.conv(x), x), axis=-1),
    "concatenated images": lambda net, x: torch.cat([net.conv(x), x]).unflatten(0, (2, 2)).transpose(0, 1),
    "a layer twice": lambda net, x: net.conv(net.conv(x).relu()),
    "flattened by keyword": lambda net, x: torch.flatten(net.conv(x), start_dim=2),
    "mean": lambda net, x: net.conv(x).mean((2, 3)),
    "mean to one number": lambda net, x: net.conv(x).mean((1, 2, 3)),
    "sum by keyword": lambda net, x: torch.sum(net.conv(x), dim=(2, 3), keepdim=True),
    "linear on the last dimension": lambda net, x: net.linear(net.conv(x)),
    "batch norm": lambda net, x: net.again(net.norm(net.conv(x))),
    "batch norm twice": lambda net, x: net.norm(net.norm(net.conv(x))),
    "a layer twice, normalised once": lambda net, x: net.norm(net.conv(net.conv(x))),
    "norm of the image": lambda net, x: net.norm(x),
    "norm after relu": lambda net, x: net.norm(net.conv(x).relu()),
    "norm of a shared convolution": lambda net, x: (lambda h: torch.cat([h, net.norm(h)], 1))(net.conv(x)),
    "residual": lambda net, x: net.again(net.conv(x).relu()) + x,
    "residual in place": residual_in_place,
    "residual by function": lambda net, x: torch.add(net.conv(x), x),
    "residual of one place": lambda net, x: net.conv(x) + net.again(x).mean((2, 3), keepdim=True),
    "difference": lambda net, x: x - net.conv(x),
    "a constant added": lambda net, x: net.conv((x + 0.5).sub(net.mean)),
    "from a constant": lambda net, x: net.conv(1 - x),
    "normalised inside": lambda net, x: net.conv((x - net.mean) / 2) * 3,
    "squeezed and excited": lambda net, x: (lambda h: torch.sigmoid(net.again(h.mean((2, 3), True))) * h)(net.conv(x)),
    "gated by hand": lambda net, x: net.again(net.conv(x) * torch.tanh(F.softplus(net.conv(x)))),
    "gate of a constant": lambda net, x: net.mean * net.conv(x),
    "smooth": lambda net, x: net.again(F.silu(net.conv(F.gelu(net.conv(x))))),
    "channels last and back": lambda net, x: net.linear(net.conv(x).permute(0, 2, 3, 1).transpose(1, 3)),
    "layer norm": lambda net, x: net.again(F.layer_norm(net.conv(x), (4, 4), eps=1e-3)),
    "layer norm of channels": lambda net, x: net.layer(net.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "shuffled": shuffled,
    "cut and padded": lambda net, x: F.pad(net.conv(x)[:, 1:, ::2], (0, 0, 1, 1)) + net.again(x)[:, 1:],
    "padded by ones": lambda net, x: net.conv(F.pad(x, (1, 1, 1, 1), value=1.0)),
    "pooled as large as it is": lambda net, x: F.avg_pool2d(net.conv(x), x.size()[2:]).view(x.size(0), -1),
    "viewed flat": lambda net, x: net.conv(x).relu().view(x.shape[0], -1),
    "parts of a computed size": lambda net, x: (lambda h: net.conv(h.split(h.size(3) // 2, 3)[1]))(net.again(x)),
    "parts of a weight": lambda net, x: net.conv(x) + net.mean.chunk(3)[1],
    "a number plus a size": lambda net, x: net.conv(x + x.size(1)),
    "multiplied in place": multiplied_in_place,
    "a gate by a number": lambda net, x: net.conv(x) * (1 + torch.sigmoid(net.again(x)) / 2),
    "a bend by a number": lambda net, x: net.conv(1.7159 * torch.tanh(net.again(x))),
    "a tensor made on the way": lambda net, x: net.conv(x - torch.ones(3, 1, 1, dtype=torch.float64)),
    "bent in place by a statement": lambda net, x: in_place(net, x, lambda h: F.leaky_relu_(h, 0.1)),
    "bent in place by functions": lambda net, x: net.again(F.elu_(F.hardtanh_(net.conv(x), -0.5, 0.5), 2.0)),
    "bent in place after a copy": lambda net, x: (lambda h: h.clone().relu_() + h)(net.conv(x)),
    "a size asked before": lambda net, x: (lambda h: (lambda n: F.relu_(h).view(n, -1))(h.size(0)))(net.conv(x)),
    "some layers of many": lambda net, x: net.layers[:2](x),
    "an optional argument": with_options,
    "what nobody reads": lambda net, x: (net.conv(x), torch.fft.fft(net.again(x)))[0],
}


@pytest.mark.parametrize("way", WAYS_OF_WRITING)
def test_steps_compute_what_the_network_does(way: str) -> None:
    network = Network(WAYS_OF_WRITING[way])
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    expected = copy.deepcopy(network).eval()(images.clone()).detach()
    attribution = LRP(network, EpsilonGammaBox(-4, 4)).attribute(images, expected)
    torch.testing.assert_close(attribution.output, expected, rtol=1e-12, atol=1e-12)
    receipt = attribution.receipt
    torch.testing.assert_close(receipt.entered, receipt.arrived + receipt.absorbed, rtol=1e-10, atol=1e-10)


def test_steps_know_their_names_and_what_comes_before_them() -> None:
    network = nn.Sequential(
        nn.AvgPool2d(2), nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU()), nn.AvgPool2d(2), nn.Flatten(1)
    )
    network.append(nn.Linear(2, 2))
    steps = trace(network)
    assert [step.name for step in steps] == ["0", "1.0", "1.2", "2", "3", "4"]
    assert [step.first for step in steps] == [True, True, False, False, False, False]
    assert [step.nonnegative for step in steps] == [False, False, True, True, True, False]
    assert [step.inputs for step in steps] == [(-1,), (0,), (1,), (2,), (3,), (4,)]
    kinds = [type(step.operation) for step in steps if isinstance(step.operation, LinearMap)]
    assert kinds == [AveragePool, Convolution, AveragePool, Linear]


def test_concatenation_is_first_only_without_a_layer_and_nonnegative_only_throughout() -> None:
    steps = trace(Network(lambda net, x: net.again(torch.cat([net.conv(x).relu(), x], 2))))
    assert (steps[-1].first, steps[-2].nonnegative) == (False, False)
    steps = trace(Network(lambda net, x: net.again(torch.cat([net.conv(x).relu(), net.again(x).relu()], 2))))
    assert (steps[-1].first, steps[-2].nonnegative) == (False, True)
    assert trace(Network(lambda net, x: net.again(torch.cat([x, x], 2))))[-1].first


@pytest.mark.parametrize(
    ("way", "nonnegative"),
    [
        (lambda net, h: h.relu() * h.sigmoid(), True),
        (lambda net, h: h.relu() * h.tanh(), False),
        (lambda net, h: h * h.sigmoid(), False),
        (lambda net, h: h.relu() + h.sigmoid(), True),
        (lambda net, h: h.relu() - h.sigmoid(), False),
        (lambda net, h: F.relu6(h).permute(0, 1, 3, 2).reshape(h.shape), True),
        (lambda net, h: F.pad(h.relu(), (1, 1)), False),  # by what, is not looked at
        (lambda net, h: F.avg_pool2d(F.max_pool2d(h.relu(), 2), 1)[:, :], True),
        (lambda net, h: F.silu(h.relu()), False),
        (lambda net, h: net.norm(h.relu()), False),
        (lambda net, h: (lambda parts: torch.cat([parts[1], parts[0]], 3))(h.relu().chunk(2, 3)), True),
    ],
)
def test_what_cannot_be_negative_is_known(way: Forward, nonnegative: bool) -> None:
    steps = trace(Network(lambda net, x: net.again(way(net, net.conv(x)))))
    [before] = steps[-1].inputs
    assert steps[before].nonnegative == nonnegative


@pytest.mark.parametrize(
    ("norm", "layer"), [(nn.BatchNorm1d, nn.Linear(6, 4)), (nn.BatchNorm1d, nn.Linear(6, 4, bias=False))]
)
@pytest.mark.parametrize("affine", [True, False])
def test_folding(norm: type[nn.Module], layer: nn.Module, affine: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(layer, norm(4, affine=affine), nn.ReLU()).double()
    nn.init.normal_(network[1].running_mean)
    nn.init.uniform_(network[1].running_var, 0.5, 2)
    x = torch.randn(5, 6, dtype=torch.float64)
    steps = trace(network)
    assert len(steps) == 2
    y = steps[1].operation.forward(steps[0].operation.forward(x))
    torch.testing.assert_close(y, network.eval()(x), rtol=1e-12, atol=1e-12)


def two_inputs() -> nn.Module:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.cat([x, y])

    return Two()


def overwritten() -> nn.Module:
    class Aliased(Network):
        def forward(self, x: Tensor) -> Tensor:
            h = self.conv(x)
            skip = F.dropout(h, training=False)
            return self.again(F.relu(skip, inplace=True)) + h

    return Aliased(lambda net, x: x)


def added_over() -> nn.Module:
    class Aliased(Network):
        def __init__(self) -> None:
            super().__init__(lambda net, x: x)
            self.identity = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv(x)
            skip = self.identity(h)
            h += 1
            return self.again(h) + skip

    return Aliased()


def viewed_over() -> nn.Module:
    def compute(net: nn.Module, x: Tensor) -> Tensor:
        h = net.conv(x)
        h[:, :2].relu_()
        return net.again(h)

    return Network(compute)


def written_into() -> nn.Module:
    def compute(net: nn.Module, x: Tensor) -> Tensor:
        h = net.conv(x)
        h[:, 0] = 0
        return net.again(h)

    return Network(compute)


def pruned() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 3, 1))
    l1_unstructured(network[0], "weight", 0.3)
    return network


class Standardised(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight / weight.std(), bias)


SHARING: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout2d": lambda h: F.dropout2d(h, training=False),
    "alpha_dropout": lambda h: F.alpha_dropout(h, training=False),
    "unflatten": lambda h: h.unflatten(1, (3, 1)),
    "tensor_split": lambda h: h.tensor_split(3, 1)[0],
    "swapaxes": lambda h: h.swapaxes(2, 3),
    "to": lambda h: h.to(torch.float64),
    "expand_as": lambda h: h.expand_as(h),
}


def under_another_name(share: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Network(lambda net, x: in_place(net, x, lambda h: share(h).relu_()))


UNKNOWN = r"LRP does not know how relevance passes '{}' \(node '{}'.*cut the network at an earlier layer"
DEPENDS = "Network cannot be traced by torch.fx, because what it computes depends on values"
ONE = "has to return one tensor that it computed from the images"

ERRORS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "function": (lambda: Network(lambda net, x: torch.sort(net.conv(x))[0]), UNKNOWN.format("sort", "sort")),
    "method": (lambda: Network(lambda net, x: net.conv(x).cumsum(1)), UNKNOWN.format("cumsum", "cumsum")),
    "module": (lambda: nn.Sequential(nn.Sequential(nn.Softmax(1))), UNKNOWN.format("Softmax", r"0\.0")),
    "only a buffer": (lambda: Network(lambda net, x: net.mean), ONE),
    "two gates": (lambda: Network(lambda net, x: x.sigmoid() * net.conv(x).sigmoid()), "cannot tell which factor"),
    "two signals": (lambda: Network(lambda net, x: net.conv(x) * x), r"cannot tell which factor .*node 'mul'"),
    "a quotient of signals": (lambda: Network(lambda net, x: net.conv(x) / x), "quotients of values by constants"),
    "a constant by a signal": (lambda: Network(lambda net, x: 1 / net.conv(x)), "quotients of values by constants"),
    "a sum with alpha": (lambda: Network(lambda net, x: torch.add(net.conv(x), x, alpha=2)), "sums without alpha"),
    "padding by reflection": (lambda: Network(lambda net, x: F.pad(x, (1, 1), "reflect")), "here it is 'reflect'"),
    "a layer norm with computed weights": (
        lambda: Network(lambda net, x: F.layer_norm(x, (4,), net.conv(x).mean((0, 1, 2)))),
        "layers whose weight the network keeps",
    ),
    "all parts at once": (
        lambda: Network(lambda net, x: torch.cat(net.conv(x).chunk(3, 1))),
        "passes 'cat' of all parts at once",
    ),
    "tensor as argument": (lambda: Network(lambda net, x: torch.sum(x, net.conv(x))), "passes 'sum' of several values"),
    "padding": (lambda: nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")), "pads by 'reflect'"),
    "two inputs": (two_inputs, "the network takes several inputs"),
    "norm without statistics": (
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)),
        "the batch norm keeps no running statistics, and LRP needs them \\(node '1'",
    ),
    "in place under another name": (overwritten, "writes in place over 'conv', which is read later"),
    "a sum in place under another name": (added_over, "writes in place over 'identity', which is read later"),
    **{
        f"in place over what {name} hands on": (under_another_name(share), "writes in place over 'conv', which is read")
        for name, share in SHARING.items()
    },
    "written into an argument": (
        lambda: Network(lambda net, x: torch.add(net.conv(x), 1, out=x)),
        "writes into its argument `out`",
    ),
    "a method in place": (lambda: Network(lambda net, x: net.conv(x).floor_()), UNKNOWN.format("floor", "floor_")),
    "a function in place": (lambda: Network(lambda net, x: torch.exp_(net.conv(x))), UNKNOWN.format("exp", "exp_")),
    "a layer made in forward": (
        lambda: Network(lambda net, x: nn.ModuleList([net.conv])[0](nn.Conv2d(3, 3, 1)(x))),
        "forward makes a Conv2d that is no part of it; make it in __init__",
    ),
    "a compiled network": (lambda: torch.jit.script(nn.Sequential(nn.Conv2d(3, 3, 1))), "compiled by torch.jit"),
    "a view in place": (viewed_over, "writes in place over 'conv', which is read later"),
    "several parts": (lambda: Network(lambda net, x: torch.cat(net.conv(x).chunk(3, 1)[1:], 1)), "several at once"),
    "parts as output": (lambda: Network(lambda net, x: net.conv(x).chunk(3, 1)), ONE),
    "parts by keyword": (
        lambda: Network(lambda net, x: torch.cat(tensors=net.conv(x).chunk(3, 1), dim=1)),
        "passes 'cat' of all parts at once",
    ),
    "weights from a hook": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1))),
        "remove_parametrizations",
    ),
    "a layer norm of a computed shape": (lambda: Network(lambda net, x: F.layer_norm(x, x.shape[1:])), "fixed shape"),
    "max pooling with indices": (
        lambda: Network(lambda net, x: F.max_pool2d(net.conv(x), 2, return_indices=True)[0]),
        "does not return indices|does not know",
    ),
    "a rounded quotient": (
        lambda: Network(lambda net, x: torch.div(net.conv(x), 2, rounding_mode="floor")),
        "without rounding",
    ),
    "a normalised output": (lambda: Network(lambda net, x: F.normalize(net.conv(x))), "does not know"),
    "written into a part": (written_into, "writes into a part of a tensor; make a new one"),
    "pruned": (pruned, "not what they are computed from .*; make them plain by torch.nn.utils.prune.remove"),
    "a convolution with other weights": (
        lambda: nn.Sequential(Standardised(3, 3, 1)),
        "whose weight the network keeps",
    ),
    "if": (lambda: Network(lambda net, x: net.conv(x) if x.sum() > 0 else x), DEPENDS),
    "loop": (lambda: Network(lambda net, x: next(net.conv(x) for _ in range(x.shape[0]))), DEPENDS),
    "length": (lambda: Network(lambda net, x: net.conv(x)[: len(x)]), DEPENDS),
    "two outputs": (lambda: Network(lambda net, x: (net.conv(x), x)), ONE),
    "outputs by name": (lambda: Network(lambda net, x: {"out": net.conv(x)}), ONE),
    "no output": (lambda: Network(lambda net, x: None), ONE),
    "nothing computed": (lambda: Network(lambda net, x: x), ONE),
}


@pytest.mark.parametrize("what", ERRORS)
def test_errors_name_the_place(what: str, left_alone: Callable[[nn.Module], Callable[[], None]]) -> None:
    build, sentence = ERRORS[what]
    network = build()
    check = left_alone(network)
    with pytest.raises(ValueError, match=sentence):
        LRP(network, EpsilonPlus())
    check()


def test_where_tracing_stops_the_line_is_the_users() -> None:
    with pytest.raises(ValueError, match=r"test_graph\.py.*line \d+, in compute"):
        LRP(written_into(), EpsilonPlus())


def test_data_parallel_training_leaves_the_network_what_it_is() -> None:
    network, images = Network(lambda net, x: net.again(net.conv(x).relu())), torch.rand(2, 3, 4, 4, dtype=torch.float64)
    expected = LRP(network, EpsilonPlus())(images, torch.ones_like)[1]
    assert torch.equal(LRP(nn.DataParallel(network), EpsilonPlus())(images, torch.ones_like)[1], expected)


def test_the_line_of_an_unknown_operation_is_the_users() -> None:
    with pytest.raises(ValueError, match=r"test_graph\.py.*line \d+"):
        LRP(Network(lambda net, x: torch.sort(x)[0]), EpsilonPlus())


@pytest.mark.parametrize(
    "settings",
    [
        {"dilation": (2, 2), "padding": (2, 2)},
        {"dilation": 2, "padding": "same"},
        {"padding": "valid"},
        {"stride": 2, "dilation": 2},
    ],
)
def test_a_convolution_is_what_it_was_made_into(settings: dict[str, Any]) -> None:
    network = Network(lambda net, x: net.again(net.conv(x)))
    for name, value in settings.items():
        setattr(network.again, name, value)
    images = torch.rand(2, 3, 9, 8, dtype=torch.float64)
    attribution = LRP(network, EpsilonPlus()).attribute(images, torch.ones_like)
    torch.testing.assert_close(attribution.output, network(images).detach(), rtol=1e-12, atol=1e-12)
    assert attribution.receipt.imbalance.max() < 1e-12


def test_a_single_layer_is_a_network() -> None:
    images = torch.rand(2, 5)
    layer = nn.Linear(5, 3)
    output, relevance = LRP(layer, EpsilonPlus())(images, lambda output: output)
    torch.testing.assert_close(output, layer(images).detach())
    assert relevance.shape == images.shape


def test_a_network_that_torch_compiled_is_the_one_it_was_made_from() -> None:
    network, images = Network(lambda net, x: net.again(net.conv(x).relu())), torch.rand(2, 3, 4, 4, dtype=torch.float64)
    expected = LRP(network, EpsilonPlus())(images, torch.ones_like)[1]
    assert torch.equal(LRP(torch.compile(network), EpsilonPlus())(images, torch.ones_like)[1], expected)
