"""A page on what could still change: the cases in plain words, the numbers and what they assume below."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from amodal.checkpoint import TrainedModel
from amodal.data import Cohort
from amodal.errors import ConfigurationError
from amodal.files import replace_file
from amodal.predictive_impact import Advice, Impact
from amodal.report.bedside import describe_case
from amodal.report.page import fill_page
from amodal.report.parts import Section, Table, render
from amodal.report.pictures import exhibit_case
from amodal.report.words import counted, format_value
from amodal.schema import Task

__all__ = ["impact_page", "write_impact_page"]

_CASES = 24


def impact_page(model: TrainedModel, cohort: Cohort, result: Impact, advice: Advice) -> str:
    """A page on cases, plain words first and the numbers below: HTML that needs nothing beside itself.

    Args:
        model: The model.
        cohort: The cases.
        result: Their impact.
        advice: Advice on them.
    """
    net = np.nan_to_num(advice.next()[1], nan=-1.0)
    order = np.lexsort((-result.variability, -net))[:_CASES]
    same = cohort.schema.names == model.schema.names
    batch = cohort.batch(order) if same else None
    cases = [
        describe_case(
            result,
            advice,
            int(i),
            exhibit_case(model.schema, batch, place, result.observed[i]) if batch is not None else None,
        )
        for place, i in enumerate(order)
    ]
    pays = int((advice.next()[0] != "").sum())
    values = {
        "cases": cases,
        "n": len(result),
        "pays": pays,
        "utility": _utility_words(advice, model.schema.task),
        "how": advice.how,
    }
    notes = list(dict.fromkeys([*result.notes, *advice.notes]))
    numbers = {"tables": [_numbers(result, advice, order), _by_modality(result, advice)], "notes": notes}
    kicker = f"amodal impact · {counted(len(result), 'case')} · {counted(len(result.names), 'modality')}"
    sections = [
        Section("bedside", "What to look at next", render("bedside.html", values)),
        Section("numbers", "The numbers behind it", render("bedside_numbers.html", numbers)),
    ]
    name = model.schema.task.name or "prediction"
    return fill_page(f"{name[0].upper()}{name[1:]}: what could still change", kicker, sections)


def write_impact_page(path: Path, model: TrainedModel, cohort: Cohort, result: Impact, advice: Advice) -> Path:
    """Writes the page of `impact_page`, complete or not at all.

    Raises:
        ConfigurationError: If the file does not end in .html.
    """
    if path.suffix != ".html":
        raise ConfigurationError("the page has an unknown ending", expected=".html", got=path.name)
    text = impact_page(model, cohort, result, advice)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def _utility_words(advice: Advice, task: Task) -> str:
    what = {
        "log_likelihood": "what it adds to the log-likelihood of the truth, in nats",
        "accuracy": "how much likelier a right answer becomes",
        "squared_error": "how much squared error it takes away",
    }.get(advice.utility, advice.utility)
    rate = "" if advice.worth == 1 else f"; one unit of it is worth {advice.worth:.4g} in the prices' unit"
    limit = "" if np.isinf(advice.budget) else f"; a case may cost {advice.budget:.4g} at most"
    return f"A look is worth {what}{rate}{limit}. It pays if that is more than its price."


def _numbers(result: Impact, advice: Advice, order: np.ndarray) -> Table:
    rows = []
    for i in order:
        for name in advice.ranking()[i]:
            m = result.names.index(name)
            price = float(np.broadcast_to(advice.price, advice.gain.shape)[i, m])
            error = np.nan if advice.gain_error is None else advice.gain_error[i, m]
            numbers = [result.variability[i], result.per_modality[name][i], result.if_last[name][i],
                       result.shares[name][i], advice.gain[i, m], error, price, advice.net[i, m]]  # fmt: skip
            rows.append([f"{result.ids[i]}, {name.replace('_', ' ')}", *(_cell(float(number)) for number in numbers)])
    head = ["case, absent", "V", "change if next", "if last", "share of V", "gain", "± error", "price", "net gain"]
    return Table(head, rows, "The cases above")


def _by_modality(result: Impact, advice: Advice) -> Table:
    rows = []
    names, _ = advice.next()
    for m, name in enumerate(result.names):
        absent = ~result.observed[:, m]
        if absent.any():
            columns = (result.per_modality[name], result.if_last[name], advice.gain[:, m])
            means = [float(np.nanmean(c[absent])) if np.isfinite(c[absent]).any() else np.nan for c in columns]
            rows.append([name.replace("_", " "), f"{absent.sum():,}", *map(_cell, means), f"{(names == name).sum():,}"])
    head = ["modality", "absent in", "mean change if next", "mean change if last", "mean gain", "to look at next in"]
    return Table(head, rows, "All cases, by modality")


def _cell(number: float) -> str:
    return "–" if np.isnan(number) else format_value(float(number))
