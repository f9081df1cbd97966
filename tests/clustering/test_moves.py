"""Images that moved between two clusterings."""

import numpy as np
from sklearn.metrics import adjusted_rand_score

from whycluster.clustering.moves import moves


def test_counts_and_matching_restated():
    random = np.random.RandomState(0)
    before = {f"{n}.jpg": int(random.randint(4)) for n in range(80)}
    after = {name: (cluster + 7) % 4 if random.rand() < 0.8 else 9 for name, cluster in before.items()}
    for gone in ("3.jpg", "17.jpg"):
        del after[gone]
    after["new.jpg"] = 2
    found = moves(before, after)
    shared = sorted(set(before) & set(after))
    assert found.images == len(shared) == 78
    assert (found.before, found.after) == ([0, 1, 2, 3], [0, 1, 2, 3, 9])
    for row, first in enumerate(found.before):
        for column, second in enumerate(found.after):
            assert found.counts[row][column] == sum(before[n] == first and after[n] == second for n in shared)
    assert found.same == {0: 3, 1: 0, 2: 1, 3: 2}
    assert found.moved == sum(after[name] != found.same[before[name]] for name in shared)
    assert found.ari == adjusted_rand_score([before[name] for name in shared], [after[name] for name in shared])


def test_the_same_clusters_by_other_numbers_are_no_move():
    found = moves({"a": 0, "b": 1, "c": 1}, {"a": 8, "b": 2, "c": 2})
    assert (found.moved, found.ari, found.same) == (0, 1.0, {0: 8, 1: 2})


def test_clusterings_without_a_common_image():
    assert moves({"a": 0}, {"b": 0}) is None
