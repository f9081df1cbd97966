"""Relevance of table features as horizontal bars: red speaks for the cluster, blue against it."""

from math import floor, log10
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from whycluster.errors import UserError, whole_number
from whycluster.output.heatmaps import BLUE_RAMP, RED_RAMP

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RED_BAR, BLUE_BAR = ("#{:02x}{:02x}{:02x}".format(*ramp[2]) for ramp in (RED_RAMP, BLUE_RAMP))
GREY_BAR, LINES = "#9a9a9a", "#333333"
MINUS = "\N{MINUS SIGN}"
LONGEST_LABEL = 40  # letters
FIGURE_WIDTH, BAR_HEIGHT, MARGIN = 6.4, 0.3, 1.3  # in inches


def plot_relevance(
    relevance: Any, *, n_features: int = 10, ax: "Axes | None" = None, title: str | None = None
) -> "Axes":
    """Draws the most relevant features of one row, or of the mean of several, as bars.

    The bars add up to the sum of the row: a grey one at the bottom holds the sum of all other features.

    Args:
        relevance: a row of what `explain_table` returns, or such a table, of whose rows the mean is drawn with one
            standard deviation to either side.
        n_features: number of features with a bar of their own, largest absolute relevance first.
        ax: the axes to draw on; `None`: those of a new pyplot figure.
        title: `None`: the row, its cluster and the sum.

    Returns:
        The axes.

    Raises:
        UserError: if `relevance` is not a series or frame of finite numbers, or `n_features` is below 1.
        ImportError: if pandas or matplotlib is not installed.

    Example:
        >>> import matplotlib
        >>> matplotlib.use("agg")
        >>> import pandas as pd
        >>> ax = plot_relevance(pd.Series({"colour": 0.5, "ash": -0.25, "hue": 2.0, "acid": 0.5}), n_features=2)
        >>> [label.get_text() for label in ax.get_yticklabels()], [float(bar.get_width()) for bar in ax.patches]
        (['hue', 'colour', '2 others'], [2.0, 0.5, 0.25])
    """
    n_features = whole_number("n_features", n_features, 1)
    table = _as_table(relevance)
    names, values, colours = _strongest(table, n_features)
    ax = _new_axes(len(names)) if ax is None else ax
    _draw(ax, names, values, colours)
    ax.set_title(_title(table) if title is None else title, loc="left", fontsize="medium", parse_math=False)
    what = "relevance" if len(table) == 1 else "mean relevance ± standard deviation"
    ax.set_xlabel(f"{what}\n(red: for the cluster, blue: against it)")
    return ax


def _as_table(relevance: Any) -> Any:
    """Converts the relevance to a frame; a series becomes its only row, and its name the index of that row."""
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("plot_relevance takes a pandas series or frame; pip install 'whycluster[tables]'.") from error
    if isinstance(relevance, pd.Series):
        name = relevance.name
        if isinstance(name, tuple) and len(name) > 1 and isinstance(name[-1], int | np.integer):
            index = pd.MultiIndex.from_tuples([name], names=["row"] * (len(name) - 1) + ["cluster"])
        else:
            index = pd.Index([name], dtype=object)
        relevance = pd.DataFrame(relevance.to_numpy()[None], index=index, columns=relevance.index)
    if not isinstance(relevance, pd.DataFrame):
        raise UserError(f"relevance is a {type(relevance).__name__}; give a pandas series, such as table.iloc[0].")
    if not relevance.size or not np.isfinite(relevance.to_numpy(np.float64)).all():
        raise UserError(f"relevance of shape {relevance.shape} should hold finite numbers, and at least one.")
    return relevance


def _strongest(table: Any, n_features: int) -> tuple[list[str], np.ndarray, list[str]]:
    """Selects the bars: their labels from top to bottom, their values in each row `(N, bars)`, and their colours."""
    values = table.to_numpy(np.float64)
    mean = values.mean(0)
    order = np.argsort(-np.abs(mean), kind="stable")
    shown, others = order[:n_features], order[n_features:]
    names = [_short(str(table.columns[feature])) for feature in shown]
    colours = [RED_BAR if mean[feature] >= 0 else BLUE_BAR for feature in shown]
    bars = values[:, shown]
    if len(others):
        names.append(f"{len(others)} other{'s' if len(others) > 1 else ''}")
        colours.append(GREY_BAR)
        bars = np.column_stack([bars, values[:, others].sum(1)])
    return names, bars, colours


