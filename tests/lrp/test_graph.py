"""The export: names, places of images, and networks that have no graph. Here nothing is remembered."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.prune import l1_unstructured

from whycluster.lrp import LRP, EpsilonPlus
from whycluster.lrp.graph import Batch, Graph, export_graph, structure

Compute = Callable[[Any, Tensor], Any]


def graph_of(written: type[nn.Module], compute: Compute, **layers: nn.Module) -> Graph:
    return export_graph(written(compute, **layers), torch.zeros(1, 3, 4, 4, dtype=torch.float64))


def test_names_are_those_of_modules_or_of_operations_within_them() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x)) + x + 1

    network = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), Inner(), nn.Flatten())
    graph = export_graph(network, torch.zeros(1, 3, 4, 4))
    names = [graph.names[node] for node in graph.nodes if node in graph.batches]
    assert names == ["0.0", "0.1", "1.conv", "1.conv", "1.add", "1.add_1", "2"]


@pytest.mark.parametrize(
    ("compute", "batch"),
    [
        (lambda net, x: x.relu(), Batch(0)),
        (lambda net, x: x.permute(2, 3, 0, 1).relu(), Batch(2)),
        (lambda net, x: x.reshape(-1, 4).relu(), Batch(0, 12)),
        (lambda net, x: x.permute(1, 0, 2, 3).reshape(-1, 4).relu(), Batch(0, 4)),  # (C, N, H) in one
        (lambda net, x: x.permute(1, 0, 2, 3).flatten(1).relu(), Batch(1, 16)),
        (lambda net, x: x.flatten(0, 1).mean(1), Batch(0, 3)),
        (lambda net, x: x.reshape(-1, 4, 2, 2).permute(2, 0, 3, 1).unbind(0)[1].relu(), Batch(0, 3)),
        (lambda net, x: x.permute(1, 0, 2, 3).reshape(-1, 4).topk(2).values.relu(), Batch(0, 4)),
        (lambda net, x: x.reshape(-1, 4).reshape(-1, 3, 4, 4).relu(), Batch(0)),
    ],
)
def test_where_the_images_are(compute: Compute, batch: Batch, written: type[nn.Module]) -> None:
    graph = graph_of(written, lambda net, x: (compute(net, x), x.sum((1, 2, 3)))[0])
    [end] = graph.outputs
    assert graph.batches[end] == batch


@pytest.mark.parametrize(
    ("batch", "shape"), [(Batch(0), (3, 2, 5)), (Batch(1), (2, 3, 5)), (Batch(0, 4), (24, 5)), (Batch(1, 2), (5, 6))]
)
def test_sums_of_each_image(batch: Batch, shape: tuple[int, ...]) -> None:
    values = torch.randn(shape)
    n = 3
    expected = torch.zeros(n)
    for place in range(shape[batch.axis]):
        expected[place // batch.inner % n] += values.select(batch.axis, place).sum()
    torch.testing.assert_close(batch.per_image(values, n), expected)


def test_a_structure_tells_networks_apart() -> None:
    convolution = nn.Conv2d(3, 3, 1)
    before = structure(convolution)
    convolution.weight.data += 1
    assert structure(convolution) == before
    convolution.stride = (2, 2)
    assert structure(convolution) != before
    assert structure(nn.Linear(2, 3)) != structure(nn.Linear(3, 2))


# Networks that have no graph.


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Mode(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x if self.training else x.exp()


ONE = "should take one tensor of images and return a tensor or a tuple of tensors"
ERRORS: dict[str, tuple[Compute, str]] = {
    "an if": (lambda net, x: x if x.sum() > 0 else -x, r"cannot be exported by torch\.export"),
    "a number": (lambda net, x: x * float(x.sum()), r"cannot be exported by torch\.export"),
    "a length": (
        lambda net, x: x + torch.ones(len(x), 1, 1, 1),
        "it fixes the number of images; take that from x.shape",
    ),
    "a fixed batch": (lambda net, x: x.reshape(2, 3, -1), r"cannot be exported by torch\.export"),
    "no output": (lambda net, x: None, ONE),
    "outputs by name": (lambda net, x: {"out": x * 2}, "return a tensor or a tuple of tensors"),
    "a size": (lambda net, x: (x * 2, x.shape[1]), ONE),
    "only a buffer": (lambda net, x: net.mean * 2, "no relevance can reach the images|row for each image"),
    "wrong sizes": (lambda net, x: x @ torch.ones(3, 3), r"cannot be exported by torch\.export"),
}


@pytest.mark.parametrize("what", ERRORS)
def test_errors_are_one_sentence(
    what: str, written: type[nn.Module], left_alone: Callable[[nn.Module], Callable[[], None]]
) -> None:
    compute, sentence = ERRORS[what]
    network = written(compute, conv=nn.Conv2d(3, 3, 1))
    check = left_alone(network)
    with pytest.raises(ValueError, match=sentence) as error:
        LRP(network, EpsilonPlus())(torch.ones(2, 3, 4, 4, dtype=torch.float64), torch.ones_like)
    assert "\n" not in str(error.value)
    check()


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (Two(), "Two cannot be exported|takes 2 tensors"),
        (torch.jit.script(nn.Sequential(nn.ReLU())), r"compiled by torch\.jit cannot be exported; give the module"),
    ],
)
def test_what_is_no_network_of_images(network: nn.Module, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LRP(network, EpsilonPlus())(torch.ones(2, 3), torch.ones_like)


def test_the_line_of_an_error_is_the_users(tmp_path: Any) -> None:
    class Undecided(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"Undecided cannot be exported.*test_graph\.py\", line \d+\)"):
        LRP(Undecided(), EpsilonPlus())(torch.ones(2, 3), torch.ones_like)


def test_a_limit_on_the_batch_as_kernels_of_a_gpu_have_is_no_obstacle() -> None:
    class Limited(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu() if x.shape[0] <= 65535 else x.sigmoid()

    x = torch.rand(3, 3, 4, 4)
    assert LRP(Limited(), EpsilonPlus())(x, lambda output: output)[1].equal(x)


def test_a_network_is_exported_as_it_evaluates() -> None:
    images = torch.rand(2, 3)
    network = Mode().train()
    torch.testing.assert_close(LRP(network, EpsilonPlus())(images, torch.ones_like)[0], images.exp())
    assert network.training


def test_pruned_layers_read_what_is_left(left_alone: Callable[[nn.Module], Callable[[], None]]) -> None:
    network = nn.Sequential(nn.Linear(6, 4))
    l1_unstructured(network[0], "weight", 0.5)
    check = left_alone(network)
    images = torch.rand(2, 6)
    torch.testing.assert_close(LRP(network, EpsilonPlus())(images, torch.ones_like)[0], network(images).detach())
    check()


def test_random_numbers_of_others_are_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    network = nn.Sequential(nn.Linear(3, 4), nn.Dropout())
    torch.manual_seed(5)
    LRP(network, EpsilonPlus())(torch.ones(2, 3), torch.ones_like)
    assert torch.equal(torch.rand(3), expected)
