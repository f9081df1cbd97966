from collections import Counter

import numpy as np

from whycluster.output.report.labels import labels_in, spread_labels, unlike_most


def test_labels_are_counted_most_frequent_first():
    labels = ["a", "b", "b", "", "c", "c", "c", "d", "e"]
    assert labels_in(labels) == "3 “c”, 2 “b”, 1 without a label, 1 “a”, 1 “d”, 1 “e”"
    assert labels_in([*labels, "f", "g", "g"]).endswith("1 without a label, 1 “a”, 1 “d”, and 2 with 2 others")
    assert labels_in(["", ""]) == ""


def test_images_are_unlike_most_where_one_label_holds_half():
    assert unlike_most(["a", "b", "a", "c", "a", "c"]) == [1, 3, 5]  # the rarest first
    assert unlike_most(["a", "a", "b", "c"]) == [2, 3]  # just half
    assert unlike_most(["a", "a", "b", "c", "d"]) == []
    assert unlike_most(["a", "a", "", "", "b"]) == []  # of all, and not of those with a label
    assert unlike_most(["a", "a", "", "b"]) == [3]
    assert unlike_most(["", "", ""]) == []


def test_a_label_is_spread_where_no_cluster_holds_half_of_it():
    labels = ["dog"] * 12 + ["cat"] * 10 + ["rare"] * 3 + [""] * 9
    clusters = np.array([0] * 5 + [1] * 4 + [2] * 3 + [0] * 5 + [1] * 3 + [2] * 2 + [0, 1, 2] + [0, 1, 2] * 3)
    assert spread_labels(labels, clusters) == [("dog", Counter({0: 5, 1: 4, 2: 3}))]
    more = [label or "bird" for label in labels]
    assert [label for label, _ in spread_labels(more, clusters)] == ["dog", "bird"]
