"""Published figures of CEPA, CM2 and PRIMO as data with their places in the papers, and what contradicts itself there.

`results.csv` has a row a printed number (paper, table or figure, cohort, task, setting, method, metric, value, unit,
spread or interval, runs, a note), `settings.csv` what the papers say of their experiments, `remarks.csv` what is
contradictory or unclear in them. Empty values are numbers that the paper does not give.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PrintedValue", "judge_difference", "judge_value", "printed_values", "read_published", "remarks_on"]


@dataclass(frozen=True)
class PrintedValue:
    """A number as a paper prints it, in the units of this library's metrics.

    Attributes:
        method: Its method.
        metric: Name of the metric.
        value: The number; NaN where the paper gives none.
        low: Lower end of the interval, or of two standard deviations; NaN where there is neither.
        high: Upper end.
        note: What there is to say about it.
    """

    method: str
    metric: str
    value: float
    low: float
    high: float
    note: str = ""

    def __str__(self) -> str:
        if self.value != self.value:
            return "not given"
        return f"{self.value:.3f}" + ("" if self.low != self.low else f" ({self.low:.3f} to {self.high:.3f})")


@cache
def read_published(name: str = "results") -> pd.DataFrame:
    """One of the tables: results, settings or remarks.

    Example:
        >>> found = read_published()
        >>> len(found), found.query("paper == 'cepa' and source == 'table 1'").method.nunique()
        (597, 11)
    """
    import pandas as pd

    numbers = {column: [""] for column in ("value", "spread", "low", "high")} if name == "results" else None
    with (files("amodal.report.published") / f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, keep_default_na=False, na_values=numbers)


def printed_values(paper: str, source: str, *, cohort: str, task: str, setting: str = "") -> list[PrintedValue]:
    """The printed numbers of one setting of a table.

    Percentages are divided by 100, except of errors in hours. A standard deviation over runs becomes plus and minus
    two of them.

    Args:
        paper: "cepa", "cm2" or "primo".
        source: "table 1", …
        cohort: The cohort as `results.csv` names it.
        task: The task as it names it.
        setting: The setting as it names it; "" takes all of them.

    Example:
        >>> found = printed_values("cepa", "table 1", cohort="mimic4+cxr+text", task="mortality")
        >>> str([one for one in found if one.method == "cepa"][0])
        '0.811 (0.799 to 0.823)'
    """
    table = read_published()
    chosen = (table.paper == paper) & (table.source == source) & (table.cohort == cohort) & (table.task == task)
    if setting:
        chosen &= table.setting == setting
    found = []
    for row in cast(Any, table[chosen]).to_dict("records"):
        scale = 0.01 if row["unit"] == "percent" else 1.0
        value, low, high = (float(row[name]) * scale for name in ("value", "low", "high"))
        if low != low:
            reach = 2 * float(row["spread"]) * scale
            low, high = value - reach, value + reach
        found.append(PrintedValue(str(row["method"]), str(row["metric"]), value, low, high, str(row["note"])))
    return found


def remarks_on(paper: str, source: str) -> list[str]:
    """What contradicts itself, or is unclear, in the paper about one of its tables or figures.

    Example:
        >>> remarks_on("cm2", "table 11")[0][:30]
        'Table 11 names no cohort; no p'
    """
    table = read_published("remarks")
    chosen = table.sources.map(lambda sources: source in str(sources).split("; "))
    return table[(table.paper == paper) & chosen].remark.tolist()


def judge_value(printed: PrintedValue, low: float, high: float, *, same_data: bool) -> str:
    """The verdict on a value: whether the paper's interval and ours overlap.

    Args:
        printed: The paper's number.
        low: Lower end of our interval.
        high: Upper end.
        same_data: Whether ours is of the paper's data.

    Returns:
        "agrees" where the intervals overlap, "does not agree" where they do not, "cannot be told" where one is missing
        or the data are others.

    Example:
        >>> one = PrintedValue("cm2", "auroc", 0.858, 0.839, 0.874)
        >>> judge_value(one, 0.86, 0.89, same_data=True), judge_value(one, 0.88, 0.9, same_data=True)
        ('agrees', 'does not agree')
        >>> judge_value(one, 0.86, 0.89, same_data=False)
        'cannot be told'
    """
    numbers = (printed.low, printed.high, low, high)
    if not same_data or any(number != number for number in numbers):
        return "cannot be told"
    return "agrees" if printed.low <= high and low <= printed.high else "does not agree"


def judge_difference(printed: float, low: float, high: float, *, same_data: bool) -> str:
    """The verdict on a claimed difference: whether ours, with its interval, has the paper's sign.

    Args:
        printed: The paper's method less the rival, as printed; NaN where a number is not given.
        low: Lower end of the interval of our paired difference.
        high: Upper end.
        same_data: Whether ours is of the paper's data.

    Returns:
        "agrees" where our interval lies on the side of the paper's difference, "does not agree" where it lies on the
        other side, "cannot be told" where it contains zero, a number is missing or the data are others.

    Example:
        >>> [judge_difference(0.02, *ends, same_data=True) for ends in ((0.01, 0.05), (-0.05, -0.01), (-0.01, 0.02))]
        ['agrees', 'does not agree', 'cannot be told']
    """
    if not same_data or any(number != number for number in (printed, low, high)) or low <= 0 <= high or not printed:
        return "cannot be told"
    return "agrees" if (low > 0) == (printed > 0) else "does not agree"
