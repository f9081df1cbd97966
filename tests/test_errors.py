import numpy as np
import pytest

from whycluster.errors import UserError, true_or_false, whole_number


@pytest.mark.parametrize("value", ["many", 1.5, None, True, 0, np.float64(2)])
def test_what_is_no_whole_number_is_named(value):
    with pytest.raises(UserError, match=f"limit={value!r}".replace("(", r"\(").replace(")", r"\)")):
        whole_number("limit", value, 1)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_of_all_kinds_are_taken(value):
    assert whole_number("limit", value, 3) == 3
    assert type(whole_number("limit", value, 3)) is int


@pytest.mark.parametrize("value", ["no", "", 0, 1, None])
def test_words_are_not_taken_for_true(value):
    with pytest.raises(UserError, match=r"resume=.* should be true or false"):
        true_or_false("resume", value)
    assert true_or_false("resume", True)
    assert not true_or_false("resume", False)
