import torch
from networks import Block
from torch import Tensor, nn

from whycluster.lrp import LRP, Composite, EpsilonGammaBox, EpsilonPlusFlat, Row
from whycluster.lrp.description import rule_name
from whycluster.lrp.linear_maps import Linear
from whycluster.lrp.rules import z_plus


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x).relu())
        return x * self.squeeze(x.mean((2, 3), keepdim=True)).sigmoid()


TABLE = """\
node     operation    rule                        folded batch norm
conv     Convolution  box(low=-1, high=1)
relu     Activation   pass
norm     BatchNorm    epsilon
mean     AveragePool  none, part of a gate
squeeze  Convolution  none, part of a gate
sigmoid  Activation   none, part of a gate
mul      Gate         pass, the gate is constant"""

RESIDUAL = """\
node     operation    rule               folded batch norm
conv1    Convolution  flat               bn1
relu     Activation   pass
conv2    Convolution  z_plus             bn2
getitem  Rearrange    move back
pad      Rearrange    move back
add      Add          {}
relu_1   Activation   pass"""


def test_the_table_of_a_gated_network() -> None:
    assert LRP(Gated(), EpsilonGammaBox(-1.0, 1.0)).describe() == TABLE


def test_the_table_names_residual_rules_and_folded_norms() -> None:
    for residual in ("norm", "ratio"):
        described = LRP(Block(4, 8, 2), EpsilonPlusFlat(residual=residual)).describe()
        assert [line.split() for line in described.splitlines()] == [
            line.split() for line in RESIDUAL.format(residual).splitlines()
        ]


def test_rules_of_ones_own_are_named_too() -> None:
    class Halves:
        def __call__(self, layer: object, signal: object) -> list[object]:
            return []

    assert rule_name(z_plus) == "z_plus"
    assert rule_name(Halves()) == "Halves"
    described = LRP(nn.Sequential(nn.Linear(2, 1)), Composite({Linear: Row(Halves(), 0)})).describe()
    assert described.splitlines()[1].split() == ["0", "Linear", "Halves"]


def test_nothing_is_computed() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    network.register_forward_hook(lambda *_: torch.nonexistent)
    assert LRP(network, EpsilonPlusFlat()).describe()
