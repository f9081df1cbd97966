import numpy as np
import pytest

from whycluster.output.report import sentences


@pytest.mark.parametrize(
    ("value", "word"), [(0.75, "stable"), (0.746, "stable"), (0.74, "doubtful"), (0.59, "not to be trusted")]
)
def test_stability_by_hennigs_limits(value, word):
    found, sentence = sentences.stability(value)
    assert found == word
    assert f"{value:.2f}" in sentence
    assert "of the images it was trained on" in sentence


def test_stability_that_was_not_measured():
    assert sentences.stability(None)[0] == "not measured"


def test_receipts_give_the_median_and_how_many_are_weak():
    said = sentences.receipts(np.array([0.2, 0.9, 0.8, np.nan]))
    assert "80%" in said
    assert "In 1 of 3" in said
    assert "In no image" in sentences.receipts(np.array([0.9, 0.5]))
    assert "taken back by fixed numbers" in sentences.receipts(np.array([1.4]))
    assert "the rest comes from fixed numbers" in sentences.receipts(np.array([0.9]))
    assert "not known" in sentences.receipts(np.array([np.nan]))


def test_relevance_at_the_border_is_compared_with_an_even_spread():
    even = np.ones((14, 14))
    assert "49% of what speaks for the group lies in the outer 49%" in sentences.places(even.tolist())
    frame = even.copy()
    frame[2:-2, 2:-2] = -5  # what speaks against the group does not count
    assert sentences.places(frame.tolist()).startswith("100%")
    assert "a mark?" in sentences.places(frame.tolist())
    middle = np.zeros((14, 14))
    middle[7, 7] = 1
    assert sentences.places(middle.tolist()).startswith("0%")
    assert sentences.places(None) == ""
    assert sentences.places(np.zeros((14, 14)).tolist()).startswith("0%")


def test_labels_are_counted_most_frequent_first():
    labels = ["a", "b", "b", "", "c", "c", "c", "d", "e"]
    assert sentences.labels_in(labels) == "3 “c”, 2 “b”, 1 without a label, 1 “a”, and 2 with others"
    assert sentences.labels_in(["", ""]) == ""


def test_what_a_cluster_is_about():
    cluster = {
        "size": 5,
        "concepts": [{"share": 0.5}, {"share": 0.25}],
        "contrasts": [{"rival": 1, "lost": 1}, {"rival": 4, "lost": 3}],
    }
    said = sentences.about(cluster, 20)
    assert "5 of 20 images (25%)" in said
    assert "75% of what speaks for it" in said
    assert "one feature decides" in said
    assert "nearest other cluster is mostly 4 (3 of 5 images)" in said
    assert sentences.about({"size": 2, "concepts": [], "contrasts": []}, 2) == "2 of 2 images (100%)."
