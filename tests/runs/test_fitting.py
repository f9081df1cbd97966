import numpy as np
import pytest

from whycluster.runs.fitting import warn_of_collapse

EVEN = np.arange(100) % 4


def test_a_collapse_is_told_with_its_cure():
    message = "1 of 4 clusters are empty, and the largest has 50 of 100 rows; lower it"
    with pytest.warns(UserWarning, match=message):
        warn_of_collapse(np.where(EVEN == 3, 1, EVEN), EVEN, 4, "lower it.")


@pytest.mark.filterwarnings("error")
def test_what_k_means_finds_too_is_no_collapse():
    unequal = np.repeat(np.arange(4), (90, 5, 5, 0))
    warn_of_collapse(unequal, unequal, 4, "lower it.")
