"""Relevance of every feature of every row, as a pandas frame."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from whycluster.errors import UserError
from whycluster.heads import Beta, Head, RuleName, neuralize
from whycluster.heads.arguments import as_tensor
from whycluster.heads.head import TARGETS
from whycluster.heads.pipelines import fitted_names
from whycluster.heads.pooling import best_two

if TYPE_CHECKING:
    import pandas as pd

TABLE_ENTRIES = 2**22  # numbers that are computed at once; the table itself needs memory in addition


def explain_table(
    model: Any,
    X: Any,  # noqa: N803
    feature_names: Any = None,
    *,
    target: Any = None,
    against: Any = None,
    rule: RuleName = "midpoint",
    beta: Beta = "auto",
) -> "pd.DataFrame":
    """Explains the cluster of each row by its features.

    A row gets the same relevance alone as among others: nothing is estimated from `X`.

    Args:
        model: whatever `neuralize` takes, or the head that it returns.
        X: `(N, D)`, an array, tensor, frame or sparse matrix.
        feature_names: `D` of them; `None`: those of the frame, else those the model was fitted with, else `x0`, `x1`, …
        target: the cluster to explain, one or `(N,)`, `runner_up`, or `all`, each in a row of its own; `None` or
            `assigned`: the assigned one.
        against: the only competitor, one or `(N,)`; `None`: all others.
        rule: `midpoint`, by which a row sums to its discriminant, or `zero`, as in `Head.attribute`.
        beta: stiffness of the pooling over competitors; `auto`: that of the head, which `neuralize` sets without
            training data where `model` is no head.

    Returns:
        `(N, D)`, or `(N·K, D)` for `all`, a column for each feature. The index has two levels: the row (its number, or
        the frame's own index) and `cluster`, the one explained.

    Raises:
        UserError: if the model cannot be neuralized; if features do not fit it in number, names or order, or are not
            finite numbers; for a wrong number of names; for a cluster or rule that does not exist.
        ImportError: without pandas.

    Example:
        >>> from sklearn.cluster import KMeans
        >>> from sklearn.datasets import load_wine
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import MinMaxScaler
        >>> wine = load_wine(as_frame=True).data
        >>> model = make_pipeline(MinMaxScaler(), KMeans(3, random_state=0)).fit(wine)
        >>> table = explain_table(model, wine)
        >>> table.shape, list(table.index.names)
        ((178, 13), ['row', 'cluster'])
        >>> bool((table.sum(axis=1) > 0).all())  # the discriminants
        True
    """
    pd = _pandas()
    fitted, own = fitted_names(model), getattr(X, "columns", None)
    _check_names(own, fitted)
    head = model if isinstance(model, Head) else neuralize(model, beta=beta)
    data = _numbers(pd, X)
    _check_width(tuple(data.shape), head.n_features)
    columns = _columns(feature_names, own, fitted, head.n_features)
    labels = X.index if isinstance(X, pd.DataFrame) else pd.RangeIndex(data.shape[0])
    targets = range(head.n_clusters) if isinstance(target, str) and target == "all" else [target]
    asked, competitor = [_asked(one, len(labels)) for one in targets], _per_row("against", against, len(labels))

    explained = np.empty((len(labels), len(asked)), np.int64)
    relevance = np.empty((*explained.shape, head.n_features), str(head.centre.dtype).removeprefix("torch."))
    for some in _slices(len(labels), head):
        x = _finite(_dense_rows(data, some).to(head.centre.dtype), labels[some], columns)
        rivals = None if competitor is None else competitor[some]
        for at, cluster in enumerate(asked):
            with torch.no_grad():
                named = cluster is None or isinstance(cluster, str)
                chosen = best_two(head(x))[TARGETS.index(cluster or TARGETS[0])] if named else cluster[some]
                part = head.relevance(x, chosen, rivals, rule, beta)
            explained[some, at], relevance[some, at] = chosen.cpu().numpy(), part.cpu().numpy()
    index = _index(pd, labels.repeat(len(asked)), explained.flatten())
    return pd.DataFrame(relevance.reshape(-1, head.n_features), index=index, columns=columns)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ImportError("explain_table gives a pandas frame; pip install 'whycluster[tables]'.") from error
    return pandas


def _check_names(own: Any, fitted: Any) -> None:
    """Checks that no relevance would be reported under the name of another column.

    Raises:
        UserError: unless the columns of a frame are those that the model was fitted with, in their order.
    """
    if fitted is None or own is None or not _all_text(own) or list(own) == list(fitted):
        return
    missing, unknown = ([name for name in a if name not in set(b)] for a, b in ((fitted, own), (own, fitted)))
    if not missing and not unknown and len(own) == len(fitted):
        raise UserError(
            "the columns of X are in another order than those the model was fitted with; "
            "give X[model.feature_names_in_]."
        )
    raise UserError(
        "the columns of X are not those the model was fitted with; "
        f"missing: {_some(missing)}; unknown: {_some(unknown)}; {len(own)} where {len(fitted)} are expected."
    )


def _all_text(names: Any) -> bool:
    return all(isinstance(name, str) for name in names)


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (" …" if len(names) > 5 else "") if names else "none"


def _check_width(shape: tuple[int, ...], n_features: int) -> None:
    """Checks the shape of features.

    Raises:
        UserError: unless it is `(N, D)`.
    """
    if len(shape) != 2 or shape[1] != n_features:
        hint = "; one row alone has the shape (1, D)" if len(shape) == 1 else ""
        raise UserError(f"features of shape {shape} do not fit this model, which takes (N, {n_features}){hint}.")


def _columns(names: Any, own: Any, fitted: Any, n_features: int) -> Any:
    """Returns the names of the columns of the table."""
    if names is not None:
        if isinstance(names, str):
            raise UserError(f"feature_names={names!r} should be a list of {n_features} names.")
        names = names if hasattr(names, "nlevels") else list(names)
        if len(names) != n_features:
            raise UserError(f"feature_names holds {len(names)} names, but the model takes {n_features} features.")
        return names
    if own is not None and (fitted is None or _all_text(own)):
        return own
    return list(fitted) if fitted is not None else [f"x{number}" for number in range(n_features)]


def _numbers(pd: Any, x: Any) -> Any:
    """Converts data to a form whose rows can be sliced.

    Raises:
        UserError: for a column of a frame that does not hold numbers.
    """
    if isinstance(x, pd.DataFrame):
        for name, dtype in zip(x.columns, x.dtypes, strict=True):
            if not pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_complex_dtype(dtype):
                raise UserError(f"column {name!r} holds {dtype}, which are no numbers; encode it, or leave it out.")
        return x
    if sparse.issparse(x):
        return x.tocsr()
    return as_tensor(x).detach() if isinstance(x, Tensor) else np.asarray(x)


def _dense_rows(data: Any, some: slice) -> Tensor:
    """Reads some rows as a dense tensor."""
    if isinstance(data, Tensor):
        return data[some]
    if hasattr(data, "iloc"):
        return as_tensor(data.iloc[some].to_numpy(np.float64, copy=True, na_value=np.nan))
    return as_tensor(data[some] if sparse.issparse(data) else np.array(data[some]))  # a copy, as it may be read-only


def _slices(n_rows: int, head: Head) -> Iterator[slice]:
    """Yields slices of rows that are explained at once."""
    step = max(1, TABLE_ENTRIES // (head.n_features + head.width))
    yield from (slice(start, start + step) for start in range(0, n_rows, step))


def _finite(x: Tensor, labels: Any, columns: Any) -> Tensor:
    """Checks that features are finite, and returns them.

    Raises:
        UserError: for the first entry that is NaN or infinite, with its row and column.
    """
    wrong = (~x.isfinite()).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        raise UserError(
            f"row {_said(labels[row])} has {float(x[row, column])} in column {_said(columns[column])}; "
            "fill it in, or leave the row out."
        )
    return x


def _said(label: Any) -> str:
    return repr(label.item() if isinstance(label, np.generic) else label)


def _asked(target: Any, n_rows: int) -> Any:
    """Returns a target in words as it is, and another one as a cluster for each row."""
    if isinstance(target, str) and target not in TARGETS:
        raise UserError(f"target={target!r} should be a cluster number, one for each row, {', '.join(TARGETS)} or all.")
    return target if isinstance(target, str) else _per_row("target", target, n_rows)


def _per_row(name: str, value: Any, n_rows: int) -> Tensor | None:
    """Expands one cluster or `(N,)` to `(N,)`."""
    if value is None:
        return None
    clusters = np.asarray(value.cpu() if isinstance(value, Tensor) else value)
    if clusters.dtype.kind not in "iu" or clusters.shape not in ((), (n_rows,)):
        raise UserError(f"{name}={value!r} should be a cluster number, or one for each of {n_rows} rows.")
    return torch.as_tensor(clusters.astype(np.int64)).expand(n_rows)


def _index(pd: Any, labels: Any, clusters: np.ndarray) -> Any:
    """Builds the index: that of the rows, and their clusters."""
    names = ["row"] if labels.names == [None] else list(labels.names)
    if "cluster" in names:
        raise UserError("the index of X has a level named 'cluster', as the table will; rename it.")
    levels = [labels.get_level_values(level) for level in range(labels.nlevels)]
    return pd.MultiIndex.from_arrays([*levels, clusters], names=[*names, "cluster"])
