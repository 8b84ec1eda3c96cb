"""Results as tables: for people, for spreadsheets and for papers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from amodal.benchmark.results import Results
from amodal.files import replace_file
from amodal.metrics import HEADLINES

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["difference_table", "method_table", "save_tables", "to_latex"]


def method_table(
    results: Results, metrics: Sequence[str] | None = None, conditions: Sequence[str] = ("test",)
) -> pd.DataFrame:
    """One row a method: the mean over seeds of each metric, with its interval and its spread over seeds.

    Args:
        results: Results of one setting.
        metrics: Names of metrics; None takes all of the task's.
        conditions: What to evaluate under; several are averaged.

    Returns:
        Columns: name, method, seeds, and for each metric its value, `<metric>_low`, `<metric>_high` and
        `<metric>_seed_sd`.
    """
    import pandas as pd

    rows = []
    for name in results.names:
        runs = results.runs_of(name)
        row = {"name": name, "method": runs[0].experiment.method, "seeds": len(runs)}
        for metric in results.metrics if metrics is None else metrics:
            found = results.summary(name, metric, conditions)
            row |= {metric: found.interval.estimate, f"{metric}_low": found.interval.low}
            row |= {f"{metric}_high": found.interval.high, f"{metric}_seed_sd": found.spread}
        rows.append(row)
    return pd.DataFrame(rows)


def difference_table(
    results: Results,
    references: Sequence[str],
    metrics: Sequence[str] | None = None,
    conditions: Sequence[str] = ("test",),
) -> pd.DataFrame:
    """One row a method, reference and metric: the paired difference, and whether it is beyond noise.

    Args:
        results: Results of one setting.
        references: Methods to compare with.
        metrics: Names of metrics; None takes the headline.
        conditions: What to evaluate under; several are averaged.

    Returns:
        Columns: name, reference, metric, difference, low, high, p_value, p_adjusted, seed_sd, verdict.
    """
    import numpy as np
    import pandas as pd

    rows = []
    for reference in references:
        for metric in [results.headline.name] if metrics is None else metrics:
            for found in results.compare(reference, metric, conditions):
                spread = np.std(list(found.by_seed.values()), ddof=1) if len(found.by_seed) > 1 else np.nan
                difference = found.difference
                rows.append(
                    {
                        "name": found.name,
                        "reference": reference,
                        "metric": metric,
                        "difference": difference.estimate,
                        "low": difference.low,
                        "high": difference.high,
                        "p_value": difference.p_value,
                        "p_adjusted": found.p_adjusted,
                        "seed_sd": spread,
                        "verdict": found.verdict,
                    }
                )
    return pd.DataFrame(rows)


def to_latex(results: Results, metrics: Sequence[str] | None = None, conditions: Sequence[str] = ("test",)) -> str:
    """The methods' table for a paper (booktabs): values with 95 % intervals, names escaped.

    Args:
        results: Results of one setting.
        metrics: Names of metrics; None takes the headlines.
        conditions: What to evaluate under.

    Returns:
        A tabular environment.
    """
    import pandas as pd

    chosen = [name for name in HEADLINES[results.task.kind] if name in results.metrics] if metrics is None else metrics
    table = method_table(results, chosen, conditions)
    shown = pd.DataFrame({"Method": table["name"]})
    for metric in chosen:
        cells = zip(table[metric], table[f"{metric}_low"], table[f"{metric}_high"])
        shown[results.metrics[metric].label] = [f"{a:.3f} ({b:.3f} to {c:.3f})" for a, b, c in cells]
    return shown.to_latex(index=False, escape=True, column_format="l" + "c" * len(chosen))


def save_tables(results: Results, folder: str | Path, references: Sequence[str] = ()) -> list[Path]:
    """Writes methods.csv, methods.tex and, with references, differences.csv.

    Args:
        results: Results of one setting.
        folder: Where to; it must exist.
        references: Methods to compare with.

    Returns:
        The files.
    """
    folder = Path(folder)
    methods, latex = method_table(results), to_latex(results)
    replace_file(folder / "methods.csv", lambda path: methods.to_csv(path, index=False))
    replace_file(folder / "methods.tex", lambda path: path.write_text(latex, encoding="utf-8"))
    written = [folder / "methods.csv", folder / "methods.tex"]
    if references:
        differences = difference_table(results, references)
        replace_file(folder / "differences.csv", lambda path: differences.to_csv(path, index=False))
        written.append(folder / "differences.csv")
    return written
