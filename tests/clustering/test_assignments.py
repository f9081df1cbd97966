"""Labels and sums are those of the definition, bit for bit, whatever way they were computed."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from whycluster.clustering import assignments as module
from whycluster.clustering.assignments import Assignments
from whycluster.clustering.lloyd import moments, update


def blobs(n: int, d: int, seed: int = 0) -> np.ndarray:
    random = np.random.RandomState(seed)
    return (random.randn(n, d) + 3 * random.randint(0, 4, (n, 1)) * random.randn(1, d)).astype(np.float32)


def grid() -> np.ndarray:
    """Where many rows are at the same distance of several centroids."""
    return np.random.RandomState(1).randint(0, 3, (400, 4)).astype(np.float32)


def with_outliers() -> np.ndarray:
    x = blobs(300, 6)
    x[7], x[8] = 1e6, -3e5
    return x


ROWS = {
    "blobs": blobs(500, 6),
    "one column": blobs(300, 1),
    "many columns": blobs(200, 600),
    "far from the origin": (blobs(300, 6) * 0.05 + 2000).astype(np.float32),
    "a little off the origin": blobs(300, 6) + 3,
    "grid": grid(),
    "outliers": with_outliers(),
    "equal rows": np.ones((40, 3), np.float32),
    "tiny": blobs(300, 6) * np.float32(1e-18),
    "huge": blobs(300, 6) * np.float32(1e15),
    "too large for squares in float32": blobs(300, 6) * np.float32(1e25),
}


def begun(x: np.ndarray) -> Assignments:
    origin = torch.from_numpy(np.median(x, axis=0))
    _, scatter, largest = moments([torch.from_numpy(x)], origin)
    return Assignments(len(x), len(x), origin, scatter, largest)


def pass_over(assignments: Assignments, x: np.ndarray, centroids: Tensor, step: int) -> None:
    assignments.move(centroids)
    for first in range(0, len(x), step):
        assignments.update(first, x[first : first + step])


def starting(x: np.ndarray, restarts: int, clusters: int) -> Tensor:
    random = np.random.RandomState(2)
    return torch.stack([torch.from_numpy(x[random.permutation(len(x))[:clusters]]) for _ in range(restarts)]).double()


def nearest(x: np.ndarray, centroids: Tensor) -> Tensor:
    return (torch.from_numpy(x).double()[None, :, None] - centroids[:, None]).square().sum(3).argmin(2)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(("restarts", "clusters"), [(1, 2), (3, 9)])
def test_labels_and_sums_of_each_iteration(name: str, restarts: int, clusters: int) -> None:
    x, centroids = ROWS[name], starting(ROWS[name], restarts, clusters)
    going, other = begun(x), begun(x)
    for _ in range(12):
        pass_over(going, x, centroids, 64)
        pass_over(other, x, centroids, 1000)  # other blocks …
        fresh = begun(x)
        pass_over(fresh, x, centroids, 100)  # … and nothing to go on from
        assert torch.equal(going.labels, nearest(x, centroids))
        for assignments in (other, fresh):
            assert torch.equal(assignments.labels, going.labels)
            for one, same in zip(assignments.sums(), going.sums(), strict=True):
                assert torch.equal(one, same)
        sums = going.sums()
        assert torch.equal(sums.counts, torch.nn.functional.one_hot(going.labels, clusters).sum(1).double())
        centroids, _ = update(sums, centroids)


def test_sums_of_rounded_rows_are_exact() -> None:
    random = np.random.RandomState(0)
    x = np.where(random.rand(700, 1) < 0.7, 1 - 2.0**-24 * random.randint(1, 99, (700, 1)), 1e-7 * random.rand(700, 1))
    x = (x * [1.0, -1e3, 1e-9]).astype(np.float32)  # each column has its own scale
    centroids = torch.tensor([[[0.9, -900, 0.9e-9], [0, 0, 0]]]).double()
    assignments = begun(x)
    pass_over(assignments, x, centroids, 64)
    for column in range(3):
        largest = float(np.abs(x[:, column]).max())
        quantum = Fraction(2) ** (math.frexp(largest * 700)[1] - 51)
        for cluster in range(2):
            rows = x[assignments.labels[0].numpy() == cluster, column]
            rounded = [round(Fraction(float(value)) / quantum) * quantum for value in rows]
            assert Fraction(float(assignments.sums().features[0, cluster, column])) == sum(rounded)
            assert abs(sum(rounded) - sum(Fraction(float(value)) for value in rows)) < 1e-10 * largest


def between_two(n: int, centre: float, reach: float, seed: int) -> tuple[np.ndarray, Tensor]:
    """Rows that float32 puts on the border of two centroids, or just beside it; many columns, so that errors add up."""
    random = np.random.RandomState(seed)
    first, second = centre + random.randn(2, 400), centre + random.randn(2, 400)
    across = (second - first)[0] / np.linalg.norm((second - first)[0])
    rows = random.randn(n, 400) * reach
    rows += (first + second)[0] / 2 - (rows @ across)[:, None] * across
    return rows.astype(np.float32), torch.from_numpy(np.stack((first[0], second[0])))[None]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("centre", "reach"), [(0.0, 1.0), (0.0, 30.0), (5.0, 1.0), (3000.0, 1.0)])
@pytest.mark.parametrize("spread", [1e-3, 1e9])  # which decides whether rows are centred
def test_what_float32_cannot_decide_is_decided(centre: float, reach: float, spread: float, seed: int) -> None:
    x, centroids = between_two(300, centre, reach, seed)
    origin = torch.full((400,), centre)
    assignments = Assignments(300, 300, origin, spread**2 * 300, torch.from_numpy(np.abs(x).max(0)))
    pass_over(assignments, x, centroids, 100)
    expected = nearest(x, centroids)
    assert 100 < int(expected.sum()) < 200
    assert torch.equal(assignments.labels, expected)


def test_a_centroid_far_out_does_not_make_float32_useless(monkeypatch: pytest.MonkeyPatch) -> None:
    decided, exactly = [], module._nearest

    def watched(x: Tensor, *rest: Tensor) -> Tensor:
        decided.append(len(x))
        return exactly(x, *rest)

    monkeypatch.setattr(module, "_nearest", watched)
    x, assignments = ROWS["outliers"], begun(ROWS["outliers"])
    pass_over(assignments, x, torch.from_numpy(x[:9]).double()[None], 100)
    assert sum(decided) < 40


@pytest.mark.parametrize("folded", [0, module.FAR_ORIGIN])
def test_rows_are_read_only_where_their_label_may_change(monkeypatch: pytest.MonkeyPatch, folded: float) -> None:
    monkeypatch.setattr(module, "FAR_ORIGIN", folded)
    x, read = ROWS["blobs"], []
    assign = Assignments._assign

    def watched(self: Assignments, restarts: slice, rows: slice | Tensor, block: Tensor) -> None:
        read.append(len(block))
        assign(self, restarts, rows, block)

    monkeypatch.setattr(Assignments, "_assign", watched)
    assignments, centroids = begun(x), torch.stack([torch.from_numpy(x[:4]), torch.from_numpy(x[4:8])]).double()
    for change, least, most in ((0.0, 500, 500), (0.0, 0, 20), (1e-3, 0, 60), (50.0, 500, 1000)):
        read.clear()
        centroids = centroids.clone()
        centroids[:, 1] += change
        pass_over(assignments, x, centroids, 250)
        assert least <= sum(read) <= most
        assert torch.equal(assignments.labels, nearest(x, centroids))


def test_gaps_never_promise_too_much() -> None:
    x, centroids = ROWS["blobs"], starting(ROWS["blobs"], 1, 7)
    assignments = begun(x)
    pass_over(assignments, x, centroids, 64)
    pass_over(assignments, x, centroids + 0.01, 64)
    two = torch.cdist(torch.from_numpy(x).double(), centroids[0] + 0.01).topk(2, largest=False).values
    assert (assignments.gaps[0] <= two[:, 1] - two[:, 0]).all()
    assert (assignments.gaps[0] >= 0.5 * (two[:, 1] - two[:, 0]) - 0.1).all()  # nor too little


def test_restarts_that_are_dropped_leave_the_others_as_they_are() -> None:
    x, centroids = ROWS["blobs"], starting(ROWS["blobs"], 3, 5)
    assignments, alone = begun(x), begun(x)
    pass_over(assignments, x, centroids, 100)
    assignments.keep(torch.tensor([True, False, True]))
    for _ in range(4):
        kept = centroids[[0, 2]] + torch.randn(2, 5, 6, dtype=torch.float64)
        pass_over(assignments, x, kept, 100)
        pass_over(alone, x, kept, 100)
        assert torch.equal(assignments.labels, alone.labels)
        assert torch.equal(assignments.sums().features, alone.sums().features)


def test_no_rows() -> None:
    assignments = Assignments(0, 10, torch.zeros(3), 1.0, torch.ones(3))
    for _ in range(2):
        pass_over(assignments, np.empty((0, 3), np.float32), torch.zeros(2, 4, 3).double(), 1)
        assignments.update(0, np.empty((0, 3), np.float32))
        assert assignments.sums().counts.shape == (2, 4)
        assert not assignments.sums().features.any()
