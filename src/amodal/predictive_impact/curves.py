"""Curves of acquisition: the area under them case by case, and what a budget for all cases buys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from amodal.errors import DataError, UnknownNameError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["area_under", "budget_curve"]

_Y = ("correct", "log_likelihood", "utility")


def area_under(
    curve: pd.DataFrame, *, x: Literal["step", "cost"] = "step", y: str = "correct", until: float | None = None
) -> pd.Series:
    """Mean of a score over the number of looks, or over the money spent, for each case.

    Between two looks a score stays what it was; a case of which nothing more is looked at keeps its last one. With
    money, a score holds from the price at which it was bought.

    Args:
        curve: What `acquisition_curve` gives.
        x: "step" or "cost".
        y: "correct", "log_likelihood" or "utility".
        until: Where to stop, the same for all orders that are compared; None: at the largest of this curve.

    Returns:
        One value a case, indexed by id in the curve's order: cases of two orders can be paired.

    Raises:
        UnknownNameError: If x or y is something else.
        DataError: If `until` is not positive: nothing was spent.

    Example:
        >>> import pandas as pd
        >>> curve = pd.DataFrame({"id": ["a", "a"], "step": [0, 1], "cost": [0.0, 3.0], "correct": [False, True]})
        >>> area_under(curve).tolist(), area_under(curve, x="cost", until=4.0).tolist()
        ([0.5], [0.25])
    """
    import pandas as pd

    if x not in ("step", "cost"):
        raise UnknownNameError("axis of a curve", x, ("step", "cost"))
    if y not in _Y:
        raise UnknownNameError("score of a curve", y, _Y)
    wide = curve.pivot(index="step", columns="id", values=y).ffill()[curve["id"].drop_duplicates()]
    scores = wide.to_numpy(dtype=float)  # (steps, N)
    if x == "step":
        last = len(scores) - 1 if until is None else int(until)
        rows = np.minimum(np.arange(last + 1), len(scores) - 1)
        return pd.Series(scores[rows].mean(axis=0), index=wide.columns)
    cost = curve.pivot(index="step", columns="id", values="cost").ffill()[wide.columns].to_numpy(dtype=float)
    end = float(cost.max()) if until is None else float(until)
    if not end > 0:
        raise DataError("nothing was spent: there is no area under money", expected="until above 0", got=end)
    edges = np.minimum(np.vstack([cost, np.full((1, cost.shape[1]), np.inf)]), end)
    return pd.Series((scores * np.diff(edges, axis=0)).sum(axis=0) / end, index=wide.columns)


def budget_curve(curve: pd.DataFrame, *, y: str = "correct") -> pd.DataFrame:
    """Mean score of all cases against the money spent on all, looks being bought by falling priority, step by step.

    Args:
        curve: What `acquisition_curve` gives.
        y: "correct", "log_likelihood" or "utility".

    Returns: One row a look: ``looks``, ``spent`` (both so far, of all cases) and ``score`` (mean over all cases); the
        first row is before any look.

    Raises:
        UnknownNameError: If y is something else.

    Example:
        >>> import pandas as pd
        >>> curve = pd.DataFrame({"id": [1, 2, 1, 2], "step": [0, 0, 1, 1], "acquired": ["", "", "a", "a"],
        ...     "cost": [0, 0, 1, 1], "priority": [0, 0, 1, 2], "correct": [1, 0, 1, 1]})
        >>> budget_curve(curve)["score"].tolist()
        [0.5, 1.0, 1.0]
    """
    import pandas as pd

    if y not in _Y:
        raise UnknownNameError("score of a curve", y, _Y)
    ordered = curve.sort_values(["id", "step"], kind="stable")
    changes = ordered.assign(
        rise=ordered.groupby("id", sort=False)[y].transform(lambda one: one.astype(float).diff()),
        paid=ordered.groupby("id", sort=False)["cost"].transform(lambda one: one.astype(float).diff()),
    )
    looks = changes[(changes["step"] > 0) & (changes["acquired"] != "")]
    looks = looks.assign(last=-looks["priority"]).sort_values(["step", "last"], kind="stable")
    start = float(curve.loc[curve["step"] == 0, y].astype(float).mean())
    n = curve["id"].nunique()
    return pd.DataFrame(
        {
            "looks": np.arange(len(looks) + 1),
            "spent": np.concatenate([[0.0], looks["paid"].cumsum()]),
            "score": start + np.concatenate([[0.0], looks["rise"].cumsum() / n]),
        }
    )
