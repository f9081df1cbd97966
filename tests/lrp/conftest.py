"""Networks and snapshots that the tests of this folder share."""

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from networks import randomized
from torch import Tensor, nn
from torch.nn import functional as F

from whycluster.lrp import lrp

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Mixed(nn.Module):
    """Concatenation, all poolings, dropout, in-place, functional and method calls, in one small network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.drop = nn.Dropout2d(0.5)
        self.mix = nn.Conv2d(10, 8, (2, 4), padding="same", groups=2)
        self.pool = nn.AdaptiveAvgPool2d(3)
        self.hidden, self.norm, self.out = nn.Linear(32, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([F.relu(self.left(x)), self.right(x).relu_()], 1)
        x = self.drop(F.max_pool2d(x, 3, stride=2, padding=1))
        x = F.avg_pool2d(self.mix(x), 2, stride=1).relu()
        x = F.adaptive_max_pool2d(self.pool(x), 2)
        x = F.dropout(x.flatten(1), training=self.training)
        return self.out(F.relu(self.norm(self.hidden(x)), True))


@pytest.fixture(autouse=True)
def one_export_of_the_same_modules(request, remembered, monkeypatch):
    """The engine exports networks of the same modules once, but where the export itself is tested."""
    if request.path.name != "test_graph.py":
        monkeypatch.setattr(lrp, "export_graph", remembered)


class Written(nn.Module):
    """A network given as a function of its layers and the images."""

    functions: ClassVar[list[Callable[..., Any]]] = []  # all that there were: the address of one is never another's

    def __init__(self, compute: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        self.functions.append(compute)
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.register_buffer("mean", torch.tensor([0.5, -1.0, 2.0]).reshape(3, 1, 1))
        randomized(self).double().eval()

    def extra_repr(self) -> str:  # tells functions apart that have the same layers
        return repr(self.compute)

    def forward(self, x: Tensor) -> Any:
        return self.compute(self, x)


@pytest.fixture(scope="session")
def written() -> type[Written]:
    return Written


@pytest.fixture
def mixed() -> Callable[[int], nn.Module]:
    def build(seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return randomized(Mixed().double())

    return build


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 4 - 2


def snapshot(network: nn.Module) -> dict[str, Any]:
    return {
        "state": {name: value.clone() for name, value in network.state_dict().items()},
        "versions": [value._version for value in network.state_dict().values()],
        "tensors": {name: id(value) for name, value in network.named_parameters()},
        "training": [module.training for module in network.modules()],
        "inplace": [getattr(module, "inplace", None) for module in network.modules()],
        "hooks": [dict(getattr(module, kind)) for module in network.modules() for kind in HOOKS],
        "attributes": [sorted(vars(module)) for module in network.modules()],
        "requires_grad": [p.requires_grad for p in network.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in network.parameters()],
    }


@pytest.fixture
def left_alone() -> Callable[[nn.Module], Callable[[], None]]:
    """Called with a network, gives an untidy one and a check that it is still exactly so."""

    def watch(network: nn.Module) -> Callable[[], None]:
        for at, module in enumerate(network.modules()):
            module.training = at % 2 == 0
        for at, parameter in enumerate(network.parameters()):
            parameter.requires_grad_(at % 3 != 0)
            parameter.grad = torch.full_like(parameter, 7.0) if at % 2 else None
        before = snapshot(network)
        return lambda: _same(before, snapshot(network))

    return watch


def _same(before: Any, after: Any) -> None:
    torch.testing.assert_close(after.pop("state"), before.pop("state"), rtol=0, atol=0)
    for old, new in zip(before.pop("gradients"), after.pop("gradients"), strict=True):
        assert (old is None) == (new is None)
        assert old is None or torch.equal(old, new)
    assert after == before
