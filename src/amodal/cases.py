"""Cases: N cases with several inputs, as the tools of scikit-learn need them, and rows aligned by label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any, Self

import numpy as np

from amodal.errors import DataError, SchemaError, ShapeError, UnknownNameError

__all__ = ["Cases", "align_rows"]


class Cases(Mapping[str, Any]):
    """N cases with several inputs: a dictionary of arrays whose length is the number of cases.

    Rows are selected by position (``cases[rows]``), inputs by name (``cases["labs"]``), as cross-validation, searches,
    splits and permutation importance do it: for them a modality is a column. Wherever an estimator takes a dictionary,
    it takes this as well.

    **Rows with labels.** Frames and columns of pandas whose indexes differ are aligned by label: the cases are all
    labels, in the order in which they come first, and a case that an input does not have is missing there. Labels that
    come twice, inputs without labels beside indexes that differ, and indexes without a common label cannot be aligned.
    The numbers 0 … N-1 that pandas gives by itself are positions, not labels, unless the other index has just these.

    Args:
        X: For each modality an array (N, …), a frame, or a list of N entries. Columns of presence, bool (N,), too.

    Attributes:
        index: Labels of the cases, a pandas index; None where the inputs have none.

    Raises:
        SchemaError: If there is no input, or X is no dictionary.
        ShapeError: If the numbers of rows differ.
        DataError: If rows cannot be aligned.

    Example:
        >>> cases = Cases({"labs": np.arange(6.0).reshape(3, 2), "note": ["stable", None, "febrile"]})
        >>> len(cases), cases.shape, list(cases)
        (3, (3, 2), ['labs', 'note'])
        >>> cases[[2, 0]]["note"]
        ['febrile', 'stable']
    """

    def __init__(self, X: Mapping[str, Any]):
        if isinstance(X, Cases):
            self._columns, self.index, self._n = dict(X._columns), X.index, X._n
            return
        if not isinstance(X, Mapping):
            raise SchemaError(
                "X is not a dictionary of modalities",
                expected="{name: array of shape (N, …), frame or list}",
                got=type(X).__name__,
            )
        if not X:
            raise SchemaError("X has no modality")
        self._columns, self.index = _aligned(dict(X))
        sizes = {name: _length(name, column) for name, column in self._columns.items()}
        self._n = next(iter(sizes.values()))
        for name, size in sizes.items():
            if size != self._n:
                raise ShapeError(f"modality {name!r} has another number of rows", expected=self._n, got=size)

    # As a dictionary -------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def keys(self):
        """Names of the inputs."""
        return self._columns.keys()

    def values(self):
        """The inputs."""
        return self._columns.values()

    def items(self):
        """Names and inputs."""
        return self._columns.items()

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    # As a table ------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._n

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cases N and number of inputs M."""
        return self._n, len(self._columns)

    @property
    def columns(self) -> list[str]:
        """Names of the inputs."""
        return list(self._columns)

    @property
    def iloc(self) -> Cases:
        """The cases by position, for tools that ask a frame so: ``cases.iloc[rows, column]``."""
        return self

    @property
    def loc(self) -> Cases:
        """As `iloc`: the tools of scikit-learn select by it with bool arrays only."""
        return self

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            if key not in self._columns:
                raise UnknownNameError("modality", key, self._columns)
            return self._columns[key]
        rows, names = key if isinstance(key, tuple) else (key, ...)
        if names is ...:
            return self.take(rows)
        if isinstance(names, str | int | np.integer):
            names = [names]
        elif isinstance(names, slice):
            names = self.columns[names]
        columns = [self.columns[int(name)] if isinstance(name, int | np.integer) else name for name in names]
        return Cases({name: self[name] for name in columns}).take(rows)

    def __setitem__(self, name: str, column: Any) -> None:
        """Replaces one input; a selection ``cases.iloc[rows, column]`` stands for the input it holds."""
        if isinstance(column, Cases):
            (column,) = column.values()
        if name not in self._columns:
            raise UnknownNameError("modality", name, self._columns)
        if _length(name, column) != self._n:
            raise ShapeError(f"modality {name!r} has another number of rows", expected=self._n, got=len(column))
        self._columns[name] = column

    def take(self, rows: Any, axis: int = 0) -> Self:
        """Some cases, in the order given.

        Args:
            rows: Positions (n,), which may repeat, a bool selection (N,), a slice, or one position.
            axis: 0; inputs are selected by their names.
        """
        if axis != 0:
            raise ShapeError("cases are taken along axis 0", got=f"axis {axis}", hint="Inputs go by name.")
        if not isinstance(rows, slice):
            rows = np.atleast_1d(np.asarray(rows))
            rows = rows if rows.size else rows.astype(int)
            if rows.ndim > 1:
                raise ShapeError("rows are selected along one axis", expected="(n,)", got=rows.shape)
            if rows.dtype == bool and rows.shape != (self._n,):
                raise ShapeError("a bool selection needs one entry for each case", expected=self._n, got=rows.shape)
        positions = np.arange(self._n)[rows]
        taken = object.__new__(type(self))
        taken._columns = {name: _rows(column, positions) for name, column in self._columns.items()}
        taken.index = None if self.index is None else self.index[positions]
        taken._n = len(positions)
        return taken

    def copy(self) -> Self:
        """Another container of the same inputs: replacing one there does not change it here."""
        return self.take(slice(None))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._n} cases, {', '.join(self._columns)}>"

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError(
            f"{self!r} is no single array: this tool needs one table. Use an estimator with "
            "modalities={name: columns} and give it a frame."
        )

    def align(self, what: str, given: Any) -> Any:
        """A column that belongs to the cases (targets, groups, weights), its rows by label as the cases have them."""
        return given if given is None else align_rows(what, given, self.index, self._n)


