"""What an explain run says of clusters."""

import json
import re

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def badges(tmp_path):
    """Twenty-four pictures of noise, half of which have the same badge in a corner."""
    random = np.random.RandomState(0)
    root = tmp_path / "badges"
    root.mkdir()
    for number in range(24):
        pixels = random.randint(0, 80, (8, 8, 3)).repeat(4, 0).repeat(4, 1)
        if number % 2:
            pixels[16:, 16:] = 255
            pixels[20:28:2, 18:30] = 0
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{number:02d}.png")
    return root


def test_shortcuts_are_in_the_file_of_clusters(run, badges, tmp_path):
    settings = ("data=folder", f"data.root={badges}", "head.n_clusters=2", "head.n_init=2")
    model = run("train", tmp_path / "model", *settings)
    folder = run("explain", tmp_path / "why", f"checkpoint={model}")
    clusters = json.loads((folder / "clusters.json").read_text())
    assert len(clusters) == 2
    for cluster in clusters:
        shortcut = cluster["shortcut"]
        keys = {"score", "flagged", "warning", "evidence", "signals", "images", "concepts"}
        assert shortcut.keys() == keys
        assert 0 <= shortcut["score"] <= 1
        assert shortcut["flagged"] == bool(shortcut["warning"])
        assert len(shortcut["images"]) == cluster["size"]
    marked = max(clusters, key=lambda one: one["shortcut"]["score"])
    assert {int(path[:2]) % 2 for path in marked["shortcut"]["images"]} == {1}
    assert marked["shortcut"]["flagged"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    shown = {one["cluster"]: one["shortcut"] for one in data["clusters"]}[marked["cluster"]]
    assert [data["images"]["path"][row] for row in shown["images"]] == marked["shortcut"]["images"][:8]
    assert shown["channels"] == [one["channel"] for one in marked["shortcut"]["concepts"]]
    assert sum(line not in shown["warning"] for line in shown["evidence"]) == len(shown["evidence"]) - 1
    assert not (folder / "unfinished").exists()
    other = run("explain", tmp_path / "other", f"checkpoint={model}", "target=0")
    assert {one["shortcut"] for one in json.loads((other / "clusters.json").read_text())} == {None}
