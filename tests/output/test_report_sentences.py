import numpy as np
import pytest

from whycluster.output.report import sentences
from whycluster.output.report.image_concepts import Departure


def test_by_which_model_and_rules_a_run_was_made():
    metrics = {"backbone": "resnet18", "n_clusters": 7, "composite": "auto"}
    chosen = {"composite": "epsilon_gamma_box", "gamma": 0.1}
    made = "7 clusters of the network resnet18; heatmaps by layer-wise relevance propagation, rules "
    assert sentences.made({**metrics, "rules": chosen}) == f"{made}epsilon_gamma_box with gamma 0.1."
    assert sentences.made({**metrics, "composite": "epsilon_plus"}) == f"{made}epsilon_plus."
    assert sentences.made({"n_images": 3}) == ""


@pytest.mark.parametrize(
    ("value", "word", "limit"),
    [
        (0.75, "stable", "stable from 0.75"),
        (0.746, "stable", "stable from 0.75"),
        (0.74, "doubtful", "stable from 0.75"),
        (0.6, "doubtful", "stable from 0.75"),
        (0.59, "unstable", "doubtful from 0.6"),
    ],
)
def test_stability_by_hennigs_limits(value, word, limit):
    found, badge, sentence = sentences.stability(value)
    assert found == word
    assert badge == f"{word}: {value:.2f} of it came back ({limit})"
    assert sentence.startswith(f"{word.capitalize()}: ")
    assert f"{value:.2f}" in sentence
    assert "of the images it was trained on" in sentence


def test_stability_that_was_not_measured():
    assert sentences.stability(None)[:2] == ("not measured", "stability not measured")


@pytest.mark.parametrize(
    ("held", "words"),
    [(0.2, "hardly"), (0.3, "in part"), (0.5, "for the most part"), (0.8, "almost in full"), (0.95, "in full")],
)
def test_shares_in_words(held, words):
    assert sentences.held_in_words(held) == words


def test_receipts_give_the_median_and_how_many_are_weak():
    said = sentences.receipts(np.array([0.2, 0.9, 0.8, np.nan]))
    assert "holds the decision almost in full: red minus blue is 80%" in said
    assert "1 decided too closely to say. In 1 of 3" in said
    assert "too closely" not in sentences.receipts(np.array([0.9]))
    assert "In no image" in sentences.receipts(np.array([0.9, 0.5]))
    assert "taken back by fixed numbers" in sentences.receipts(np.array([1.4]))
    assert "the rest comes from fixed numbers" in sentences.receipts(np.array([0.9]))
    assert "holds the decision hardly" in sentences.receipts(np.array([0.1]))
    assert "too close" in sentences.receipts(np.array([np.nan]))


def test_relevance_at_the_border_is_compared_with_an_even_spread():
    even = np.ones((14, 14))
    said = sentences.places(even.tolist())
    assert said == "49% of what speaks for the cluster lies in the outer 49% of the image: about evenly spread."
    less = even.copy()
    less[2:-2, 2:-2] = 1.4  # 41 % at the border
    assert sentences.places(less.tolist()).startswith("41%")
    assert sentences.places(less.tolist()).endswith("about evenly spread.")
    frame = even.copy()
    frame[2:-2, 2:-2] = -5  # what speaks against the cluster does not count
    assert sentences.places(frame.tolist()).startswith("100%")
    assert "a mark?" in sentences.places(frame.tolist())
    middle = np.zeros((14, 14))
    middle[7, 7] = 1
    assert sentences.places(middle.tolist()).startswith("0%")
    assert sentences.places(middle.tolist()).endswith("it lies more in the middle.")
    assert sentences.places(None) == ""


def cluster_of(*shares):
    return {
        "size": 5,
        "concepts": [{"channel": 7, "share": share} for share in shares],
        "contrasts": [{"rival": 1, "lost": 1}, {"rival": 4, "lost": 3}],
    }


def test_what_a_cluster_is_about():
    said = sentences.about(cluster_of(0.5, 0.25), 20)
    assert "5 of 20 images (25%)" in said
    assert "Its 2 strongest concepts carry 75% of what speaks for it" in said
    assert "concept 7, has 50%: one feature decides" in said
    assert "The second choice of most is cluster 4 (3 of 5 images)" in said
    assert sentences.about({"size": 2, "concepts": [], "contrasts": []}, 2) == "2 of 2 images (100%)."


def test_that_a_cluster_rests_on_many_features_is_said_where_it_does():
    assert "It rests on many features together: its 2 strongest" in sentences.about(cluster_of(0.02, 0.01), 20)
    said = sentences.about(cluster_of(0.12, 0.05), 20)
    assert "the strongest, concept 7, has 12%." in said
    assert "many features" not in said


def test_in_what_an_image_differs_from_its_cluster():
    found = [Departure(121, -0.8, -0.1), Departure(5, 0.1, 0.4), Departure(8, 0.0, 0.3), Departure(3, 0.5, 0.1)]
    said = sentences.departures(found)
    less, more = "concepts 5 and 8 speak for it less than usual", "concept 3 speaks for it more than usual"
    assert said == f"concept 121 speaks against it; {less}; {more}"
    assert sentences.departures(found[1:3]) == "concepts 5 and 8 speak for it less than usual"
