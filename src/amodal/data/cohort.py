"""A cohort: samples keyed by id, with presence, targets and the values of every modality, in memory or on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amodal.batch import UNKNOWN_CLASS, Batch, known_targets
from amodal.data.checks import check_bool, check_distinct, check_groups, check_mapping, name_rows
from amodal.data.clocks import add_times, split_times
from amodal.data.columns import read_column, read_names, read_presence, read_target
from amodal.data.folder import Parts, read_folder, write_folder
from amodal.data.moments import moments, summaries, usable
from amodal.data.store import Cut, Store, presence_digest
from amodal.data.values import read_modality
from amodal.errors import DataError, ShapeError, UnknownNameError
from amodal.schema import Modality, Schema, Task, class_order

__all__ = ["WEIGHT", "Cohort", "check_trainable"]

WEIGHT = "sample_weight"  # name of the small column that says how much a case counts


@dataclass(frozen=True, eq=False, repr=False)
class Cohort:
    """Samples keyed by id, each with a group (patient), a split, a target, and what is there of every modality.

    A cohort is a table of small columns in memory beside one store a modality, in memory or memory-mapped. Selecting
    rows (`split`, `take`) and removing modalities (`with_observed`) make views: the stores are shared, never copied.
    Make one with `Cohort.from_arrays` or `Cohort.open`.

    Attributes:
        schema: Modalities, in order, and the task.
        stores: The values of each modality.
        ids: Str, of shape (N,).
        groups: What must stay in one split, e.g. patients; str, of shape (N,).
        splits: Name of the split, "" = none; str, of shape (N,).
        target: int64 positions of classes (N,), -1 = unknown; float32 labels (N, K) or values (N,), NaN = unknown; or
            None. Which rows have one is `labelled`.
        observed: What is present now, natural absence and removal together; bool, of shape (N, M).
        extras: Small columns (N,) that are not inputs: age group, condition, …; one of numbers that is called
            "sample_weight" says how much each case counts (`weight`).
        name: A short name.
        description: One line for people.
        rows: Rows of the stores, int64, of shape (N,); None: all, in order.
        source: How it was read, as plain JSON values, so that new data can be read the same way; None: not known.
    """

    schema: Schema
    stores: Mapping[str, Store]
    ids: np.ndarray
    groups: np.ndarray
    splits: np.ndarray
    target: np.ndarray | None
    observed: np.ndarray
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    name: str = ""
    description: str = ""
    rows: np.ndarray | None = None
    source: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        if tuple(self.stores) != self.schema.names:
            raise ShapeError("a cohort needs one store a modality, in order", expected=self.schema.names)
        for name, store in self.stores.items():
            if self.rows is None and len(store) != n:
                raise ShapeError(f"modality {name!r} has another number of rows", expected=n, got=len(store))
        columns = {"groups": self.groups, "splits": self.splits, "observed": self.observed, **self.extras}
        for name, column in columns.items() if self.target is None else [*columns.items(), ("target", self.target)]:
            if len(column) != n:
                raise ShapeError(f"{name} have another number of rows", expected=n, got=len(column))

    @classmethod
    def from_arrays(
        cls,
        values: Mapping[str, Any],
        *,
        task: Task,
        target: Any = None,
        observed: Any = None,
        measured: Mapping[str, np.ndarray] | None = None,
        lengths: Mapping[str, np.ndarray] | None = None,
        times: Mapping[str, Any] | None = None,
        ids: Any = None,
        groups: Any = None,
        splits: Any = None,
        kinds: Mapping[str, str] | None = None,
        features: Mapping[str, Sequence[str]] | None = None,
        units: Mapping[str, Sequence[str]] | None = None,
        name: str = "",
        description: str = "",
        extras: Mapping[str, Any] | None = None,
    ) -> Cohort:
        """Makes a cohort of arrays and lists of text, which are used as they are, not copied, where they can be.

        Args:
            values: For each modality an array, tensor or frame (N, D) tabular, (N, T, D) series or (N, C, H, W) image,
                a list of N str (text; None = absent) or a list of N arrays or frames (T_i, D) (series of different
                length; None = absent), or a list of N sets, each a list of str or of images (C, H, W). NaN in tables
                and series marks cells that were not measured. The columns of frames name the features; numbers and
                booleans of any type are taken, a categorical column becomes one feature a category.
            task: What is predicted.
            target: As labels of `task.classes` or, where these are strings, their positions (N,); 0/1/NaN (N, K) for
                multilabel; numbers (N,) for regression. None, NaN or NA (and -1 among positions) in a row: its label is
                unknown. None: no row has one.
            observed: Presence, bool (N, M) or {name: bool (N,)}; where it is not given, a row is absent if it is None
                or NaN altogether.
            measured: For some tables and series, bool of the array's shape: the cells measured.
            lengths: For some series, integers (N,): valid times.
            times: For some series with clocks of their own, when each step was: numbers (N, T) or, of series of
                different length, a list of N arrays (T_i,) (None = absent).
            ids: Distinct strings or integers; default: positions.
            groups: Patients, strings or integers; default: the ids.
            splits: Names of splits, "" = none.
            kinds: Kinds of modalities whose shape does not tell.
            features: Names of the features; the columns of a frame are put in this order.
            units: Units of the features.
            name: A short name.
            description: One line for people.
            extras: Small columns (N,) that are not inputs.

        Raises:
            ShapeError: If numbers of rows or of axes are wrong.
            SchemaError: If names, features and units do not fit.
            DataError: If ids come twice, a group is in two splits, a target is of no known class or infinite, a
                modality has dtype object, or NaN or infinity in present values.

        Example:
            >>> cohort = Cohort.from_arrays(
            ...     {"labs": np.float32([[1, np.nan], [np.nan, np.nan]]), "note": ["stable", "febrile"]},
            ...     task=Task("binary", classes=("survived", "died")), target=["survived", "died"])
            >>> cohort.observed.tolist(), cohort.target.tolist()
            ([[True, True], [False, True]], [0, 1])
        """
        if not values:
            raise DataError("a cohort needs at least one modality", got="no values")
        names = tuple(values)
        n = len(next(iter(values.values())))
        row_ids = read_names("ids", np.arange(n) if ids is None else ids, n)
        check_distinct(row_ids)
        presence = read_presence(observed, names, n)
        by_name = {"measured": measured, "lengths": lengths, "times": times, "kinds": kinds}
        by_name |= {"features": features, "units": units}
        measured, lengths, times, kinds, features, units = (
            check_mapping(what, given, names) for what, given in by_name.items()
        )
        taken = {
            key: read_modality(
                key,
                given,
                ids=row_ids,
                kind=kinds.get(key),
                measured=measured.get(key),
                lengths=lengths.get(key),
                observed=presence.get(key),
                features=tuple(features.get(key, ())),
            )
            for key, given in values.items()
        }
        clocks = {key: add_times(key, taken[key].store, given, taken[key].observed) for key, given in times.items()}
        modalities = tuple(
            Modality(key, part.kind, part.shape, part.features, tuple(units.get(key, ())), clock=clocks.get(key, ()))
            for key, part in taken.items()
        )
        row_groups = row_ids if groups is None else read_names("groups", groups, n)
        row_splits = np.full(n, "") if splits is None else read_names("splits", splits, n, allow_empty=True)
        check_groups(row_groups, row_splits)
        return cls(
            schema=Schema(modalities, task),
            stores={key: part.store for key, part in taken.items()},
            ids=row_ids,
            groups=row_groups,
            splits=row_splits,
            target=None if target is None else read_target(target, task, row_ids),
            observed=np.stack([part.observed for part in taken.values()], axis=1),
            extras={key: read_column(key, column, n) for key, column in (extras or {}).items()},
            name=name,
            description=description,
        )

    # Rows and presence -----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        title = f" {self.name!r}" if self.name else ""
        return f"<Cohort{title}: {len(self)} samples, {', '.join(self.schema.names)}>"

    def split(self, name: str) -> Cohort:
        """The rows of one split, as a view.

        Raises:
            UnknownNameError: If no row has this split.
        """
        rows = np.flatnonzero(self.splits == name) if name else np.zeros(0, np.int64)
        if len(rows) == 0:
            raise UnknownNameError("split", name, sorted({str(known) for known in np.unique(self.splits)} - {""}))
        return self.take(rows)

    def take(self, rows: np.ndarray) -> Cohort:
        """Some rows, as a view.

        Args:
            rows: Positions (n,), which may repeat, or a bool selection (N,).
        """
        rows = self._positions(rows)
        return replace(
            self,
            ids=self.ids[rows],
            groups=self.groups[rows],
            splits=self.splits[rows],
            target=None if self.target is None else self.target[rows],
            observed=self.observed[rows],
            extras={key: column[rows] for key, column in self.extras.items()},
            rows=rows if self.rows is None else self.rows[rows],
        )

    def with_observed(self, presence: np.ndarray) -> Cohort:
        """A view in which more is absent: present is what is present here and in `presence`.

        Args:
            presence: bool, of shape (N, M), columns in the schema's order; it can remove, never add.
        """
        presence = np.asarray(presence)
        if presence.dtype != bool or presence.shape != self.observed.shape:
            raise ShapeError(
                "presence must be bool with one entry for each row and modality",
                expected=f"bool {self.observed.shape}",
                got=f"{presence.dtype} {presence.shape}",
            )
        return replace(self, observed=self.observed & presence)

    @cached_property
    def weight(self) -> np.ndarray | None:
        """How much each case counts in training and in metrics, (N,), not negative; None: all alike.

        Raises:
            DataError: If the extra column "sample_weight" holds something else.
        """
        if WEIGHT not in self.extras:
            return None
        column = self.extras[WEIGHT]
        if column.dtype.kind not in "iuf" or not (np.isfinite(column) & (column >= 0)).all():
            raise DataError(
                f"the column {WEIGHT!r} cannot be used", expected="finite numbers, not negative", got=column.dtype
            )
        return column.astype(np.float64)

    @cached_property
    def labelled(self) -> np.ndarray:
        """Rows whose target is known, bool, of shape (N,); of several labels, any of them.

        Example:
            >>> cohort = Cohort.from_arrays(
            ...     {"x": np.float32([[1], [2]])}, task=Task("binary", classes=("no", "yes")), target=["yes", None])
            >>> cohort.labelled.tolist(), cohort.target.tolist()
            ([True, False], [1, -1])
        """
        if self.target is None:
            return np.zeros(len(self), bool)
        return known_targets(torch.from_numpy(self.target)).numpy()

    def with_labelled(self, labelled: np.ndarray) -> Cohort:
        """A view in which fewer labels are known: labelled is what is labelled here and in `labelled`.

        Args:
            labelled: bool, of shape (N,); it can remove labels, never add.
        """
        labelled = check_bool("labelled", np.asarray(labelled), (len(self),))
        if self.target is None:
            return self
        target = self.target.copy()
        target[~labelled] = np.nan if target.dtype.kind == "f" else UNKNOWN_CLASS
        return replace(self, target=target)

    def with_task(self, task: Task) -> Cohort:
        """The same samples with their targets as another task counts them: the same classes, in any order.

        Raises:
            SchemaError: If kinds, classes or units differ.
        """
        order = class_order(task, self.schema.task)
        target = self.target
        if target is not None and order is not None:
            places = np.append(np.argsort(order), UNKNOWN_CLASS)  # so that -1 stays -1
            target = target[:, order] if target.ndim == 2 else places[target]
        return replace(self, schema=replace(self.schema, task=task), target=target)

    def _positions(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows)
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise ShapeError("a bool selection needs one entry for each row", expected=len(self), got=rows.shape)
            return np.flatnonzero(rows)
        if rows.ndim != 1 or (rows.dtype.kind not in "iu" and rows.size):
            raise ShapeError("rows must be integers (n,) or bool (N,)", got=f"{rows.dtype} {rows.shape}")
        rows = rows.astype(np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise ShapeError(
                "rows are out of range", expected=f"0 … {len(self) - 1}", got=f"{rows.min()} … {rows.max()}"
            )
        return rows

    # Values ----------------------------------------------------------------------------------------------------------

    def batch(self, rows: np.ndarray) -> Batch:
        """Cuts a batch, in raw units, on the CPU.

        Args:
            rows: Positions, int64 (n,), or a bool selection (N,).

        Returns:
            Series (n, T, D) with the schema's T, tables and images as float32; text as UTF-8 bytes, uint8 (n, L) with
            L the longest of these rows. What is absent is not even read.
        """
        rows = self._positions(rows)
        observed = self.observed[rows]
        values, measured, lengths, times = {}, {}, {}, {}
        for column, name in enumerate(self.schema.names):
            cut = self._cut(name, rows, observed[:, column])
            if cut.times is not None:
                times[name] = torch.from_numpy(cut.times)
            values[name] = torch.from_numpy(cut.values)
            if cut.measured is not None:
                measured[name] = torch.from_numpy(cut.measured)
            if cut.lengths is not None:
                lengths[name] = torch.from_numpy(cut.lengths)
        return Batch(
            values=values,
            observed={name: torch.from_numpy(observed[:, m].copy()) for m, name in enumerate(self.schema.names)},
            measured=measured,
            lengths=lengths,
            target=None if self.target is None else torch.from_numpy(self.target[rows]),
            ids=self.ids[rows].tolist(),
            times=times,
        )

    def cuts(self, name: str) -> Iterator[tuple[np.ndarray, Cut]]:
        """Goes through the present rows of one modality in chunks of bounded size.

        Args:
            name: The modality.

        Yields:
            Positions of the rows, int64 (n,), and their values, measured cells and lengths.
        """
        present = np.flatnonzero(self.observed[:, self.schema.names.index(self.schema[name].name)])
        if self.rows is not None:
            present = present[np.argsort(self.rows[present], kind="stable")]  # in the order on disk
        for part in self.stores[name].chunks(present):
            yield present[part], self._cut(name, present[part], np.ones(len(present[part]), bool))

    def _cut(self, name: str, rows: np.ndarray, seen: np.ndarray) -> Cut:
        cut = self.stores[name].cut(rows if self.rows is None else self.rows[rows], seen)
        return split_times(cut) if self.schema[name].clock else cut

    def scores(self) -> np.ndarray:
        """One standardised scalar a modality: what missingness may depend on.

        The mean of the row's measured cells, each standardised by its feature (images: by its channel), or the length
        of the text; then standardised over the present rows.

        Returns:
            float64, of shape (N, M); NaN where absent; 0 for a present row without any measured cell.
        """
        scores = np.full(self.observed.shape, np.nan)
        for column, modality in enumerate(self.schema.modalities):
            mean, spread = np.zeros(1), np.ones(1)
            if modality.traits.is_numeric:
                mean, spread = moments(self.cuts(modality.name), modality)
            scale = usable(spread, mean)
            summary = summaries(self.cuts(modality.name), modality, len(self), mean, scale)
            known = ~np.isnan(summary)
            deviation = float(summary[known].std()) if known.any() else 0.0
            standard = (summary - summary[known].mean() if known.any() else summary) / (deviation or 1.0)
            seen = self.observed[:, column]
            scores[seen, column] = np.where(known, standard, 0.0)[seen]
        return scores

    # Identity --------------------------------------------------------------------------------------------------------

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each part of the content: the schema, every column, and the present values of each modality.

        Equal content has equal digests, in memory, in a folder, and as a view of a larger cohort. Values are read in
        chunks, once; of a whole folder its own checksums are taken. Name, description and source do not count.
        """
        columns = {"ids": self.ids, "groups": self.groups, "splits": self.splits}
        columns |= {f"extra column {name!r}": column for name, column in self.extras.items()}
        found = {"schema": _digest(json.dumps(self.schema.to_json(), sort_keys=True).encode())}
        found |= {name: _digest(_column_bytes(column)) for name, column in columns.items()}
        found["target"] = _digest(b"" if self.target is None else _column_bytes(self.target))
        found["presence"] = presence_digest(self.observed)
        for column, (name, store) in enumerate(self.stores.items()):
            parts = store.digests(self.rows, self.observed[:, column])
            found[f"values of {name!r}"] = _digest(json.dumps(parts, sort_keys=True).encode())
        return found

    @cached_property
    def fingerprint(self) -> str:
        """One digest of all of them, 32 hexadecimal digits.

        Example:
            >>> task = Task("binary", classes=("no", "yes"))
            >>> one, other = (Cohort.from_arrays({"x": np.float32([[v], [2]])}, task=task) for v in (1, 3))
            >>> one.fingerprint == other.fingerprint, one.take(np.array([1])).fingerprint == one.fingerprint
            (False, False)
        """
        return _digest(json.dumps(self.digests, sort_keys=True).encode())[:32]

    # Folders ---------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Writes the cohort as a folder: under a temporary name first, so that it is there entirely or not at all.

        Only what is present is written: a modality that was removed from a row is physically gone from the copy.

        Args:
            folder: Where to.
            overwrite: Replace a cohort that is already there.

        Raises:
            DataError: If something is there already, or the folder cannot be written; what was there stays.
        """
        check_distinct(self.ids)
        parts = Parts(
            self.schema,
            self.stores,
            self.ids,
            self.groups,
            self.splits,
            self.target,
            self.observed,
            self.extras,
            self.name,
            self.description,
            self.source,
        )
        rows = np.arange(len(self)) if self.rows is None else self.rows
        write_folder(Path(folder), parts, rows, overwrite=overwrite)

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool | None = None) -> Cohort:
        """Opens a folder written by `save`, memory-mapped: at once, however large it is.

        Args:
            folder: The folder.
            verify: Also read every array through and compare its checksum; None: if they are 256 MB or less together.

        Raises:
            DataError: If a file is missing, truncated or altered, or the format is newer; the message names the file.
        """
        return cls(**read_folder(Path(folder), verify=verify)._asdict())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _column_bytes(column: np.ndarray) -> bytes:
    """A column's content, whatever the width of its strings."""
    if column.dtype.kind == "U":
        return json.dumps(column.tolist()).encode()
    return f"{column.dtype.str} {column.shape}".encode() + np.ascontiguousarray(column).tobytes()


