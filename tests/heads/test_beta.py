import math

import pytest
import torch

from whycluster.heads.beta import heuristic_beta, user_beta


@pytest.mark.parametrize(("given", "number"), [(0, 0.0), (2.5, 2.5), (math.inf, math.inf), (torch.tensor(3), 3.0)])
def test_a_number_is_itself(given, number):
    assert user_beta(given) == number


@pytest.mark.parametrize("given", [None, "auto"])
def test_none_and_auto_leave_it_to_the_head(given):
    assert user_beta(given) is None


@pytest.mark.parametrize("wrong", [-1, math.nan, "0.5", "stiff", [], [1, 2], {}])
def test_what_is_no_stiffness(wrong):
    with pytest.raises(ValueError, match=r"head.beta=.* should be a number >= 0, or 'auto'"):
        user_beta(wrong, "head.beta")


def test_the_heuristic_is_one_over_the_mean_discriminant():
    def head(x):
        return torch.stack((x[:, 0], -x[:, 0]), 1)

    assert heuristic_beta(head, [torch.tensor([[1.0], [-2.0]]), torch.tensor([[6.0]])]) == pytest.approx(1 / 3)


def test_the_heuristic_where_no_two_clusters_differ():
    assert heuristic_beta(lambda x: torch.zeros(len(x), 2), [torch.ones(3, 1)]) == 1
