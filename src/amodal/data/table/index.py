"""The cases of a manifest: ids, groups, splits, targets."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from amodal.data.checks import check_distinct, check_groups, name_rows
from amodal.data.cohort import WEIGHT
from amodal.data.columns import read_target
from amodal.data.split import split_groups
from amodal.data.table.cells import words
from amodal.data.table.manifest import Table
from amodal.data.table.numbers import numbers
from amodal.data.table.problems import Problems
from amodal.data.table.schema import TableSchema
from amodal.data.table.words import alike, is_shortened, spelled
from amodal.errors import DataError
from amodal.schema import Task

__all__ = ["Index", "check_rows", "read_ids", "read_index"]

_CHUNK = 65536
_FEWEST = 4  # columns of a table whose rows can be told within a text


class Index(NamedTuple):
    """The small columns of a cohort.

    Attributes:
        kept: Which rows of the manifest are cases, bool (R,).
        ids: Str (N,).
        groups: Str (N,).
        splits: Str (N,).
        target: As in `Cohort.target`.
        extras: Str (N,) by column, and the weights, float64.
        left_out: Ids of the rows that are no cases.
    """

    kept: np.ndarray
    ids: np.ndarray
    groups: np.ndarray
    splits: np.ndarray
    target: np.ndarray
    extras: dict[str, np.ndarray]
    left_out: frozenset[str]


def read_ids(manifest: Table, schema: TableSchema, *, lenient: bool = False) -> np.ndarray:
    """The ids of a manifest alone, as prediction needs them; positions if it has none.

    Raises:
        DataError: If there is no row, or an id is missing or comes twice.
    """
    ids = _ids(manifest, schema, lenient)
    check_distinct(ids)
    return ids


def _ids(manifest: Table, schema: TableSchema, lenient: bool) -> np.ndarray:
    has = bool(schema.id) and (not lenient or schema.id in manifest.names)
    column = schema.id if has else manifest.names[0]
    parts, n = [], 0
    for chunk in manifest.chunks([column], _CHUNK):
        cells = chunk[column]
        plain = words(cells, frozenset(schema.missing), ignore_case=schema.ignore_case) if has else None
        parts.append(np.arange(n, n + len(cells)).astype(str).astype(object) if plain is None else plain)
        n += len(cells)
    if not n:
        raise DataError(f"{manifest.path} has no rows", expected="one row for each case beneath the columns' names")
    ids = np.concatenate(parts)
    empty = np.array([row is None for row in ids], dtype=bool)
    if empty.any():
        raise DataError(
            f"the id column {column!r} of {manifest.path.name} is empty, or holds a word for an empty cell, in "
            f"{int(empty.sum())} rows, first in row {int(empty.argmax()) + 2}",
            expected="an id for every case",
            hint="A line of units beneath the names, or of sums at the end, is no case: delete it.",
        )
    if has:
        _check_quotes(manifest, column, ids.astype(str))
    return ids.astype(str)


def _check_quotes(manifest: Table, column: str, ids: np.ndarray) -> None:
    """Refuses a cell that holds whole rows of the table, as one does whose quote is not closed."""
    n, place = len(manifest.names), manifest.names.index(column)
    if not manifest.has_quotes or n < _FEWEST:
        return
    from pyarrow import compute

    pc: Any = compute
    shapes, known = {_shape(row) for row in ids}, set(ids.tolist())
    for chunk in manifest.chunks(manifest.names, _CHUNK):
        for name, cells in chunk.items():
            for cell in cells.filter(pc.match_substring(cells, "\n")).to_pylist():
                for line in str(cell).split("\n")[1:]:
                    parts = [spelled(part) for part in line.split(manifest.delimiter)]
                    if len(parts) == n and _shape(parts[place]) in shapes and parts[place] not in known:
                        where = f"{manifest.path.name}: a cell of {name!r}"
                        raise DataError(
                            f"{where} holds whole rows, such as that of {parts[place]}",
                            expected="one text in a cell",
                            got=repr(f"{str(cell)[:60]}…"),
                            hint='A quote that opens this text is not closed: write it twice (""), or take it away.',
                        )


def _shape(word: str) -> str:
    return re.sub("[0-9]+", "9", word)


def _repeated(manifest: Table, ids: np.ndarray, rule: str, ignore_case: bool) -> np.ndarray:
    """Rows that are the same in every cell as one before, bool (R,), where the rule is to leave them out.

    Raises:
        DataError: If rows of one id differ, or the rule is "error".
    """
    names, counts = np.unique(ids, return_counts=True)
    again = np.zeros(len(ids), bool)
    if len(names) == len(ids):
        return again
    several = np.isin(ids, names[counts > 1])
    rows: list[tuple[Any, ...]] = []
    start = 0
    for chunk in manifest.chunks(manifest.names, _CHUNK):
        n = len(next(iter(chunk.values())))
        chosen = np.flatnonzero(several[start : start + n])
        cells = [words(chunk[name].take(chosen), frozenset({""}), ignore_case=ignore_case) for name in manifest.names]
        rows += list(zip(*cells))
        start += n
    contents: dict[str, tuple[Any, ...]] = {}
    for place, row in zip(np.flatnonzero(several), rows):
        again[place] = ids[place] in contents
        before = contents.setdefault(str(ids[place]), row)
        if before != row:
            raise _differing(manifest, names[counts > 1], str(ids[place]), before, row)
    if rule == "error":
        count = int(again.sum())
        raise DataError(
            f"{count:,} rows of {manifest.path.name} are the same again in every cell, first that of {ids[again][0]}",
            expected="one row for each case",
            hint="Write `duplicates: drop` at the top of the schema to take the first of them.",
        )
    return again


def check_rows(manifest: Table, schema: TableSchema) -> None:
    """Raises DataError if rows of one id differ, with what differs, or are the same where the schema refuses that."""
    _repeated(manifest, _ids(manifest, schema, False), schema.duplicates, schema.ignore_case)


def _differing(
    manifest: Table, twice: np.ndarray, row: str, before: tuple[Any, ...], after: tuple[Any, ...]
) -> DataError:
    """The error for two rows of one id that say different things."""
    column, a, b = next((name, a, b) for name, a, b in zip(manifest.names, before, after) if a != b)
    a, b = ("an empty cell" if cell is None else repr(cell[:60]) for cell in (a, b))
    return DataError(
        f"ids come more than once: {', '.join(twice[:5])}{', …' if len(twice) > 5 else ''}",
        expected="distinct ids",
        got=f"{a} and {b} in {column!r} of {row}",
        hint="Delete the row that is wrong. If a patient has several rows, name a column as `id` that tells them apart "
        "(or none), and the patient's as `group`; rows of one case belong into a second table.",
    )


def read_index(manifest: Table, schema: TableSchema, problems: Problems) -> Index:
    """Reads the columns that say who the cases are, draws splits where they are to be drawn, and leaves rows out.

    Raises:
        DataError: If there are no rows; an id is missing or comes twice; a group is missing or in two splits; a target
            is missing (unless such rows are left out or kept) or is none.
    """
    rows_of = f"rows of {manifest.path.name}"
    ids = _ids(manifest, schema, False)
    again = _repeated(manifest, ids, schema.duplicates, schema.ignore_case)
    target, found, weights = _columns(manifest, schema, ids)
    problems.enter(rows_of, len(ids))
    _tell_shortened(ids, schema.id, problems)
    problems.add(f"{manifest.path.name}: the same row again, left out", ids[again], lost=rows_of)
    for remark in manifest.remarks():
        problems.say(remark)
    schema.task.check(target[~again], manifest.path.name)
    unknown = np.asarray(np.isnan(target).reshape(len(target), -1).all(1)) & ~again
    if unknown.any():
        _tell_unknown(schema, ids, unknown, problems, rows_of)
    if schema.task.without_target == "keep":
        unknown = np.zeros_like(unknown)
    kept = np.asarray(~unknown & ~again)
    problems.enter(rows_of, 0, measured=int(kept.sum()))
    left_out = frozenset(ids[unknown].tolist())
    ids, target = ids[kept], target[kept]
    if not len(ids) or np.isnan(target).all():
        raise DataError(f"no row of {manifest.path} has a target", hint="Are all its words under `unknown`?")
    found = {name: column[kept] for name, column in found.items()}
    groups = _groups(found[schema.group], schema.group, ids) if schema.group else ids
    _tell_shortened(groups, schema.group, problems)
    task = schema.task.task
    column: Any = target
    if task.is_classification:
        column = [None if np.isnan(i) else task.classes[int(i)] for i in target]
    answers = read_target(column, task, ids)
    if schema.split.column:
        splits = _splits(found[schema.split.column], schema, ids)
    else:
        splits = split_groups(
            groups, answers, schema.split.fractions, seed=schema.split.seed, stratify=schema.split.stratify
        )
    check_groups(groups, splits)
    _tell_alike(schema, groups, splits, problems)
    _tell_constant(task, answers, problems)
    extras = {name: np.array(["" if c is None else c for c in found[name]], dtype=str) for name in schema.extras}
    if weights is not None:
        extras[WEIGHT] = weights[kept]
    return Index(kept, ids, groups, splits, answers, extras, left_out)


def _columns(
    manifest: Table, schema: TableSchema, ids: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray | None]:
    """Target, columns of words by name and weights of all rows of the manifest, read chunk by chunk."""
    missing, targets, weights = frozenset(schema.missing), [], []
    columns = {name: [] for name in (schema.group, schema.split.column, *schema.extras) if name}
    wanted = list({**schema.task.cells(), **dict.fromkeys([*columns, *filter(None, [schema.weight])])})
    start = 0
    for chunk in manifest.chunks(wanted, _CHUNK):
        n = len(next(iter(chunk.values())))
        targets.append(schema.task.values(chunk, ids[start : start + n], schema.reading))
        if schema.weight:
            weights.append(_weights(chunk[schema.weight], schema, ids[start : start + n]))
        for name, parts in columns.items():
            empty = missing if name != schema.split.column else frozenset({""})
            parts.append(words(chunk[name], empty, ignore_case=schema.ignore_case))
        start += n
    found = {name: np.concatenate(parts) for name, parts in columns.items()}
    return np.concatenate(targets), found, np.concatenate(weights) if weights else None


def _weights(column: Any, schema: TableSchema, ids: np.ndarray) -> np.ndarray:
    """How much each case counts, float64 (n,)."""
    read = numbers(column, frozenset(schema.missing), schema.numbers)
    bad = read.bad | read.empty | ~(read.values >= 0)
    if bad.any():
        raise DataError(
            f"the weight column {schema.weight!r} is no weight in rows: {name_rows(bad, ids)}",
            expected="a number, 0 or more, for every case",
        )
    return read.values


def _splits(column: np.ndarray, schema: TableSchema, ids: np.ndarray) -> np.ndarray:
    """The splits that a column says, or that the schema gives to its words."""
    said, values = np.array(["" if s is None else s for s in column], dtype=str), schema.split.values
    if values is None:
        return said
    known = {spelled(word, ignore_case=schema.ignore_case): split for word, split in values.items()}
    unknown = np.array([word != "" and word not in known for word in said], dtype=bool)
    if unknown.any():
        raise DataError(
            f"the split column {schema.split.column!r} has words without a split: {str(said[unknown][0])!r} in rows "
            f"{name_rows(unknown, ids)}",
            expected=f"one of {', '.join(values)}",
            hint="Add it under `split.values`.",
        )
    return np.array([known.get(word, "") for word in said], dtype=str)


def _tell_alike(schema: TableSchema, groups: np.ndarray, splits: np.ndarray, problems: Problems) -> None:
    """Refuses splits that differ only in case, and says if groups do.

    Raises:
        DataError: If two splits are such.
    """
    pairs = _by_case(splits)
    if pairs:
        raise DataError(
            f"the splits {' and '.join(map(repr, pairs))} of the column {schema.split.column!r} differ in case only",
            expected="one spelling of each split",
            hint="Write `ignore_case: true` at the top of the schema.",
        )
    strange = sorted(set(np.unique(splits).tolist()) - {"train", "valid", "test", ""})
    if strange:
        names = ", ".join(map(repr, strange))
        problems.say(
            f"splits are called {names}; train, valid and test are looked for unless you say otherwise: name them by "
            "`split: {column: …, values: {…}}`"
        )
    pairs = _nearly(groups) if schema.group else []
    if pairs:
        problems.say(
            f"groups that are nearly the same, like {' and '.join(map(repr, pairs))}, are taken as several "
            "(`ignore_case: true` joins those that differ in case only)"
        )


def _nearly(names: np.ndarray) -> list[str]:
    """The first two names that differ only in case, leading zeros, blanks or marks; none if there are none."""
    seen: dict[str, str] = {}
    for name in np.unique(names).tolist():
        if seen.setdefault(alike(name), name) != name:
            return [seen[alike(name)], name]
    return []


def _tell_shortened(names: np.ndarray, column: str, problems: Problems) -> None:
    """Says ids of which a spreadsheet has kept the first digits only."""
    for name in names if column else ():
        if is_shortened(str(name)):
            problems.say(
                f"column {column!r}: {str(name)!r} is a number as spreadsheets shorten it, and its last digits are "
                "lost: export the column again, as text"
            )
            return


def _by_case(names: np.ndarray) -> list[str]:
    """The first two names that differ in case only; none if there are none."""
    seen: dict[str, str] = {}
    for name in np.unique(names).tolist():
        if seen.setdefault(name.casefold(), name) != name:
            return [seen[name.casefold()], name]
    return []


def _groups(column: np.ndarray, name: str, ids: np.ndarray) -> np.ndarray:
    empty = np.array([group is None for group in column], dtype=bool)
    if empty.any():
        raise DataError(
            f"the group column {name!r} is empty in rows: {name_rows(empty, ids)}",
            expected="a group (patient) for every case",
            hint="Fill it in: cases of one patient in two splits would make every result too good.",
        )
    return column.astype(str)


def _tell_constant(task: Task, answers: NDArray, problems: Problems) -> None:
    """Notes a class without a case, and a value that is the same, or one of two, in every row."""
    for place, label in enumerate(task.classes):
        met = (answers == place) if task.is_classification else (answers[:, place] == 1)
        if not met.any():
            problems.say(f"there is no case of {label!r}")
    if task.traits.one_value:
        values = np.unique(answers[~np.isnan(answers)])
        if len(values) == 1:
            problems.say(f"the target {task.name!r} is {values[0]:g} in every row: there is nothing to predict")
        elif len(values) == 2:
            two = f"{values[0]:g} and {values[1]:g}"
            problems.say(f"the target {task.name!r} has two values, {two}: is it a class (`kind: binary`)?")


def _tell_unknown(schema: TableSchema, ids: np.ndarray, unknown: np.ndarray, problems: Problems, rows_of: str) -> None:
    if schema.task.without_target == "keep":
        problems.add("no target, kept as rows without a label", ids[unknown])
        return
    if schema.task.without_target == "error":
        raise DataError(
            f"the target {schema.task.task.name!r} is missing in rows: {name_rows(unknown, ids)}",
            expected="a target for every case",
            hint="Under `task` write `without_target: keep` to keep them as rows without a label, from which some "
            "methods learn, or `without_target: leave_out` to leave such rows out.",
        )
    problems.add("no target, left out", ids[unknown], lost=rows_of)