def align_rows(what: str, given: Any, index: Any, n: int) -> Any:
    """A column or frame of pandas in the order of an index; anything without labels as it is.

    Args:
        what: For messages.
        given: The column.
        index: Labels of the rows wanted; None: there are none, and rows go by position.
        n: Number of the rows wanted.

    Raises:
        DataError: If rows cannot be aligned: labels that come twice, rows without an entry, entries without a row.
    """
    labels = _labels(given)
    if labels is None or index is None or labels.equals(index) or (len(labels) == len(index) == 0):
        return given
    if not (labels.is_unique and index.is_unique):
        twice = labels[labels.duplicated()] if not labels.is_unique else index[index.duplicated()]
        raise DataError(f"{what} cannot be aligned with X: label {_few(twice[:1])} comes twice", hint=_BY_POSITION)
    lacking, unknown = index.difference(labels, sort=False), labels.difference(index, sort=False)
    if not len(lacking) and not len(unknown):
        return given.iloc[labels.get_indexer(index)]
    if len(lacking) == len(index) or _is_positions(labels) or _is_positions(index):
        raise DataError(
            f"{what} cannot be aligned with X: the row labels are of another kind",
            expected=_few(index, repr),
            got=_few(labels, repr),
            hint=_BY_POSITION,
        )
    if len(lacking):
        raise DataError(f"{what} has no entry for rows of X: {_few(lacking)}", hint="Add them, or leave the rows out.")
    if what == "y":
        raise DataError(f"y has entries of rows that no input has: {_few(unknown)}", hint="Leave them out of y.")
    return given.iloc[labels.get_indexer(index)]


_BY_POSITION = "If the rows correspond by position, give arrays: .to_numpy()."


def _aligned(columns: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Inputs with a common index, and that index; None without one."""
    labels = {name: found for name, value in columns.items() if (found := _labels(value)) is not None}
    if not labels:
        return columns, None
    first, *others = labels.values()
    if all(other.equals(first) for other in others) or all(map(_is_positions, labels.values())):
        return columns, first
    bare = [name for name in columns if name not in labels]
    if bare:
        raise DataError(
            f"modality {bare[0]!r} has no row labels, and those of the others differ",
            hint="Give all as frames with the same index, or all in the same order.",
        )
    for name, found in labels.items():
        if found.nlevels == 1 and found.hasnans:
            raise DataError(f"modality {name!r} cannot be aligned: it has a row without a label", hint=_BY_POSITION)
        if not found.is_unique:
            raise DataError(
                f"modality {name!r} cannot be aligned: label {_few(found[found.duplicated()][:1])} comes twice",
                hint=_BY_POSITION,
            )
        rest = [other for key, other in labels.items() if key != name]
        same = any(len(found) == len(other) and not len(found.difference(other)) for other in rest)
        if not same and (_is_positions(found) or not any(len(found.intersection(other)) for other in rest)):
            raise DataError(
                f"modality {name!r} cannot be aligned: its row labels are of another kind",
                expected=_few(rest[0], repr),
                got=_few(found, repr),
                hint=_BY_POSITION,
            )
    import pandas as pd

    index = pd.Index(list(dict.fromkeys(label for found in labels.values() for label in found)))
    return {name: value.reindex(index) for name, value in columns.items()}, index


def _labels(given: Any) -> Any:
    """The index of a frame or column of pandas; None for anything else."""
    return given.index if hasattr(given, "iloc") and not isinstance(given, Cases) else None


def _is_positions(index: Any) -> bool:
    """Whether an index is what pandas numbers rows by when nobody gave one."""
    import pandas as pd

    return isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1


def _length(name: str, column: Any) -> int:
    if hasattr(column, "tocsr"):
        raise ShapeError(f"modality {name!r} is sparse", expected="a dense array", hint="Give it as .toarray().")
    try:
        if not isinstance(column, str | bytes | Set | Mapping):
            return len(column)
    except TypeError:
        pass
    raise ShapeError(f"modality {name!r} has no rows", expected="an array, frame or list", got=type(column).__name__)


def _rows(column: Any, rows: np.ndarray) -> Any:
    if hasattr(column, "iloc"):
        return column.iloc[rows]
    if isinstance(column, list | tuple):
        return [column[row] for row in rows.tolist()]
    return column[rows]


def _few(labels: Sequence[Any], shown_as: Callable[[Any], str] = str) -> str:
    shown = ", ".join(shown_as(label) for label in labels[:5])
    return f"{shown}, … ({len(labels)} rows)" if len(labels) > 5 else shown
