"""Lloyd's algorithm against scikit-learn's and against its bare matrix products: `python tests/benchmarks/lloyd.py`."""

import argparse
import statistics
import time
import warnings

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from whycluster.clustering.features import BATCH_BYTES
from whycluster.clustering.lloyd import Sums, accumulate, assign, update


def ours(x, start, iterations):
    origin = x.mean(0)
    centroids = (start - origin)[None]
    rows = BATCH_BYTES // (4 * max(x.shape[1], len(start)))
    for _ in range(iterations):
        total = Sums.nothing(centroids)
        for batch in x.split(rows):
            total = total + accumulate(batch - origin, centroids)[0]
        centroids, _ = update(total, centroids)
    return sum(float(assign(batch - origin, centroids[0])[1].double().sum()) for batch in x.split(rows))


def scikit_learn(x, start, iterations):
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        fitted = KMeans(len(start), init=start.numpy(), n_init=1, max_iter=iterations, tol=0, algorithm="lloyd")
        return float(fitted.fit(x.numpy()).inertia_)


def products(x, start, iterations):
    for _ in range(iterations + 1):
        for batch in x.split(BATCH_BYTES // (4 * x.shape[1])):
            batch @ start.T
    return float("nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("rows", 100_000), ("features", 512), ("clusters", 100), ("iterations", 10), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    random = np.random.RandomState(0)
    x = torch.from_numpy(random.randn(options.rows, options.features).astype(np.float32))
    centres = torch.from_numpy(random.randn(options.clusters, options.features).astype(np.float32))
    x += 0.05 * centres[torch.arange(options.rows) % options.clusters]  # so near that no one converges early
    start = x[: options.clusters].clone()
    seconds = {run: [] for run in (ours, scikit_learn, products)}
    inertia = {}
    for _ in range(options.repeats):  # side by side, so that all meet the same machine
        for run, taken in seconds.items():
            began = time.perf_counter()
            inertia[run] = run(x, start, options.iterations)
            taken.append(time.perf_counter() - began)
    reference = statistics.median(seconds[ours])
    for run, taken in seconds.items():
        median = statistics.median(taken)
        print(f"{run.__name__:13} {median:7.2f} s   {median / reference:5.2f} x ours   inertia {inertia[run]:.6g}")


if __name__ == "__main__":
    main()
