import sys
import warnings

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_hex

from whycluster import explain_table, plot_relevance
from whycluster.output.bars import BLUE_BAR, GREY_BAR, RED_BAR

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


@pytest.fixture
def row():
    return pd.Series({"alcohol": -0.5, "ash": 0.1, "hue": 2.0, "proline": 0.0, "magnesium": -0.3}, name=(17, 2))


def labels(axis):
    return [label.get_text() for label in axis.get_yticklabels()]


def widths(ax):
    return [bar.get_width() for bar in ax.patches]


def colours(ax):
    return [to_hex(bar.get_facecolor()) for bar in ax.patches]


def drawn(ax):
    """The numbers beside the bars, after a drawing that may not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax.figure.canvas.draw()
    return labels(ax.child_axes[0])


def test_bars_of_one_row(row):
    ax = plot_relevance(row)
    assert labels(ax) == ["hue", "alcohol", "magnesium", "ash", "proline"]
    assert widths(ax) == [2.0, -0.5, -0.3, 0.1, 0.0]
    assert colours(ax)[:4] == [RED_BAR, BLUE_BAR, BLUE_BAR, RED_BAR]
    assert ax.get_ylim() == (4.5, -0.5)  # the first on top
    assert drawn(ax) == ["+2.00", "−0.50", "−0.30", "+0.10", "0"]  # noqa: RUF001


def test_others_make_up_the_sum(row):
    ax = plot_relevance(row, n_features=2)
    assert labels(ax) == ["hue", "alcohol", "3 others"]
    assert colours(ax) == [RED_BAR, BLUE_BAR, GREY_BAR]
    assert sum(widths(ax)) == pytest.approx(row.sum())
    assert labels(plot_relevance(row, n_features=4))[-1] == "1 other"


def test_the_mean_of_rows_with_its_spread():
    values = np.random.default_rng(0).normal(size=(6, 4))
    index = pd.MultiIndex.from_arrays([range(6), [1] * 6], names=["row", "cluster"])
    ax = plot_relevance(pd.DataFrame(values, index, list("abcd")), n_features=2)
    order = np.argsort(-np.abs(values.mean(0)))
    shown = np.column_stack([values[:, order[:2]], values[:, order[2:]].sum(1)])
    np.testing.assert_allclose(widths(ax), shown.mean(0))
    (lines,) = [lines.get_segments() for lines in ax.collections]
    ends = np.array([line[:, 0] for line in lines])
    np.testing.assert_allclose(ends, np.stack([shown.mean(0) - shown.std(0), shown.mean(0) + shown.std(0)], 1))
    assert ax.get_title(loc="left").startswith("mean of 6 rows of cluster 1\nrelevance sums to ")
    assert "standard deviation" in ax.get_xlabel()


def test_titles(row):
    def title(relevance):
        return plot_relevance(relevance).get_title(loc="left")

    assert title(row) == "row 17, cluster 2\nrelevance sums to 1.30"
    assert title(row.rename(("Merlot", np.int64(2)))).startswith("Merlot, cluster 2\n")
    assert title(row.rename(None)) == title(row.rename(5)) == "relevance sums to 1.30"
    assert title(-row.rename("Merlot")) == "Merlot\nrelevance sums to −1.30"  # noqa: RUF001
    table = row.to_frame().T.rename_axis(index=["bottle", "cluster"])
    assert title(table).startswith("bottle 17, cluster 2\n")
    assert title(table.groupby(level="cluster").mean()).startswith("cluster 2\n")
    both = pd.concat([table, table.rename(index={2: 3}, level="cluster")])
    assert title(both).startswith("mean of 2 rows of 2 clusters\n")
    assert plot_relevance(row, title="why?").get_title(loc="left") == "why?"


def test_a_row_of_a_table_is_drawn_as_it_is():
    rows = np.random.default_rng(0).normal(size=(5, 3))
    table = explain_table(rows[:2], rows)
    np.testing.assert_array_equal(sorted(widths(plot_relevance(table.iloc[3]))), sorted(table.iloc[3]))
    assert plot_relevance(table.iloc[3]).get_title(loc="left") == plot_relevance(table.iloc[[3]]).get_title(loc="left")


def test_names_are_no_formulas_and_never_too_long():
    ax = plot_relevance(pd.Series({"price in $": 1.0, "$\\broken": -2.0, "w" * 99: 0.5}))
    drawn(ax)
    assert labels(ax)[:2] == ["$\\broken", "price in $"]
    assert len(labels(ax)[2]) == 40


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1.0, 1e5, 1e12])
def test_any_size_is_drawn(row, scale):
    drawn(plot_relevance(row * scale))


def test_axes_that_are_given(row):
    _, (left, right) = pyplot.subplots(1, 2)
    assert plot_relevance(row, ax=right) is right
    assert not left.patches
    assert len(pyplot.get_fignums()) == 1


def test_what_cannot_be_drawn(row):
    for wrong in (0, -1, 2.5, True, None):
        with pytest.raises(ValueError, match=r"n_features=.* should be a whole number >= 1"):
            plot_relevance(row, n_features=wrong)
    with pytest.raises(ValueError, match="relevance is a ndarray; give a pandas series"):
        plot_relevance(row.to_numpy())
    for empty in (row[:0], row.to_frame().T[:0], row.where(row > 0)):
        with pytest.raises(ValueError, match="should hold finite numbers, and at least one"):
            plot_relevance(empty)


@pytest.mark.parametrize("missing", ["matplotlib", "pandas"])
def test_without_the_extra(row, missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"{missing}.*pip install 'whycluster\[tables\]'"):
        plot_relevance(row)
