"""Results as tables: for people, for spreadsheets and for papers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from amodal.benchmark.results import Results
from amodal.files import replace_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["difference_table", "method_table", "save_tables", "to_latex"]


def _settings_and_names(results: Results, names: Sequence[str] | None = None) -> Iterator[tuple[Results, str]]:
    """Each setting's results with each of the names that it has (all of them, if none are given)."""
    for setting in results.settings:
        part = results.of_setting(setting)
        for name in part.names if names is None else names:
            yield part, name


def method_table(
    results: Results, metrics: Sequence[str] | None = None, conditions: Sequence[str] = ("test",)
) -> pd.DataFrame:
    """One row a setting and method: the mean over seeds of each metric, with its interval and its spread over seeds.

    Args:
        results: Results.
        metrics: Names of metrics; None takes all of the task's.
        conditions: What to evaluate under; several are averaged.

    Returns:
        Columns: setting, name, method, seeds, and for each metric its value, `<metric>_low`, `<metric>_high` and
        `<metric>_seed_sd`.
    """
    import pandas as pd

    rows = []
    for part, name in _settings_and_names(results):
        runs = part.runs_of(name)
        row = {"setting": runs[0].setting, "name": name, "method": runs[0].experiment.method, "seeds": len(runs)}
        for metric in part.metrics if metrics is None else metrics:
            found = part.summary(name, metric, conditions)
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
    """One row a setting, reference, metric and method: the paired difference, and whether it is beyond noise.

    Args:
        results: Results; each setting by itself.
        references: Methods to compare with.
        metrics: Names of metrics; None takes the headline.
        conditions: What to evaluate under; several are averaged.

    Returns:
        Columns: setting, name, reference, metric, difference, low, high, p_value, p_adjusted, seed_sd, verdict.
    """
    import numpy as np
    import pandas as pd

    rows = []
    for part, reference in _settings_and_names(results, references):
        for metric in [part.headline.name] if metrics is None else metrics:
            for found in part.compare(reference, metric, conditions):
                spread = np.std(list(found.by_seed.values()), ddof=1) if len(found.by_seed) > 1 else np.nan
                difference = found.difference
                rows.append(
                    {
                        "setting": part.settings[0],
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
        results: Results; of several settings, each row names its own.
        metrics: Names of metrics; None takes the headlines.
        conditions: What to evaluate under.

    Returns:
        A tabular environment.
    """
    import pandas as pd

    chosen = [name for name in results.task.traits.headlines if name in results.metrics] if metrics is None else metrics
    table = method_table(results, chosen, conditions)
    several = len(results.settings) > 1
    shown = pd.DataFrame(
        {"Setting": table["setting"], "Method": table["name"]} if several else {"Method": table["name"]}
    )
    for metric in chosen:
        cells = zip(table[metric], table[f"{metric}_low"], table[f"{metric}_high"])
        shown[results.metrics[metric].label] = [f"{a:.3f} ({b:.3f} to {c:.3f})" for a, b, c in cells]
    return shown.to_latex(index=False, escape=True, column_format="l" * (1 + several) + "c" * len(chosen))


def save_tables(results: Results, folder: str | Path, references: Sequence[str] = ()) -> list[Path]:
    """Writes methods.csv, methods.tex and, with references, differences.csv.

    Args:
        results: Results.
        folder: Where to; made if there is none.
        references: Methods to compare with.

    Returns:
        The files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    methods, latex = method_table(results), to_latex(results)
    replace_file(folder / "methods.csv", lambda path: methods.to_csv(path, index=False))
    replace_file(folder / "methods.tex", lambda path: path.write_text(latex, encoding="utf-8"))
    written = [folder / "methods.csv", folder / "methods.tex"]
    if references:
        differences = difference_table(results, references)
        replace_file(folder / "differences.csv", lambda path: differences.to_csv(path, index=False))
        written.append(folder / "differences.csv")
    return written
