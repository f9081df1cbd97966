"""Relevance of neuralized clusterings beside the two matrix products that it cannot do without.

    PYTHONPATH=tests python tests/benchmarks/heads.py [--rows 1000] [--clusters 1000] [--features 512] [--rounds 21]

The products are features by centroids, (N, D)·(D, K), and back, (N, K)·(K, D); for kernel k-means, by supports. Ratios
are medians of paired rounds; memory is the peak above what was there before, in units of the (N, K) matrix.
"""

import argparse
import operator
import statistics
from collections.abc import Callable

import torch
from measure import peak, seconds
from torch import Tensor

from whycluster.heads import Head, NeuralizedKernelKMeans, NeuralizedKMeans


def products(x: Tensor, points: Tensor) -> Tensor:
    """The limit."""
    return (x @ points.T) @ points


def questions(head: Head, x: Tensor) -> dict[str, Callable[[], object]]:
    """What is asked of a head."""
    return {
        "discriminants": lambda: head(x),
        "probability": lambda: head.probability(x),
        "relevance, midpoint": lambda: head.relevance(x),
        "relevance, zero": lambda: head.relevance(x, rule="zero"),
        "relevance of cluster 3": lambda: head.relevance(x, target=3),
        "relevance of 3 against 5": lambda: head.relevance(x, target=3, against=5),
    }


def compare(name: str, head: Head, x: Tensor, points: Tensor, rounds: int) -> list[str]:
    """The lines of the table for one head."""
    lines = []
    matrix = len(x) * len(points) * x.element_size() / 2**20  # MiB
    for question, ask in questions(head, x).items():
        pairs = [(seconds(ask), seconds(lambda: products(x, points))) for _ in range(rounds + 1)][1:]
        ours = statistics.median(one for one, _ in pairs)
        ratio = statistics.median(operator.truediv(*pair) for pair in pairs)
        memory = statistics.median(peak(ask) for _ in range(3))
        lines.append(f"| {name} | {question} | {1e3 * ours:.1f} ms | {ratio:.2f} | {memory / matrix:.1f} |")
    return lines


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    for name, default in (("rows", 1000), ("clusters", 1000), ("features", 512), ("supports", 1000), ("rounds", 21)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randn(options.rows, options.features)
    centroids = torch.randn(options.clusters, options.features)
    supports, labels = torch.randn(options.supports, options.features), torch.arange(options.supports) % 10
    print("| head | question | time | / products | memory / (N, K) |")
    print("| --- | --- | --- | --- | --- |")
    for name, head, points in (
        ("k-means", NeuralizedKMeans(centroids, 0.01), centroids),
        ("kernel k-means", NeuralizedKernelKMeans(supports, labels, 1 / options.features, 0.01), supports),
    ):
        print("\n".join(compare(name, head, x, points, options.rounds)), flush=True)


if __name__ == "__main__":
    main()
