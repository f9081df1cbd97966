import pytest

from whycluster.output.cluster_tables import SHOWN, show_trust


def cluster(number, stability, silhouette=0.2, nearest=0):
    words = {"stability": stability, "verdict": f"word {number}", "silhouette": silhouette, "nearest": nearest}
    return {"cluster": number, "size": 100 + number, **words, "margin": 1.0, "distance": 2.0}


@pytest.fixture
def lines(capsys):
    """What is printed, in words."""

    def print_lines(*arguments):
        show_trust(*arguments)
        return [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]

    return print_lines


def test_clusters_that_are_trusted_least_come_first(lines):
    clusters = [cluster(0, 0.9), cluster(1, None), cluster(2, 0.5, 0.3), cluster(3, 0.5, 0.1), cluster(4, 0.7, None)]
    _, _, *rows = lines({}, clusters)
    assert [row[0] for row in rows] == ["3", "2", "4", "0", "1"]
    assert rows[0] == ["3", "103", "0.50", "word", "3", "0.10", "0"]
    assert rows[2] == ["4", "104", "0.70", "word", "4", "-", "0"]


def test_of_many_clusters_the_worst_are_shown(lines):
    clusters = [cluster(number, 1 - number / 100) for number in range(SHOWN + 5)]
    _, _, *rows, last = lines({}, clusters)
    assert [row[0] for row in rows] == [str(number) for number in range(SHOWN + 4, 4, -1)]
    assert " ".join(last) == "… and 5 more in clusters.json"


def test_what_was_not_measured_is_not_shown(lines):
    assert lines({}, [cluster(0, None), cluster(1, None)]) == []


def test_the_number_that_was_chosen_is_marked(lines):
    curve = [
        {
            "n_clusters": k,
            "silhouette": 0.1 * k,
            "silhouette_without_groups": 0.05,
            "stability": 0.9,
            "inertia": 12345.6,
        }
        for k in (2, 3, 4)
    ]
    metrics = {"how_many": curve, "how_many_verdict": "a [sentence]", "n_clusters": 3}
    _, _, *rows, sentence = lines(metrics, [])
    assert rows == [
        ["2", "0.200", "0.050", "0.900", "1.235e+04"],
        ["->", "3", "0.300", "0.050", "0.900", "1.235e+04"],
        ["4", "0.400", "0.050", "0.900", "1.235e+04"],
    ]
    assert sentence == ["a", "[sentence]"]
