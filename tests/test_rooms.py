"""The walls between the rooms."""

import subprocess
import sys

MATHEMATICS = "import sys, whycluster.clustering.lloyd, whycluster.heads, whycluster.lrp; print(*sys.modules)"


def test_the_mathematics_needs_neither_lightning_nor_hydra() -> None:
    loaded = subprocess.run([sys.executable, "-c", MATHEMATICS], capture_output=True, text=True, check=True).stdout
    assert not {"pytorch_lightning", "lightning", "hydra", "omegaconf"} & set(loaded.split())
