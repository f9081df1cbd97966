"""The error of a request that cannot be met, and the checks that most often raise it."""

import math
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


def real_number(
    name: str,
    value: Any,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> float:
    """A setting that has to be a finite number within bounds.

    Raises:
        UserError: if it is no number, or out of bounds.

    Example:
        >>> real_number("temperature", 0.1, above=0)
        0.1
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not (least <= value <= most and above < value < below):
        bounds = {">=": least, ">": above, "<=": most, "<": below}
        wanted = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds.items() if math.isfinite(bound))
        raise UserError(f"{name}={value!r} should be a number {wanted}.")
    return float(value)
