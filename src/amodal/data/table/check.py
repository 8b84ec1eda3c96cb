"""Everything that does not fit between a schema and its data, in one run, with the lines that would solve it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from amodal.data.table.build import cases, chunk_rows, places
from amodal.data.table.index import check_rows, read_ids, read_index
from amodal.data.table.manifest import Table, check_columns, open_table
from amodal.data.table.problems import Problems
from amodal.data.table.schema import SOURCES, TableSchema
from amodal.data.table.section import Section, load_record
from amodal.data.table.source import Place, Source
from amodal.data.table.tabular import Tabular
from amodal.errors import AmodalError, DataError

__all__ = ["Checked", "Finding", "check"]

_LINE = re.compile(r"`([^`]*: ?[^`]+)`")


class Finding(NamedTuple):
    """One thing that does not fit.

    Attributes:
        where: Its place in the schema, "" = the whole.
        problem: What is wrong, what was expected and what to do.
        lines: Lines of the schema that would solve it, each a choice.
    """

    where: str
    problem: str
    lines: tuple[str, ...]


@dataclass
class Checked:
    """The result of a check.

    Attributes:
        findings: What does not fit, in the order of the schema.
        odd: What is odd, but no error.
    """

    findings: list[Finding] = field(default_factory=list)
    odd: Problems = field(default_factory=Problems)

    def add(self, where: str, error: AmodalError) -> None:
        """Takes an error; one that was met already is not taken again."""
        lines = tuple(dict.fromkeys(_LINE.findall(error.hint or "")))
        finding = Finding(where, str(error), lines)
        if all(finding.problem != other.problem for other in self.findings):
            self.findings.append(finding)

    def describe(self) -> str:
        """All findings by their place, with lines ready to paste."""
        lines = []
        for where in dict.fromkeys(finding.where for finding in self.findings):
            own = [finding for finding in self.findings if finding.where == where]
            lines.append(f"{where or 'the whole'}: {len(own)} problem{'s' if len(own) > 1 else ''}")
            for finding in own:
                lines.append(f"  - {finding.problem}")
                lines += [f"      {line}" for line in finding.lines]
        return "\n".join(lines)


@dataclass
class _Collecting(Problems):
    """Problems whose grave kinds are collected: each kind once, with its first rows, and reading goes on."""

    errors: list[DataError] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)

    def fail(self, error: DataError) -> None:
        kind = error.problem.partition(":")[0] + error.problem.partition(": ")[2].partition(":")[0]
        if kind not in self.kinds:
            self.kinds.add(kind)
            self.errors.append(error)

    def grave(self, what: str, ids: Any, got: Any = (), *, expected: str, hint: str, lost: str = "") -> None:
        try:
            super().grave(what, ids, got, expected=expected, hint=hint, lost=lost)
        except DataError as error:
            self.fail(error)

    def check_share(self, *arguments: Any, **keys: Any) -> None:
        try:
            super().check_share(*arguments, **keys)
        except DataError as error:
            self.fail(error)


def check(
    manifest: str | Path,
    schema: str | Path | Mapping[str, Any],
    *,
    root: str | Path | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Checked:
    """Reads everything that a preparation would read, writes nothing, and lists all that does not fit.

    Args:
        manifest: The table of cases.
        schema: A YAML or JSON file, or its content.
        root: The data folder; None: the manifest's.
        workers: Threads that read files; None chooses.
        progress: Called with the modalities done and all modalities.

    Raises:
        DataError: If the manifest cannot be read at all.
        SchemaError: If the schema is no YAML.
    """
    found = Checked()
    record = dict(schema) if isinstance(schema, Mapping) else load_record(Path(schema))
    rules = _rules(record, found)
    table = open_table(Path(manifest), str(record.get("encoding") or ""), str(record.get("sheet") or ""))
    if rules is None:
        return found
    base = Path(root) if root is not None else table.path.parent
    rules = _with_known_columns(table, rules, found)
    with tempfile.TemporaryDirectory(prefix="amodal-check-") as work:
        ids, kept, rules = _index(table, rules, found)
        with places(table, rules, base, Path(work), ids, found.odd, workers=workers, kept=kept) as place:
            for done, source in enumerate(rules.sources):
                for part in _parts(source):
                    _read(part, replace(place, work=_fresh(work)), found)
                if progress is not None:
                    progress(done + 1, len(rules.sources))
    return found


def _fresh(work: str) -> Path:
    return Path(tempfile.mkdtemp(dir=work))


def _rules(record: dict[str, Any], found: Checked) -> TableSchema | None:
    """The schema without the modalities that cannot be used; None if nothing can."""
    modalities = record.get("modalities")
    usable = {}
    for name, given in (modalities if isinstance(modalities, Mapping) else {}).items():
        try:
            section = Section(f"modalities.{name}", {} if given is None else given)
            SOURCES[section.choice("kind", SOURCES)].read(str(name), section)
        except AmodalError as error:
            found.add(f"modalities.{name}", error)
        else:
            usable[name] = given
    if isinstance(modalities, Mapping) and modalities and not usable:
        usable = {"nothing": {"kind": "text", "column": ""}}  # to see whether the rest of the schema can be used
    try:
        rules = TableSchema.from_json(record | ({"modalities": usable} if usable else {}))
    except AmodalError as error:
        found.add("", error)
        return None
    return None if "nothing" in usable else rules


def _with_known_columns(table: Table, rules: TableSchema, found: Checked) -> TableSchema:
    """The schema without the modalities and columns that the manifest lacks."""
    lacking = set()
    for column, where in (rules.index_columns() | rules.value_columns()).items():
        try:
            check_columns(table, {column: where})
        except AmodalError as error:
            found.add(where, error)
            lacking.add(column)
    kept = []
    for source in rules.sources:
        if isinstance(source, Tabular) and not source.file:
            fields = tuple(f for f in source.fields if not {f.name, *f.since} & lacking)
            source = replace(source, fields=fields)
            if fields:
                kept.append(source)
        elif not set(source.columns()) & lacking:
            kept.append(source)
    known = {key: "" for key in ("id", "group") if getattr(rules, key) in lacking}
    if rules.split.column in lacking:
        rules = replace(rules, split=type(rules.split)())
    return replace(rules, sources=tuple(kept), extras=tuple(e for e in rules.extras if e not in lacking), **known)


def _index(table: Table, rules: TableSchema, found: Checked) -> tuple[np.ndarray, np.ndarray | None, TableSchema]:
    """Ids and which rows are cases, as far as they can be read."""
    problems = _Collecting()
    try:
        check_rows(table, rules)
    except AmodalError as error:
        found.add("id", error)
        rules = replace(rules, id="")
    try:
        rules = rules.with_task(rules.task.surveyed(table, rules.reading, problems))
        index = read_index(table, rules, problems)
    except AmodalError as error:
        found.add("group" if "group" in error.problem else "split" if "split" in error.problem else "task", error)
        ids = np.arange(sum(len(next(iter(chunk.values()))) for chunk in table.chunks(table.names[:1], 65536))).astype(
            str
        )
        if rules.id:
            ids = read_ids(table, replace(rules, id="") if rules.duplicates == "drop" else rules)
        result = ids, None, rules
    else:
        result = index.ids, index.kept, rules
    for error in problems.errors:
        found.add("task", error)
    found.odd.counts.update(problems.counts)
    found.odd.examples.update(problems.examples)
    return result


def _parts(source: Source) -> Iterator[Source]:
    """A modality, or its columns one by one, so that the error of one does not hide another's."""
    if isinstance(source, Tabular):
        yield from (replace(source, fields=(column,)) for column in source.fields)
    else:
        yield source


def _read(source: Source, place: Place, found: Checked) -> None:
    """Reads a modality through to its end, and takes what does not fit."""
    where = f"modalities.{source.name}"
    if isinstance(source, Tabular):
        where += f".columns.{source.fields[0].name}"
    problems = _Collecting()
    place = replace(place, problems=problems)
    try:
        source = source.surveyed(place)
        place = replace(place, chunk=chunk_rows([source]))
        reader = source.reader(place)
        kept = np.ones(len(place.ids), bool) if place.kept is None else place.kept
        for rows in cases(place, kept, list(source.columns()), 0):
            try:
                reader.read(rows)
            except DataError as error:
                problems.fail(error)
        if not problems.errors:
            _check_measured(source, problems)
    except AmodalError as error:
        found.add(where, error)
    for error in problems.errors:
        found.add(where, error)
    found.odd.counts.update(problems.counts)
    for what, examples in problems.examples.items():
        found.odd.examples.setdefault(what, examples)


def _check_measured(source: Source, problems: _Collecting) -> None:
    for name in source.unmeasured(problems):
        problems.fail(
            DataError(
                f"not one measured cell in {name!r}",
                expected="something to learn from",
                hint="Correct its name or its range, leave it out, or write `may_be_empty: true`.",
            )
        )
