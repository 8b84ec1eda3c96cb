"""A user's own table and the files it names, to a cohort: `amodal data prepare table`.

A *manifest* (CSV, Parquet, Excel) has a row for each case; a *schema* (YAML) says which columns are the id, the group,
the split and the target, and how the modalities are read (`SOURCES`: one file of this folder for each kind). Nothing
is guessed when a cohort is prepared: `amodal.data.table.guess` writes a first schema, which people correct.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from amodal.data.cohort import Cohort
from amodal.data.table.build import Built, Ranges, build_stores, chunk_rows, mark_of, places
from amodal.data.table.codes import tell_codes
from amodal.data.table.events import Events
from amodal.data.table.image import Image
from amodal.data.table.index import read_ids, read_index
from amodal.data.table.manifest import MemoryTable, Table, check_renamed, open_table, tell_lacking
from amodal.data.table.problems import Problems
from amodal.data.table.schema import SOURCES, TableSchema
from amodal.data.table.tabular import Tabular
from amodal.data.work import working_folder
from amodal.errors import DataError, RunError
from amodal.files import write_json

__all__ = [
    "SOURCES",
    "MemoryTable",
    "Prepared",
    "Problems",
    "Table",
    "TableSchema",
    "open_cases",
    "open_table",
    "prepare",
    "table_source",
]


_NEARLY_BLACK = 2.0  # mean level of 0 … 255


class Prepared(NamedTuple):
    """A cohort on disk and what was odd on the way.

    Attributes:
        cohort: The cohort, memory-mapped.
        problems: Counts and first rows of everything odd.
    """

    cohort: Cohort
    problems: Problems


def prepare(
    manifest: str | Path,
    schema: str | Path | TableSchema | Mapping[str, Any],
    out: str | Path,
    *,
    root: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = True,
    workers: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Prepared:
    """Makes a cohort folder of a table and the files it names.

    Memory stays bounded however many rows there are: ids, groups, targets and presence are held, values are written
    chunk by chunk to a folder beside `out`, which is taken up again after an interruption. The cohort appears complete
    or not at all, and keeps the schema, so that new cases can be read the same way (`open_cases`).

    Args:
        manifest: The table of cases: .csv, .tsv, .parquet or .xlsx.
        schema: A YAML or JSON file, or its content.
        out: Folder of the cohort.
        root: The data folder, which all files must lie in; None: the manifest's.
        overwrite: Replace a cohort that is there.
        resume: Take up an interrupted preparation.
        workers: Threads that read files; None chooses.
        progress: Called with rows done and all rows after each chunk.

    Returns:
        The cohort and the problems that were counted; both are in the folder (preparation.json).

    Raises:
        SchemaError: If the schema cannot be used, or names a column that is not there.
        DataError: If the data do not fit the schema; nothing is written then.
    """
    out, rules = Path(out), _rules(schema)
    table = open_table(Path(manifest), rules.encoding, rules.sheet)
    rules.check(table)
    _check_free(out, overwrite)
    base = Path(root) if root is not None else table.path.parent
    with working_folder(out, mark_of(table, rules, base), resume) as work:
        return _prepared(table, rules, base, work, out, overwrite, workers, progress)


def _prepared(
    table: Table, rules: TableSchema, base: Path, work: Path, out: Path, overwrite: bool, workers: int | None,
    progress: Callable[[int, int], object] | None,
) -> Prepared:  # fmt: skip
    """The cohort, once it is sure that its place is free and where to work."""
    problems = Problems(log=work / "preparation.csv")
    rules = rules.with_task(rules.task.surveyed(table, rules.reading, problems))
    index = read_index(table, rules, problems)
    with places(
        table, rules, base, work, index.ids, problems, workers=workers, kept=index.kept, left_out=index.left_out
    ) as place:
        rules = rules.with_sources(tuple(source.surveyed(place) for source in rules.sources))
        place = replace(place, chunk=chunk_rows(rules.sources))
        train = index.splits == "train"
        ranges = Ranges(rules.sources, train if train.any() else np.ones(len(train), bool))
        built = build_stores(rules, place, index.kept, ranges, progress)
        _check_measured(rules, built.ranges, problems)
        _check_present(rules, built, index.splits == "train", problems)
        cohort = Cohort(
            schema=rules.schema,
            stores=built.stores,
            ids=index.ids,
            groups=index.groups,
            splits=index.splits,
            target=index.target,
            observed=built.observed,
            extras=index.extras,
            name=rules.name or table.path.stem,
            description=rules.description,
            source={"table": rules.to_json(), "ranges": built.ranges, "preparation": problems.summary()},
        )
        tell_codes(cohort, built.ranges, problems)
        cohort = replace(cohort, source={**(cohort.source or {}), "preparation": problems.summary()})
        cohort.save(out, overwrite=overwrite)
        write_json(out / "preparation.json", problems.to_json())
        if problems.log_size():
            shutil.copyfile(work / "preparation.csv", out / "preparation.csv")
    return Prepared(Cohort.open(out), problems)


def _check_measured(rules: TableSchema, ranges: Mapping[str, Any], problems: Problems) -> None:
    """Refuses columns and variables that were never measured, and counts those that no training row has."""
    for source in rules.sources:
        names = source.unmeasured(problems)
        if names:
            shown = ", ".join(map(repr, names[:8]))
            key = "variables" if source.kind == "events" else "columns"
            raise DataError(
                f"modalities.{source.name}: not one measured cell in {shown}",
                expected="something to learn from in every column and variable",
                hint=f"Correct its name or its range, leave it out, or write `may_be_empty: true` under "
                f"modalities.{source.name}.{key}.{names[0]}.",
            )
        modality = source.modality()
        for name, pair in zip(modality.features, ranges.get(source.name, [])):
            if pair[0] is None:
                problems.say(f"{source.name}.{name}: not measured in any training row")


def _check_present(rules: TableSchema, built: Built, train: np.ndarray, problems: Problems) -> None:
    """Refuses modalities that no case has, and says which no training case has, and which images are nearly black."""
    for column, source in enumerate(rules.sources):
        seen, accepted = built.observed[:, column], isinstance(source, Tabular | Events)  # by `may_be_empty`
        if not seen.any() and not accepted:
            raise DataError(
                f"modalities.{source.name}: no case has it",
                expected="cells that name something, and files that can be read",
                hint="Correct its column or its folder, or leave the modality out.",
            )
        if train.any() and not seen[train].any():
            problems.say(f"{source.name}: no training case has it")
        levels = built.ranges.get(source.name, []) if isinstance(source, Image) else []
        if levels and levels[0][1] is not None and levels[0][1] < _NEARLY_BLACK:
            problems.say(
                f"{source.name}: nearly black, mean levels of 0 … 255 are up to {levels[0][1]:.2g}; if the files hold "
                "0 and 1, write `range: [0, 1]`"
            )


@contextmanager
def open_cases(
    table: Table,
    source: Mapping[str, Any] | None,
    *,
    root: Path,
    problems: Problems,
    workers: int | None = None,
) -> Iterator[Cohort]:
    """New cases, read as a cohort's table was; any column and any file may be lacking.

    Args:
        table: The new cases, with any subset of the columns; ids are optional.
        source: A cohort's or a run's record of its table (`Cohort.source`).
        root: Folder that all files must lie in.
        problems: Takes what is odd, row by row: `Problems(strict=False, by_row=True)`.
        workers: Threads that read files.

    Yields:
        A cohort without target, on temporary files that are gone afterwards.

    Raises:
        RunError: If the record is none of a table.
        DataError: If there are no rows, or ids come twice.
    """
    if not source or "table" not in source:
        raise RunError(
            "the run was not trained on a table, so that new tables cannot be read for it",
            hint="Prepare the data with `amodal data prepare table`, train on that, or predict with --data.",
        )
    rules = TableSchema.from_json(source["table"])
    known = set(rules.value_columns())
    check_renamed(table, [*known, *filter(None, [rules.id])])
    if known and not known & set(table.names) and not any(s.tables() for s in rules.sources):
        raise DataError(
            f"{table.path.name or 'the table'} has none of the columns that the model knows",
            expected=f"some of {', '.join(sorted(known)[:12])}",
            got=", ".join(table.names[:12]),
        )
    for part in rules.sources:
        tell_lacking(table, part.columns(), f"modalities.{part.name}", problems)
    table.skips_blank = rules.id in table.names  # without ids, a row of nothing is a case of which nothing is known
    ids = read_ids(table, rules, lenient=True)
    for remark in table.remarks():
        problems.say(remark)
    with tempfile.TemporaryDirectory(prefix="amodal-") as work, places(
        table, rules, root, Path(work), ids, problems, lenient=True, workers=workers
    ) as place:  # fmt: skip
        place = replace(place, chunk=chunk_rows(rules.sources))
        ranges = Ranges(rules.sources, np.zeros(len(ids), bool))
        built = build_stores(rules, place, np.ones(len(ids), bool), ranges, None)
        yield Cohort(
            schema=rules.schema,
            stores=built.stores,
            ids=ids,
            groups=ids,
            splits=np.full(len(ids), ""),
            target=None,
            observed=built.observed,
            source=dict(source),
        )


def table_source(experiment: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of the table that a run was trained on, from the run's experiment; None if it was no table."""
    return experiment.get("data", {}).get("source")


def _rules(schema: str | Path | TableSchema | Mapping[str, Any]) -> TableSchema:
    if isinstance(schema, TableSchema):
        return schema
    return TableSchema.from_json(schema) if isinstance(schema, Mapping) else TableSchema.load(Path(schema))


def _check_free(out: Path, overwrite: bool) -> None:
    """Refuses a place that is taken before hours of work, not after."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file", expected="a folder to make")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise DataError(f"there is something in {out} already", hint="Choose another folder, or pass --overwrite.")
    if out.is_dir() and any(out.iterdir()) and not (out / "schema.json").is_file():
        raise DataError(f"{out} is there already and is no cohort folder", hint="Choose another folder.")
