"""Lloyd's algorithm against scikit-learn's and against its bare matrix products: `python tests/benchmarks/lloyd.py`.

For so many iterations, or until nothing moves (`--iterations 300`); of random rows, or of those of a `.npy` file, over
and over again with noise of so many standard deviations of each column (`--file photos.npy --noise 1`).
"""

import argparse
import statistics
import time
import warnings

import numpy as np
import torch
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.exceptions import ConvergenceWarning

from whycluster.clustering.assignments import Assignments
from whycluster.clustering.features import BATCH_BYTES
from whycluster.clustering.lloyd import inertia, moments, update


def rows_at_once(x, start):
    return BATCH_BYTES // (4 * max(x.shape[1], len(start)))


def ours(x, start, iterations):
    """Returns inertia and iterations; all that a fit does for each restart, but for reading from a file."""
    origin = torch.from_numpy(np.median(x[: min(len(x), 1000)], axis=0))
    mean, scatter, largest = moments((torch.from_numpy(part) for part in np.array_split(x, len(x) // 500 + 1)), origin)
    assignments = Assignments(len(x), len(x), origin, scatter, largest)
    centroids, shift = torch.from_numpy(start).double()[None], 1.0
    for done in range(iterations + 1):
        assignments.move(centroids)
        for first in range(0, len(x), rows_at_once(x, start)):
            assignments.update(first, x[first : first + rows_at_once(x, start)])
        sums = assignments.sums()
        if done == iterations or not shift:
            break
        centroids, shift = update(sums, centroids)
    return float(inertia(sums, centroids, mean, scatter)), done


def scikit_learn(x, start, iterations):
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        fitted = KMeans(len(start), init=start, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd").fit(x)
        return float(fitted.inertia_), fitted.n_iter_


def products(x, start, iterations):
    x, centroids = torch.from_numpy(x), torch.from_numpy(start)
    for _ in range(iterations + 1):
        for batch in x.split(rows_at_once(x, start)):
            batch @ centroids.T
    return float("nan"), iterations


def random_rows(options):
    random = np.random.RandomState(0)
    x = random.randn(options.rows, options.features).astype(np.float32)
    centres = random.randn(options.clusters, options.features).astype(np.float32)
    return x + 0.05 * centres[np.arange(options.rows) % options.clusters]  # so near that no one converges early


def rows_of_file(options):
    features = np.load(options.file)
    noise = np.random.RandomState(0).randn(options.rows, features.shape[1]).astype(np.float32)
    return features[np.arange(options.rows) % len(features)] + options.noise * features.std(0) * noise


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("rows", 100_000), ("features", 512), ("clusters", 100), ("iterations", 10), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--file")
    parser.add_argument("--noise", type=float, default=1.0)
    options = parser.parse_args()
    x = rows_of_file(options) if options.file else random_rows(options)
    start = kmeans_plusplus(x[: max(10_000, options.clusters)], options.clusters, random_state=0)[0]
    seconds, found = {run: [] for run in (ours, scikit_learn, products)}, {}
    iterations = options.iterations
    for _ in range(options.repeats):  # side by side, so that all meet the same machine
        for run, taken in seconds.items():
            began = time.perf_counter()
            found[run] = run(x, start, iterations)
            taken.append(time.perf_counter() - began)
            iterations = found[ours][1]
    for run, taken in seconds.items():
        median = statistics.median(taken)
        ratio = statistics.median(mine / other for mine, other in zip(seconds[ours], taken, strict=True))
        print(f"{run.__name__:13} {median:7.2f} s; ours / it {ratio:5.2f}; {found[run][1]} it., {found[run][0]:.7g}")


if __name__ == "__main__":
    main()
