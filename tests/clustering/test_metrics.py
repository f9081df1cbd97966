import itertools

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import silhouette_score
from sklearn.metrics.cluster import contingency_matrix

from whycluster.clustering.metrics import label_agreement, silhouette


@pytest.mark.parametrize("n_clusters", [2, 3, 4])
def test_accuracy_is_that_of_the_best_of_all_matchings(n_clusters):
    random = np.random.RandomState(n_clusters)
    clusters, labels = random.randint(0, n_clusters, 60), random.randint(0, 3, 60)
    names = range(max(n_clusters, 3))
    best = max(
        np.mean([matching[cluster] == label for cluster, label in zip(clusters, labels, strict=True)])
        for matching in itertools.permutations(names)
    )
    assert label_agreement(clusters, [str(label) for label in labels])["accuracy"] == pytest.approx(best)


def test_accuracy_where_there_are_many_more_labels_than_clusters():
    random = np.random.RandomState(0)
    labels, clusters = random.randint(0, 200, 3000) ** 2 // 100, random.randint(0, 4, 3000)
    counts = contingency_matrix(labels, clusters)
    best = counts[linear_sum_assignment(counts, maximize=True)].sum() / 3000
    assert label_agreement(clusters, [str(label) for label in labels])["accuracy"] == best
    everybody = label_agreement(np.arange(200_000) % 50, [str(label) for label in range(200_000)])
    assert everybody["accuracy"] == 50 / 200_000


def test_perfect_and_useless_clusterings():
    labels = ["a", "a", "b", "b"]
    assert label_agreement(np.array([1, 1, 0, 0]), labels) == {"nmi": 1, "ari": 1, "accuracy": 1}
    useless = label_agreement(np.array([0, 0, 0, 0]), labels)
    assert (useless["nmi"], useless["ari"], useless["accuracy"]) == (0, 0, 0.5)


def test_silhouette_where_it_is_and_is_not_defined():
    x = np.array([[0.0], [0.1], [5.0], [5.1]])
    assert silhouette(x, np.array([0, 0, 1, 1])) == pytest.approx(silhouette_score(x, [0, 0, 1, 1]))
    assert np.isnan(silhouette(x, np.zeros(4, int)))
    assert np.isnan(silhouette(x, np.arange(4)))
