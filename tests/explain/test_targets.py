import pytest
import torch

from whycluster.explain import Assignment, Target, parse_target

ASSIGNMENT = Assignment(torch.tensor([0, 2]), torch.rand(2), torch.rand(2), torch.tensor([1, 0]))


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("assigned", [Target("assigned")]),
        ("runner_up", [Target("runner_up")]),
        ("all", [Target("0", 0), Target("1", 1), Target("2", 2)]),
        ("2", [Target("2", 2)]),
        (2, [Target("2", 2)]),
        (0, [Target("0", 0)]),
        ("0:2", [Target("0:2", 0, 2)]),
        ("  1\n", [Target("1", 1)]),
        ("02:00", [Target("2:0", 2, 0)]),
        ("002", [Target("2", 2)]),
    ],
)
def test_targets_as_users_write_them(text, targets):
    assert parse_target(text, 3) == targets


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "there is no cluster 3; the model has 0 to 2"),
        ("03", "there is no cluster 3"),
        ("1:9", "there is no cluster 9; the model has 0 to 2"),
        ("9:1", "there is no cluster 9"),
        ("1:1", "against itself"),
        ("1:01", "against itself"),
        (-1, "unknown; choose assigned"),
        ("-1", "unknown"),
        ("", "unknown"),
        ("1 : 2", "unknown"),
        ("1:", "unknown"),
        (":1", "unknown"),
        ("1:2:0", "unknown"),
        ("1.0", "unknown"),
        (1.0, "unknown"),
        ("Assigned", "unknown"),
        ("²", "unknown"),
        ("\N{ARABIC-INDIC DIGIT ONE}", "unknown"),  # a digit to `int`
        (None, "unknown"),
        (True, "unknown"),
    ],
)
def test_other_targets_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_target(text, 3)


@pytest.mark.parametrize(
    ("text", "clusters"), [("assigned", [0, 2]), ("runner_up", [1, 0]), ("1", [1, 1]), ("2:0", [2, 2])]
)
def test_cluster_of_each_image(text, clusters):
    (target,) = parse_target(text, 3)
    assert target.clusters(ASSIGNMENT).tolist() == clusters
