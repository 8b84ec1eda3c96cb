"""Summaries over cases and by stratum: distribution functions, V and plausible labels of groups of cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from amodal.errors import ConfigurationError, DataError, ShapeError
from amodal.predictive_impact.plausible import PlausibleLabels

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ecdf", "ecdf_table", "plausible_labels_by_stratum", "variability_by_stratum"]


def ecdf(values: ArrayLike | Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Empirical distribution function.

    Args:
        values: One value a case, of shape (N,).

    Returns:
        The distinct values in rising order, and for each the share of cases that are not above it, both of shape (N',).
        Between them the function is constant: draw it as steps.

    Raises:
        ShapeError: If there is not one axis.
        DataError: If there are no values, or NaN among them.

    Example:
        >>> ecdf([0.2, 0.1, 0.2, 0.4])
        (array([0.1, 0.2, 0.4]), array([0.25, 0.75, 1.  ]))
    """
    array = _values(values)
    distinct, counts = np.unique(array, return_counts=True)
    return distinct, counts.cumsum() / len(array)


def ecdf_table(values: dict[str, ArrayLike | Tensor], at: ArrayLike | None = None) -> pd.DataFrame:
    """Distribution functions of several quantities on common points, for one panel of a figure.

    Args:
        values: Name and values of each quantity, each of shape (N,) with its own N.
        at: Where to evaluate, of shape (P,); by default 101 points from 0 to the largest value.

    Returns:
        A row for each point (the index, ``value``) and a column for each quantity: share of cases not above it.

    Raises:
        ConfigurationError: If there is no quantity.
        AmodalError: As :func:`ecdf`.

    Example:
        >>> ecdf_table({"missing": [0.1, 0.4], "complete": [0.0, 0.1]}, at=[0.0, 0.2])
               missing  complete
        value
        0.0        0.0       0.5
        0.2        0.5       1.0
    """
    import pandas as pd

    if not values:
        raise ConfigurationError("there is nothing to tabulate", expected="at least one named array of values")
    arrays = {name: np.sort(_values(array)) for name, array in values.items()}
    points = np.linspace(0.0, max(a[-1] for a in arrays.values()), 101) if at is None else np.asarray(at, dtype=float)
    columns = {name: np.searchsorted(array, points, side="right") / len(array) for name, array in arrays.items()}
    return pd.DataFrame(columns, index=pd.Index(points, name="value"))


def variability_by_stratum(values: ArrayLike | Tensor, strata: ArrayLike | pd.Series | pd.Categorical) -> pd.DataFrame:
    """V (or any other value of a case) by stratum: age group, chronic condition, predicted class.

    Args:
        values: One value a case, of shape (N,).
        strata: Each case's stratum, of shape (N,); strata come sorted, or in the order of an ordered categorical
            (what ``pandas.cut`` makes of ages).

    Returns:
        One row for each stratum with cases: ``cases``, ``mean``, ``standard_error`` of the mean (NaN for one case),
        ``median``, ``lower_quartile``, ``upper_quartile``.

    Raises:
        ShapeError: If values and strata differ in length.
        DataError: If values are NaN, or a case has no stratum.

    Example:
        >>> variability_by_stratum([0.1, 0.3, 0.2], ["young", "old", "young"])[["cases", "mean"]]
                 cases  mean
        stratum
        old          1  0.30
        young        2  0.15
    """
    array = _values(values)
    grouped = _grouped({"value": array}, strata)["value"]
    return grouped.agg(
        cases="count",
        mean="mean",
        standard_error="sem",
        median="median",
        lower_quartile=lambda x: x.quantile(0.25),
        upper_quartile=lambda x: x.quantile(0.75),
    )


def plausible_labels_by_stratum(
    plausible: PlausibleLabels[Any],
    strata: ArrayLike | pd.Series | pd.Categorical,
    *,
    share: Literal["fraction", "mass"] = "fraction",
    classes: Sequence[Any] | None = None,
) -> pd.DataFrame:
    """Distribution of plausible labels by stratum: each case's shares, averaged over the stratum's cases.

    Args:
        plausible: Plausible labels of N cases.
        strata: Each case's stratum, of shape (N,), as in :func:`variability_by_stratum`.
        share: ``"fraction"`` of clusters, as in the paper, or ``"mass"`` of draws.
        classes: Names of the classes; by default their indices.

    Returns:
        One row for each stratum with cases: ``cases``, then a column for each class; the classes' shares sum to one.

    Raises:
        ShapeError: If cases and strata, or classes and their names, differ in number.
        ConfigurationError: For another `share`.

    Source:
        :cite:`madaan2026primo`, figure 7.

    Example:
        >>> from amodal.predictive_impact import plausible_labels
        >>> plausible = plausible_labels(np.array([[[2.0, 0.0], [0.0, 2.0]]]))
        >>> plausible_labels_by_stratum(plausible, ["young", "old"], classes=["lives", "dies"])
                 cases  lives  dies
        stratum
        old          1    0.0   1.0
        young        1    1.0   0.0
    """
    if share not in ("fraction", "mass"):
        raise ConfigurationError("unknown share of plausible labels", expected="'fraction' or 'mass'", got=repr(share))
    shares = np.asarray(getattr(plausible, share), dtype=np.float64)
    names = list(range(shares.shape[1])) if classes is None else list(classes)
    if len(names) != shares.shape[1]:
        raise ShapeError("there must be one name for each class", expected=shares.shape[1], got=len(names))
    grouped = _grouped(dict(enumerate(shares.T)), strata)
    table = grouped.mean().set_axis(names, axis=1)
    table.insert(0, "cases", grouped.size())
    return table


def _values(values: ArrayLike | Tensor) -> NDArray[np.float64]:
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    if array.ndim != 1:
        raise ShapeError("values must be one for each case", expected="shape (N,)", got=array.shape)
    if not len(array):
        raise DataError("there are no cases to summarise", expected="at least one value")
    if np.isnan(array).any():
        raise DataError("values are missing", got=f"{int(np.isnan(array).sum())} of {len(array)} NaN")
    return array


def _grouped(columns: dict[Any, NDArray[np.float64]], strata: ArrayLike | pd.Series | pd.Categorical) -> Any:
    """Columns of values (N,) grouped by stratum."""
    import pandas as pd

    key = pd.Series(strata).reset_index(drop=True)
    cases = len(next(iter(columns.values())))
    if len(key) != cases:
        raise ShapeError("every case needs one stratum", expected=f"{cases} strata", got=len(key))
    if key.isna().any():
        raise DataError(
            "cases without a stratum",
            got=f"{int(key.isna().sum())} of {len(key)}",
            hint="Give them a stratum of their own, or leave them out of both arguments.",
        )
    return pd.DataFrame(columns).groupby(key.rename("stratum"), observed=True)
