import pytest

from whycluster.output.cluster_tables import SHOWN, about_table, show_trust
from whycluster.output.console import show


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


def test_the_stability_of_what_is_learned_is_that_of_kmeans(lines):
    clusters = [cluster(0, 0.9), cluster(1, 0.5)]
    assert "k-means" not in lines({}, clusters)[-1]
    said = " ".join(lines({"kmeans": {"ari_with_it": 0.9}}, clusters)[-1])
    assert said.startswith("stability is that of k-means on these features")


def about(number, stability=None, concepts=((7, 0.164), (3, 0.1)), shortcut=None):
    """An entry of `clusters.json` of an explain run, as far as the table reads it."""
    named = [{"channel": channel, "share": share} for channel, share in concepts]
    verdict = None if stability is None else f"word {number}"
    trust = {"stability": stability, "verdict": verdict, "silhouette": None}
    entry = {"cluster": number, "size": 10 * number, **trust, "concepts": named}
    return entry if shortcut is None else entry | {"shortcut": {"flagged": shortcut}}


@pytest.fixture
def about_lines(capsys):
    """The words of each line of the table."""

    def print_lines(clusters):
        show(about_table(clusters))
        return [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]

    return print_lines


def test_what_clusters_are_about_those_trusted_least_first(about_lines):
    head, _, *rows = about_lines([about(1, 0.9), about(2, 0.3), about(3, 0.5, concepts=())])
    assert head == ["cluster", "images", "stability", "top", "concept"]
    assert rows == [
        ["2", "20", "0.30", "word", "2", "concept", "7", "(16%)"],
        ["3", "30", "0.50", "word", "3", "-"],
        ["1", "10", "0.90", "word", "1", "concept", "7", "(16%)"],
    ]


def test_without_stability_there_is_no_column_for_it(about_lines):
    head, _, *rows = about_lines([about(1), about(2)])
    assert head == ["cluster", "images", "top", "concept"]
    assert rows == [[str(k), str(10 * k), "concept", "7", "(16%)"] for k in (1, 2)]


def test_clusters_with_a_shortcut_come_first_with_a_warning(about_lines):
    _, _, *rows = about_lines([about(1, 0.2, shortcut=False), about(2, 0.9, shortcut=True), about(3, 0.8)])
    assert [row[0] for row in rows] == ["2", "1", "3"]
    assert " ".join(rows[0]).endswith("(16%) may be held together by a shortcut")
    assert all(row[-1] == "(16%)" for row in rows[1:])


def test_twelve_rows_at_most(about_lines):
    _, _, *rows, last = about_lines([about(k, 1 - k / 100, shortcut=k < 2) for k in range(SHOWN + 3)])
    assert [int(row[0]) for row in rows] == [1, 0, *range(SHOWN + 2, 4, -1)]
    assert " ".join(last) == "… and 3 more in clusters.json"


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