def check_trainable(cohort: Cohort, *, allow_empty_rows: bool = False) -> None:
    """Checks that something can be learned from a cohort.

    Args:
        cohort: The training rows, as they will be seen (natural absence and removal).
        allow_empty_rows: Let rows with nothing observed pass.

    Raises:
        DataError: If there is no row or none with a label, only one class among the labels, a modality that no row has,
            or rows with nothing observed; the message names them.
    """
    if len(cohort) == 0:
        raise DataError("the training split is empty", expected="at least one sample")
    task, target = cohort.schema.task, cohort.target
    if target is None:
        raise DataError(f"the training samples have no target {task.name!r}")
    known = target[cohort.labelled]
    if not len(known):
        raise DataError(
            f"no label of {task.name!r} is known in the training samples",
            expected="samples with a label; others may have none",
        )
    if task.is_classification and len(np.unique(known)) < 2:
        raise DataError(
            f"all training samples with a label have the same class of {task.name!r}",
            expected="at least two classes",
            got=repr(task.classes[int(known[0])]),
        )
    never = [name for name, share in zip(cohort.schema.names, cohort.observed.mean(0)) if share == 0]
    if never:
        raise DataError(
            f"modalities never observed in training: {', '.join(never)}", hint="Leave them out of the cohort."
        )
    empty = cohort.observed.sum(1) == 0
    if empty.any() and not allow_empty_rows:
        raise DataError(
            f"training samples with no modality observed: {name_rows(empty, cohort.ids)}",
            expected="at least one modality in every training sample",
            hint="Leave these samples out.",
        )
