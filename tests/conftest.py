import os
from pathlib import Path

import exports
import pytest
import torch

from whycluster.lrp import lrp


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    # Threads that wait for each other's cores make small layers several times slower.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)  # a test that fails, fails again


@pytest.fixture(scope="session")
def remembered():
    return exports.remembered()


@pytest.fixture(autouse=True)
def one_export(request, remembered, monkeypatch):
    """Outside of its own tests and those of many layers, the engine exports networks of the same modules once."""
    if "lrp" not in request.path.parts and "layer" not in request.path.name:
        monkeypatch.setattr(lrp, "export_graph", remembered)


@pytest.fixture
def assets():
    """The folder of trained weights and photographs that some tests need, and that is no part of this project."""
    place = os.environ.get("WHYCLUSTER_ASSETS")
    if not place:
        pytest.skip("WHYCLUSTER_ASSETS does not name the folder with trained weights and photographs")
    return Path(place)
