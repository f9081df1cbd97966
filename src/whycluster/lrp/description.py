"""A table of how LRP passes each node of a network, which can be read before any image is explained."""

from collections.abc import Sequence

from whycluster.lrp.graph import operation_name
from whycluster.lrp.plan import Planned
from whycluster.lrp.steps import ConstantStep, LinearStep, MoveStep

HEADER = ("node", "operation", "rule", "folded batch norm")


def described(planned: Sequence[Planned]) -> str:
    """Lists the nodes that relevance reaches, one line each, in columns."""
    rows = [HEADER, *(_row(one) for one in planned if not isinstance(one.step, ConstantStep))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _row(one: Planned) -> tuple[str, str, str, str]:
    kind = one.step.kind.__name__ if isinstance(one.step, LinearStep) else operation_name(one.node)
    way = "move back" if isinstance(one.step, MoveStep) else "pass"
    return one.name, kind, way if one.rule is None else repr(one.rule), one.norm or ""
