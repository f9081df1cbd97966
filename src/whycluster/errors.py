"""The error of a request that cannot be met, and the checks that most often raise it."""

import numbers
from typing import Any


class UserError(ValueError):
    """A request that cannot be met: the message names the value found and the cure.

    The commands print it as one sentence, without a traceback. Any other error is a fault of the program.
    """


def true_or_false(name: str, value: Any) -> bool:
    """A setting that has to be true or false; words such as `no` would count as true.

    Raises:
        UserError: if it is neither.
    """
    if not isinstance(value, bool):
        raise UserError(f"{name}={value!r} should be true or false.")
    return value


def whole_number(name: str, value: Any, least: int) -> int:
    """A setting that has to be a whole number.

    Args:
        name: of the setting, as the user writes it.
        value: that was given; NumPy's integers count.
        least: that it may be.

    Raises:
        UserError: if it is no whole number, or below `least`.

    Example:
        >>> whole_number("batch_size", 8, least=1)
        8
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise UserError(f"{name}={value!r} should be a whole number >= {least}.")
    return int(value)
