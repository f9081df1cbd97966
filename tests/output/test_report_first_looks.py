import numpy as np

from whycluster.output.report.first_looks import first_looks


def clusters_of(*stability, flagged=()):
    return [
        {"cluster": number, "stability": value, "shortcut": {"flagged": number in flagged}}
        for number, value in enumerate(stability)
    ]


def text(sentence):
    return "".join(part if isinstance(part, str) else part["text"] for part in sentence)


OWN = np.array([0, 0, 1, 1, 2, 2])
SECOND = np.array([1, 1, 0, 2, 1, 0])


def test_nothing_is_said_where_nothing_is_notable():
    assert first_looks(clusters_of(0.9, 0.746, None), OWN, SECOND, [""] * 6, 0) == []
    assert first_looks(clusters_of(0.3), np.zeros(6), SECOND, [""] * 6, 0) == []  # the only one


def test_the_least_stable_cluster_and_whose_second_choice_it_is():
    [said] = first_looks(clusters_of(0.8, 0.3, 0.5), OWN, SECOND, [""] * 6, 0)
    assert said[0] == {"text": "Cluster 1", "to": {"cluster": 1}}
    least = "Cluster 1 is the least stable (0.30 of it came back)"
    assert text(said) == f"{least}, and the second choice of 3 of the 4 images of other clusters."
    assert text(first_looks(clusters_of(0.8, 0.3, 0.5), OWN, np.full(6, 2), [""] * 6, 0)[0]) == f"{least}."


def test_shortcuts_come_first_and_many_are_cut_short():
    said, _ = first_looks(clusters_of(*[0.1] * 5, flagged=(0, 2)), OWN, SECOND, [""] * 6, 0)
    assert text(said).startswith("Cluster 0 and cluster 2 may be held together by a shortcut")
    assert [part["to"] for part in said if isinstance(part, dict)] == [{"cluster": 0}, {"cluster": 2}]
    said, _ = first_looks(clusters_of(*[0.1] * 5, flagged=range(5)), OWN, SECOND, [""] * 6, 0)
    assert text(said).startswith("Cluster 0, cluster 1, cluster 2 and 2 more may be held")


def test_labels_that_are_spread_and_rare():
    own = np.array([0, 1, 2] * 4)
    spread, unlike = first_looks(clusters_of(0.9, 0.9, 0.9), own, own, ["dog"] * 12, 5)
    assert text(spread) == (
        "No cluster holds half of the 12 images of the label “dog”: they are in cluster 0 (4), cluster 1 (4) and "
        "cluster 2 (4)."
    )
    assert unlike == [{"text": "5 images", "to": {"part": "labels"}}, " have another label than most of their cluster."]
    assert text(first_looks(clusters_of(0.9), own, own, [""] * 12, 1)[0]).startswith("1 image has another label")
