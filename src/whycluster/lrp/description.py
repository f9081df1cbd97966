"""What LRP would do with a network, as a table to read before any image is explained."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from whycluster.lrp.composites import Composite
from whycluster.lrp.graph import Step
from whycluster.lrp.linear_maps import LinearMap
from whycluster.lrp.operations import Plain, Routing
from whycluster.lrp.rules import Rule

HEADER = ("node", "operation", "rule", "folded batch norm")


def described(steps: Sequence[Step], composite: Composite) -> str:
    """One line for each node, in columns."""
    rows = [HEADER, *(_row(step, composite) for step in steps if not isinstance(step.operation, Plain))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _row(step: Step, composite: Composite) -> tuple[str, str, str, str]:
    return step.name, type(step.operation).__name__, _way(step, composite), step.norm or ""


def _way(step: Step, composite: Composite) -> str:
    if not step.reached:
        return "none, part of a gate"
    if isinstance(step.operation, Routing):
        return step.operation.way
    assert isinstance(step.operation, LinearMap)  # there is no fourth kind
    return rule_name(composite.row(step.operation, step.first).rule)


def rule_name(rule: Rule) -> str:
    """The name of a rule with its numbers, such as `gamma(gamma=0.25)`."""
    if not isinstance(rule, partial):
        return getattr(rule, "__name__", type(rule).__name__)
    numbers = [f"{key}={value:g}" for key, value in rule.keywords.items() if not isinstance(value, Tensor)]
    return f"{rule.func.__name__}({', '.join(numbers)})" if numbers else rule.func.__name__
