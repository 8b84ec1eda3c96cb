"""The command `amodal impact`: what could still change, what to look at next, and whether it pays.

As in `amodal.cli`, nothing heavy is imported at the top, and there are no imports for type checkers only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from amodal.errors import ConfigurationError, UnknownNameError

__all__ = ["impact_command"]


def impact_command(
    run: Path,
    *,
    data: str | None = None,
    split: str = "test",
    missingness: str = "natural",
    completions: Literal["own", "training_cases"] | None = None,
    draws: int = 500,
    neighbours: int = 50,
    advice_draws: int = 50,
    vary: str = "missing",
    utility: str | None = None,
    costs: str | None = None,
    worth: float = 1.0,
    budget: float | None = None,
    cohort_budget: float | None = None,
    odds_ratio: float | None = None,
    calibration_split: str = "",
    coverage: float = 0.9,
    drivers: bool = False,
    train_split: str = "train",
    seed: int = 0,
    out: Path | None = None,
    page: Path | None = None,
    batch_size: int = 5000,
    device: str = "cpu",
) -> None:
    """Say what each missing modality could still change, which labels stay plausible, and what to look at next.

    Args:
        run: Folder of the run.
        data: A cohort's folder or name; null: the built-in cohort that the run was trained on.
        split: Split to look at; "" takes all cases.
        missingness: Further removal: natural, balanced, mcar:RATE, mar:RATE, mnar:RATE, count:K, or pattern:A+B.
        completions: own (drawn by the method) or training_cases; null: training cases if there are any.
        draws: Plausible completions of each case, where they are drawn.
        neighbours: Similar training cases that complete a case.
        advice_draws: Plausible values behind the advice, where they are drawn; 0: no advice.
        vary: Modalities that get numbers of their own: missing, or names with commas between; "" for none.
        utility: What is to be gained: log_likelihood, accuracy, squared_error, net_benefit:THRESHOLD, or payoffs as
            JSON or a JSON file, such as {"treat": {"ill": 3, "well": -1}, "leave": {"ill": 0, "well": 0}}.
        costs: Prices as JSON or a JSON file: {"ct": 300}, or {"prices": {…}, "groups": {"scans": {"ct": 200}}}.
        worth: What one unit of gain is worth in the unit of the prices.
        budget: What looking may cost for a case.
        cohort_budget: What looking may cost for all cases together: prints which looks it buys.
        odds_ratio: Also give the range of V if those who lack a modality differ by this odds ratio.
        calibration_split: Split of the same data for sets of labels with a coverage promise; "": none.
        coverage: Share of cases whose true label is to be in its set.
        drivers: Whether to say which present modalities drove each prediction.
        train_split: Split of the same data whose cases complete others; "": none.
        seed: Seed of removal and draws.
        out: File to write, .csv or .parquet, a row a case; null writes none.
        page: Page to write, .html: the cases in plain words, the numbers below; null writes none.
        batch_size: Cases in work at a time. A file of more cases is written in parts, in the order of the data, and the
            same call after an interruption keeps those that are there.
        device: cpu or cuda.
    """
    from amodal.checkpoint import TrainedModel
    from amodal.impact_files import add_advice

    _check(out, advice_draws, page, cohort_budget)
    model = TrainedModel.load(run, device=device)
    data = _trained_on(model, run) if data is None else data
    cohort = _removed(_split(data, split), missingness, seed)
    train = None if completions == "own" else _lenders(model, data, train_split)
    asked = {"seed": seed, "completions": completions, "train": train, "neighbours": neighbours}
    calibration = _removed(_split(data, calibration_split), missingness, seed + 1) if calibration_split else None
    varied = "missing" if vary == "missing" else [name for name in vary.split(",") if name]
    looks = {"draws": draws, "vary": varied, "odds_ratio": odds_ratio, "calibration": calibration, "coverage": coverage}
    looks |= asked
    advised = None
    if advice_draws:
        advised = {"draws": advice_draws, "utility": None if utility is None else _utility(utility), "worth": worth}
        advised |= asked | ({} if budget is None else {"budget": budget})
        advised |= {} if costs is None else {"costs": _json_or_file("costs", costs)}
    if out is not None and len(cohort) > batch_size and page is None and cohort_budget is None:
        _in_parts(model, cohort, out, looks=looks, advised=advised, drivers=drivers, part_rows=batch_size)
        return
    result = model.impact(cohort, **looks, progress=True)
    print(result)
    frame = result.table()
    first = "variability"
    if advised is not None and not result.complete.all():
        advice = model.advise(cohort, **advised, progress=True)
        add_advice(frame, advice)
        print(_about(advice, model.schema.task, costs is not None))
        first = "net"
        if cohort_budget is not None:
            _tell_bought(advice, cohort_budget)
        if page is not None:
            from amodal.report.bedside_page import write_impact_page

            print(f"The page is {write_impact_page(page, model, cohort, result, advice)}")
    if drivers:
        frame = frame.join(_drivers(model, cohort, seed))
    what = {"net": "net gain of the next look", "variability": "V"}[first]
    frame = frame.sort_values([first, "variability"], ascending=False, kind="stable", na_position="last")
    columns = ("id", "observed", "predicted", "variability", "plausible", "share", "promised", "next", "net")
    print(_text(frame[[name for name in columns if name in frame]].head(10)))
    if out is not None:
        _write(frame, out)
        print(f"{len(frame)} cases, those with the largest {what} first, are in {out}")


def _check(out: Path | None, advice_draws: int, page: Path | None, cohort_budget: float | None) -> None:
    """Refuses before the work what could not be written after it."""
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise ConfigurationError("the output file has an unknown ending", expected=".csv or .parquet", got=out.name)
    if advice_draws < 0:
        raise ConfigurationError("advice_draws is out of range", expected="0 or more", got=advice_draws)
    if page is not None and not advice_draws:
        raise ConfigurationError("a page needs advice", hint="Leave out --advice_draws 0.")
    if cohort_budget is not None and not advice_draws:
        raise ConfigurationError("a budget for all cases needs advice", hint="Leave out --advice_draws 0.")


def _in_parts(model: Any, cohort: Any, out: Path, **how: Any) -> None:
    """Writes the table of many cases part by part, and says what is in it."""
    import pandas as pd

    from amodal.impact_files import impact_to_file
    from amodal.progress import progress_bar

    out.parent.mkdir(parents=True, exist_ok=True)
    with progress_bar("impact") as tell:
        notes = impact_to_file(model, cohort, out, tell=tell, **how)
    columns = ["complete", "variability"]
    found = pd.read_csv(out, usecols=columns) if out.suffix == ".csv" else pd.read_parquet(out, columns=columns)
    complete, spread = found["complete"].to_numpy(bool), found["variability"].to_numpy(float)
    for what, some in (("something missing", ~complete), ("complete", complete)):
        if some.any():
            value = spread[some]
            print(f"V, {what}: mean {value.mean():.3f}, largest {value.max():.3f} ({int(some.sum())} cases)")
    print("\n".join(notes))
    print(f"{len(found)} cases, in the order of the data, are in {out}")


def _tell_bought(advice: Any, budget: float) -> None:
    bought = advice.allocate(budget)
    spent = float(bought["spent"].iloc[-1]) if len(bought) else 0.0
    print(f"A budget of {budget:g} buys {len(bought)} looks for {spent:g}, the first of them:")
    print(_text(bought.head(10)) if len(bought) else "none that pays")


def _drivers(model: Any, cohort: Any, seed: int) -> Any:
    """Contributions of the present modalities, a column each; their means are printed."""
    from amodal.predictive_impact import attribute

    found = attribute(model, cohort, progress=True)
    print("Which present modalities drove the predictions (mean absolute contribution, 95 % interval):")
    print(_text(found.over_cohort(seed=seed)))
    return found.table().drop(columns=["id", "prediction", "base"])


def _about(advice: Any, task: Any, priced: bool) -> str:
    """Description of the advice, and the share of cases in which it is to look at nothing."""
    units = {"log_likelihood": "log-likelihood (nats)", "squared_error": "squared error"}
    gained = units.get(advice.utility, advice.utility)
    names, _ = advice.next()
    incomplete = ~advice.observed.all(axis=1)
    lines = [f"Where to look next: {advice.how}; the gain is in {gained}."]
    if priced:
        nothing = int(((names == "") & incomplete).sum())
        lines.append(
            f"For {nothing} of {int(incomplete.sum())} cases that lack something no look pays: look at nothing."
        )
    return "\n".join([*lines, *(note for note in advice.notes if "price" in note or "budget" in note)])


def _utility(text: str) -> Any:
    return _json_or_file("utility", text) if text.lstrip()[:1] in ("{", "[") or text.endswith(".json") else text


def _json_or_file(what: str, text: str) -> Any:
    """A value written as JSON, or in a file of JSON."""
    try:
        return json.loads(Path(text).read_text(encoding="utf-8") if text.endswith(".json") else text)
    except OSError as error:
        raise ConfigurationError(f"the file of {what} cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{what} cannot be read", expected="JSON, or a file .json", got=text[:80]) from error


def _trained_on(model: Any, run: Path) -> str:
    """Name of the built-in cohort that a run was trained on."""
    from amodal.data import COHORTS

    name = model.experiment.get("data", {}).get("cohort", "")
    if name not in COHORTS:
        raise ConfigurationError(
            f"{run} was trained on {name or 'data without a name'}, which is not built in", hint="Pass --data DIR."
        )
    return name


def _split(data: str, split: str) -> Any:
    from amodal.data import load_cohort

    cohort = load_cohort(data)
    return cohort.split(split) if split else cohort


def _removed(cohort: Any, missingness: str, seed: int) -> Any:
    from amodal.missingness import Natural
    from amodal.missingness.words import parse_mechanism
    from amodal.presence import draw_presence

    mechanism = parse_mechanism(missingness)
    if isinstance(mechanism, Natural):
        return cohort
    return cohort.with_observed(draw_presence(mechanism, cohort, seed).observed)


def _lenders(model: Any, data: str, train_split: str) -> Any:
    """The training cases that complete others; None where there are none and the method can do without."""
    from amodal.method import draws_itself

    if not train_split:
        return None
    try:
        return _split(data, train_split)
    except UnknownNameError:
        if draws_itself(model.method):
            return None
        raise


def _text(frame: Any) -> str:
    return frame.to_string(index=False, float_format=lambda value: f"{value:.3f}")


def _write(frame: Any, out: Path) -> None:
    from amodal.files import replace_file

    out.parent.mkdir(parents=True, exist_ok=True)
    write = frame.to_csv if out.suffix == ".csv" else frame.to_parquet
    replace_file(out, lambda path: write(path, index=False))
