import numpy as np
import pytest

from whycluster.errors import UserError, real_number, true_or_false, whole_number


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


@pytest.mark.parametrize("value", ["0.5", None, True, np.nan, np.inf, 0, -1, 1.5])
def test_what_is_no_number_within_bounds_is_named(value):
    with pytest.raises(UserError, match=r"momentum=.* should be a number > 0 and <= 1"):
        real_number("momentum", value, above=0, most=1)


@pytest.mark.parametrize("value", [0, 0.5, np.float32(0.25)])
def test_numbers_of_all_kinds_are_taken(value):
    assert real_number("tol", value, least=0, below=1) == value
    with pytest.raises(UserError, match=r"tol=1 should be a number >= 0 and < 1"):
        real_number("tol", 1, least=0, below=1)
