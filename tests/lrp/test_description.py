import torch
from networks import Block
from torch import Tensor, nn

from whycluster.lrp import LRP, Composite, Epsilon, EpsilonGammaBox, EpsilonPlusFlat, Linear, Rule


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x).relu())
        return x * self.squeeze(x.mean((2, 3), keepdim=True)).sigmoid()


GATED = """\
node  operation    rule                       folded batch norm
conv  Convolution  ZBox(stabilizer=1e-06)
relu  relu         pass
norm  BatchNorm    Epsilon(stabilizer=1e-06)
mul   mul          pass"""

RESIDUAL = """\
node     operation    rule                               folded batch norm
conv1    Convolution  Flat(stabilizer=1e-06)             bn1
relu     relu         pass
conv2    Convolution  ZPlus(stabilizer=1e-06)            bn2
slice    slice        move back
slice_1  slice        move back
pad      pad          move back
add      Add          {}(stabilizer=1e-06)
relu_1   relu         pass"""


def words(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines()]


def test_the_table_of_a_gated_network() -> None:
    table = LRP(Gated(), EpsilonGammaBox(-1.0, 1.0)).describe(torch.zeros(1, 3, 4, 4))
    assert table == GATED


def test_the_table_names_residual_rules_and_folded_norms() -> None:
    for residual in ("norm", "ratio"):
        lrp = LRP(Block(4, 8, 2), EpsilonPlusFlat(residual=residual))
        table = lrp.describe(torch.zeros(1, 4, 4, 4))
        assert words(table) == words(RESIDUAL.format(residual.title()))


def test_rules_of_ones_own_are_named_too() -> None:
    class Halves(Rule):
        def __init__(self) -> None:
            super().__init__(Epsilon().contributions, 0.0)

    table = LRP(nn.Sequential(nn.Linear(2, 1)), Composite([(Linear, Halves())])).describe(torch.zeros(1, 2))
    assert words(table)[1] == ["0", "Linear", "Halves(stabilizer=0)"]


def test_nothing_is_computed() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    images = torch.full((1, 3, 2, 2), torch.nan)
    assert LRP(network, EpsilonPlusFlat()).describe(images)
