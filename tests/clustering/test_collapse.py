import numpy as np
import pytest

from whycluster.clustering.collapse import collapse


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ([5, 5, 5], ""),
        ([65, 35], ""),
        ([75, 25], ""),
        ([76, 24], "0 of 2 clusters are empty, and the largest has 76 of 100 rows"),
        ([50, 20, 0, 30], "1 of 4 clusters are empty, and the largest has 50 of 100 rows"),
        ([9], ""),
    ],
)
def test_a_collapse_is_described(sizes, sentence):
    said = collapse(np.array(sizes))
    assert sentence in said
    assert bool(said) == bool(sentence)


@pytest.mark.parametrize(
    ("sizes", "kmeans_sizes", "collapsed"),
    [
        ([0, 50, 25, 25], [25, 25, 25, 25], True),
        ([0, 50, 25, 25], [0, 30, 30, 40], False),
        ([0, 75, 0, 25], [0, 30, 30, 40], True),  # one more is empty
        ([70, 10, 10, 10], [25, 25, 25, 25], True),
        ([70, 10, 10, 10], [62, 18, 10, 10], True),  # 62.5 are the limit
        ([70, 10, 10, 10], [63, 17, 10, 10], False),  # there is such a group
        ([70, 30, 0, 0], [63, 17, 10, 10], True),
        ([62, 37, 1], [60, 39, 1], False),
    ],
)
def test_what_k_means_finds_too_is_no_collapse(sizes, kmeans_sizes, collapsed):
    assert bool(collapse(np.array(sizes), np.array(kmeans_sizes))) == collapsed
