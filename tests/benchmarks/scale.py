"""What a big collection costs: a million paths, and memory that should not grow.

    PYTHONPATH=tests python tests/benchmarks/scale.py [listing kmeans extraction explaining]

Each measurement runs in a process of its own, whose peak memory is read at its end (Linux only). Image files are names
of a few files, not copies of them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from whycluster.data import Digits

ROOT = Path(__file__).parents[2]
PEAK = """
import json, sys, time
open("/proc/self/clear_refs", "w").write("5")  # or the peak would be that of the process this one was forked from
begun = time.perf_counter()
{body}
taken = time.perf_counter() - begun
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(json.dumps([taken, int(peak) / 1024]))
"""


def alone(body: str, *arguments: object) -> tuple[float, float]:
    """Seconds and peak MiB of some lines of Python in a process of their own."""
    command = [sys.executable, "-c", PEAK.format(body=body), *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    taken, peak = json.loads(done.stdout.splitlines()[-1])
    return taken, peak


def names(folder: Path, n: int, in_each: int = 10_000) -> Path:
    """A folder with so many image files, `in_each` a sub-folder: handwritten digits, again and again."""
    digits, sources = Digits(), []
    for number in range(min(n, len(digits.paths))):
        sources.append(folder / f"{number}.png")
        digits.load(number).save(sources[-1])
    root = folder / "images"
    for number in range(n):
        path = root / f"{number // in_each:03d}" / f"{number:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(sources[number % len(sources)], path)
    return root


def listing(folder: Path) -> None:
    """A million paths: found, and made into batches."""
    root = folder / "images"
    for number in range(100):
        (root / f"{number:03d}").mkdir(parents=True)
        for other in range(10_000):
            (root / f"{number:03d}" / f"{other:05d}.jpg").touch()
    body = """
from whycluster.data import Folder, PreparedImages, image_loader
from whycluster.data.fingerprints import fingerprint
begun = time.perf_counter()
collection = Folder(sys.argv[1])
fingerprint(collection, range(len(collection.paths)), times=True)
loader = image_loader(PreparedImages(collection, lambda image: image), 32, 0)
assert len(collection.paths) == 1_000_000, len(loader)
"""
    taken, peak = alone(body, root)
    print(f"| 1,000,000 paths listed, digested, and in batches | {taken:.1f} s | {peak:.0f} MiB |")


def kmeans(folder: Path) -> None:
    """Memory of k-means over a feature file, whatever its length."""
    body = """
from pathlib import Path
import pytorch_lightning as pl
from whycluster.clustering.features import FeatureStore
from whycluster.clustering.kmeans import KMeans
store = FeatureStore(Path(sys.argv[1]))
trainer = pl.Trainer(accelerator="cpu", logger=False, max_epochs=4, enable_checkpointing=False,
                     enable_progress_bar=False, enable_model_summary=False)
trainer.fit(KMeans(store, 100, n_init=1, max_iter=3, tol=0))
"""
    for rows in (20_000, 100_000, 500_000):
        path = folder / f"{rows}.npy"
        values = np.lib.format.open_memmap(path, "w+", np.float32, (rows, 512))
        random = np.random.default_rng(0)
        for start in range(0, rows, 10_000):
            values[start : start + 10_000] = random.standard_normal((min(10_000, rows - start), 512), np.float32)
        del values
        taken, peak = alone(body, path)
        print(f"| k-means, 3 iterations, {rows} x 512, K=100 | {taken:.1f} s | {peak:.0f} MiB |", flush=True)
        path.unlink()


def command(folder: Path, script: str, *settings: str) -> tuple[float, float]:
    """Seconds and peak MiB of a command, run in a folder."""
    body = """
import os, runpy
os.chdir(sys.argv[1])
sys.argv = sys.argv[2:]
stdout, sys.stdout = sys.stdout, open(os.devnull, "w")
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    sys.stdout = stdout
"""
    return alone(body, folder, ROOT / script, "num_workers=0", "trainer.accelerator=cpu", *settings)


def extraction(folder: Path) -> None:
    """Memory and time of train.py on 2,000 and 20,000 images."""
    _both(folder, "train.py", lambda name, root: (f"hydra.run.dir={name}", "data=folder", f"data.root={root}"))


def explaining(folder: Path) -> None:
    """Memory and time of explain.py on 2,000 and 20,000 images, and the share of describing the clusters."""
    command(folder, "train.py", "hydra.run.dir=model", "head.n_init=1")
    _both(folder, "explain.py", lambda name, root: (f"hydra.run.dir={name}", "checkpoint=model", f"images={root}"))
    for file in sorted(folder.glob("run*/metrics.json")):
        figures = json.loads(file.read_text())
        print(f"({file.parent.name}: {figures['describing_seconds']} s to describe, {figures['seconds']} s to explain)")


def _both(folder: Path, script: str, settings: Callable[[str, Path], tuple[str, ...]]) -> None:
    for n in (2_000, 20_000):
        place = folder / str(n)
        place.mkdir()
        taken, peak = command(folder, script, *settings(f"run{n}", names(place, n)))
        print(f"| {script}, {n} images | {taken:.1f} s | {peak:.0f} MiB |", flush=True)


CASES = {case.__name__: case for case in (listing, kmeans, extraction, explaining)}


def main() -> None:
    """Prints a line for each measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", default=list(CASES))
    for name in parser.parse_args().cases:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            CASES[name](Path(folder))
        print(f"({name}: {time.perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