def _new_axes(n_bars: int) -> "Axes":
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("plot_relevance draws with matplotlib; pip install 'whycluster[tables]'.") from error
    return pyplot.subplots(figsize=(FIGURE_WIDTH, MARGIN + BAR_HEIGHT * n_bars), layout="constrained")[1]


def _draw(ax: "Axes", names: list[str], values: np.ndarray, colours: list[str]) -> None:
    mean, places = values.mean(0), np.arange(len(names))
    spread: Any = {"xerr": values.std(0), "ecolor": LINES, "error_kw": {"elinewidth": 1}} if len(values) > 1 else {}
    ax.barh(places, mean, color=colours, height=0.72, **spread)
    ax.axvline(0, color=LINES, linewidth=0.8)
    ax.set_yticks(places, names, parse_math=False)
    ax.set_ylim(len(names) - 0.5, -0.5)  # the strongest on top
    ax.margins(x=0.05)
    ax.locator_params(axis="x", nbins=5)
    numbers = ax.secondary_yaxis("right")  # a column of their own: at the ends of bars they would hit the names
    numbers.set_yticks(places, [_number(value, np.abs(mean).max()) for value in mean])
    for label, colour in zip(numbers.get_yticklabels(), colours, strict=True):
        label.set_color(LINES if colour == GREY_BAR else colour)
    for axis in (ax, numbers):
        axis.tick_params(axis="y", length=0)
        axis.spines[:].set_visible(False)
    ax.spines["bottom"].set_visible(True)


def _title(table: Any) -> str:
    """Writes the title: the rows, their clusters, and the sum of their relevance."""
    total = float(table.to_numpy(np.float64).sum(1).mean())
    levels, first = list(table.index.names), table.index[0]
    clusters = table.index.unique("cluster") if "cluster" in levels else []
    of = f"cluster {clusters[0]}" if len(clusters) == 1 else f"{len(clusters)} clusters" if len(clusters) else ""
    if len(table) == 1:
        values = first if isinstance(first, tuple) else (first,)
        called = [_row_name(level, value) for level, value in zip(levels, values, strict=True) if level != "cluster"]
        who = ", ".join(part for part in [*called, of] if part)
    else:
        who = f"mean of {len(table)} rows" + (f" of {of}" if of else "")
    return f"{who}\nrelevance sums to {_number(total, abs(total), '')}".lstrip()


def _row_name(name: Any, value: Any) -> str:
    """Returns the name of a row, or its index level and number."""
    if isinstance(value, str):
        return _short(value)
    return "" if name is None else f"{name} {value}"


def _short(name: str) -> str:
    """Replaces the middle of a long name by an ellipsis.

    Example:
        >>> _short("a feature whose name goes on and on and on and on")
        'a feature whose name…nd on and on and on'
    """
    half = LONGEST_LABEL // 2
    return name if len(name) <= LONGEST_LABEL else f"{name[:half]}…{name[1 - half :]}"


def _number(value: float, largest: float, sign: Literal["+", ""] = "+") -> str:
    """Formats a number with as many decimals as the largest one needs for three significant digits.

    Example:
        >>> _number(-0.0623, 1.5), _number(0.00001, 1.5), _number(3e-9, 3e-9)
        ('−0.06', '0', '+3.00e−09')
    """
    if value == 0:
        return "0"
    decimals = 2 - floor(log10(largest))
    if not -5 < decimals < 7:
        return f"{value:{sign}.2e}".replace("-", MINUS)
    text = f"{value:{sign},.{max(decimals, 0)}f}"
    return text.replace("-", MINUS) if any(digit in "123456789" for digit in text) else "0"
