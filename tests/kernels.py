"""Data for kernel clusterings, and their formulas one number at a time."""

import math

import numpy as np
from sklearn.datasets import make_blobs, make_circles

RINGS, RING = make_circles(200, factor=0.3, noise=0.03, random_state=0)
CLOUD = np.random.default_rng(0).normal(size=(90, 3))
BLOBS, BLOB = make_blobs([60, 30, 10], centers=[[0, 0, 0], [6, 0, 3], [0, 7, 0]], random_state=0)


def kernel(x: np.ndarray, u: np.ndarray, gamma: float) -> np.ndarray:
    return np.array([[math.exp(-gamma * sum((one - other) ** 2)) for other in u] for one in x])


def decision(x: np.ndarray, u: np.ndarray, labels: np.ndarray, gamma: float) -> np.ndarray:
    similar = kernel(x, u, gamma)
    return np.stack([similar[:, labels == k].mean(1) for k in range(labels.max() + 1)], 1).argmax(1)
