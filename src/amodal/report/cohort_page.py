"""A page about a cohort, before anything is trained: counts, presence, ranges, suspicions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from markupsafe import Markup

from amodal.data.cohort import Cohort
from amodal.data.inspection import Inspection, inspect_cohort
from amodal.errors import ConfigurationError, RunError
from amodal.files import replace_file
from amodal.missingness.patterns import pattern_codes, pattern_label
from amodal.report import figures
from amodal.report.page import fill_page
from amodal.report.parts import Drawing, Section, Table, render
from amodal.report.words import counted, percent

__all__ = ["cohort_page", "write_cohort_page"]

_SHOWN = 24


def cohort_page(cohort: Cohort, inspection: Inspection | None = None) -> str:
    """A page about a cohort: HTML that needs nothing beside itself; all text from the data is escaped.

    Args:
        cohort: The cohort.
        inspection: Result of `inspect_cohort`; None computes it.
    """
    result = inspection or inspect_cohort(cohort)
    sections = [
        Section("cases", "The cases", _cases(cohort)),
        Section("presence", "What is there", _presence(cohort, result)),
        Section("suspicions", "What to check", _suspicions(result)),
        Section("ranges", "Values", _ranges(result)),
    ]
    if "preparation" in (cohort.source or {}):
        sections.append(Section("losses", "How it was read, and what was left out", _losses(cohort)))
    kicker = f"amodal data describe · {counted(len(cohort), 'case')} · {counted(len(cohort.schema.names), 'modality')}"
    return fill_page(cohort.name or "A cohort", kicker, sections)


def write_cohort_page(cohort: Cohort, path: Path, inspection: Inspection | None = None) -> Path:
    """Writes a page (.html), or its picture of presence alone (.svg or .png), complete or not at all.

    Raises:
        ConfigurationError: If the ending is another one.
        RunError: If it cannot be written.
    """
    if path.suffix not in (".html", ".svg", ".png"):
        raise ConfigurationError("the page has an unknown ending", expected=".html, .svg or .png", got=path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    if path.suffix == ".html":
        text = cohort_page(cohort, inspection)
        replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return path
    patterns, counts = _patterns(cohort)
    form = "svg" if path.suffix == ".svg" else "png"
    shown = (patterns[:_SHOWN], counts[:_SHOWN].tolist(), cohort.schema.names)
    replace_file(path, lambda temporary: figures.save_presence(*shown, temporary, form))
    return path


def _patterns(cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    """Patterns (P, M) that occur and their counts (P,), the most frequent first."""
    patterns, counts = np.unique(cohort.observed, axis=0, return_counts=True)
    order = np.lexsort((-patterns.sum(1), -counts))
    return patterns[order], counts[order]


def _cases(cohort: Cohort) -> Markup:
    task, target = cohort.schema.task, cohort.target
    splits = [str(name) for name in np.unique(cohort.splits)]
    rows: list[list[str]] = []
    some_unknown = target is not None and not cohort.labelled.all()
    for name in [*splits, "all"]:
        inside = np.ones(len(cohort), bool) if name == "all" else cohort.splits == name
        known = inside & cohort.labelled
        row = [name or "no split", f"{inside.sum():,}", f"{len(np.unique(cohort.groups[inside])):,}"]
        if target is not None and task.is_classification:
            counts = np.bincount(target[known], minlength=task.n_outputs)
            row += [f"{n:,} ({percent(n / max(1, known.sum()))})" for n in counts]
        elif target is not None and task.traits.many_labels:
            row += [f"{int((target[inside, k] == 1).sum()):,}" for k in range(task.n_outputs)]
        elif target is not None:
            row += [f"{q:g}" for q in np.quantile(target[known], [0.05, 0.5, 0.95])] if known.any() else ["–"] * 3
        if some_unknown:
            row.append(f"{(inside & ~known).sum():,}")
        rows.append(row)
    names = [str(c) for c in task.classes] or ([f"{task.name} {q}" for q in ("5 %", "median", "95 %")])
    head = ["split", "cases", "groups", *(names if target is not None else []), *(["no label"] if some_unknown else [])]
    modalities = Table(
        ["modality", "kind", "shape", "features"],
        [[m.name, m.kind, " × ".join(map(str, m.shape)) or "text", ", ".join(m.features[:8])
          + (", …" if len(m.features) > 8 else "")] for m in cohort.schema.modalities],
    )  # fmt: skip
    return render(
        "cohort_cases.html",
        {"description": cohort.description, "task": task, "counts": Table(head, rows), "modalities": modalities},
    )


def _presence(cohort: Cohort, inspection: Inspection) -> Markup:
    patterns, counts = _patterns(cohort)
    names = cohort.schema.names
    table = Table(
        ["pattern", "cases", "share"],
        [
            [
                pattern_label(int(pattern_codes(p[None])[0]), names) if p.any() else "nothing",
                f"{n:,}",
                percent(n / len(cohort)),
            ]
            for p, n in zip(patterns[:_SHOWN], counts[:_SHOWN])
        ],
    )
    rest = int(counts[_SHOWN:].sum())
    drawing = Drawing(
        "patterns",
        figures.draw_presence(patterns[:_SHOWN], counts[:_SHOWN].tolist(), names, key="patterns"),
        "Who has what: each row is a pattern, filled dots are the modalities that are there."
        + (f" {rest:,} cases with rarer patterns are left out." if rest else ""),
        table,
        size="wide",
    )
    rates = Table(
        ["modality", *inspection.rates], [[name, *(percent(r[m]) for r in inspection.rates.values())] for m, name in
                                     enumerate(names)],
        caption="Share of cases that have each modality, by class",
    )  # fmt: skip
    return render("cohort_presence.html", {"drawing": drawing, "rates": rates})


def _suspicions(inspection: Inspection) -> Markup:
    table = Table(["where", "what was seen"], [[s.where, s.detail] for s in inspection.suspicions])
    return render("cohort_suspicions.html", {"table": table, "n": len(inspection.suspicions), "rows": inspection.rows})


def _losses(cohort: Cohort) -> Markup:
    """Problems that a preparation from tables counted, with the first rows of each kind."""
    record = (cohort.source or {})["preparation"]
    counts = sorted(record["counts"].items(), key=lambda pair: -pair[1])
    problems = Table(
        ["count", "what", "first"],
        [[f"{n:,}", what, ", ".join(record["first"].get(what, [])[:3])] for what, n in counts],
    )
    cells = Table(
        ["rows or cells of", "read", "measured", "empty", "left out"],
        [
            [place, *(f"{c[key]:,}" for key in ("in", "measured", "empty", "lost"))]
            for place, c in record["cells"].items()
        ],
        caption="Every row and cell that was read: measured, empty, or left out for a reason above",
    )
    return render(
        "cohort_losses.html", {"taken": record["taken"], "problems": problems, "cells": cells, "n": len(counts)}
    )


def _ranges(inspection: Inspection) -> Markup:
    def shown(number: float) -> str:
        return "–" if np.isnan(number) else f"{number:.4g}"

    rows = [
        [f"{f.modality}.{f.name}", f.units, percent(f.measured), *map(shown, (f.low, *f.quantiles, f.high))]
        for f in inspection.features
    ]
    head = ["feature", "units", "measured where present", "lowest", "5 %", "median", "95 %", "highest"]
    return render("cohort_ranges.html", {"table": Table(head, rows), "n": len(rows), "rows": inspection.rows})
