"""Arrays made elsewhere: one .npy or .npz file a case, or one bank with a row for each, embeddings among them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from amodal.data.table.cells import texts, words
from amodal.data.table.files import FileRule, load_array, open_bank, read_files, within
from amodal.data.table.section import Section
from amodal.data.table.several import ONE, Several
from amodal.data.table.source import Piece, Place, Reader, Rows, Source, set_piece
from amodal.data.table.words import near_pairs, say_pairs, spelled
from amodal.errors import DataError, SchemaError
from amodal.kinds import MODALITY_KINDS, ModalityKind, SetKind, modality_kind
from amodal.schema import Modality

__all__ = ["Array", "Embedding"]

_N_AXES = {n: len(kind.axes) for n, kind in MODALITY_KINDS.items() if kind.is_numeric and not isinstance(kind, SetKind)}


@dataclass(frozen=True)
class Array(Source):
    """A modality of ready arrays.

    Either `column` names a file for each case, or `file` is one bank for all, whose rows belong to the cases by `ids`
    (an array of names in the same .npz file), met by the manifest's column `match`.

    Attributes:
        as_kind: What they are: "tabular" (D,), "series" (T, D) or "image" (C, H, W); of an image
            (H, W) and (H, W, C) will do.
        column: The manifest's column with the names of files.
        folder: Folder they lie in.
        ending: What the names in the column lack, such as ".npy".
        file: The bank.
        key: Name of the array in .npz files; None: the only one.
        ids: Name of the array with the names of a bank's rows.
        match: The manifest's column that these names stand in; "" = the id.
        several: How several names in one cell are parted; their arrays become a set.
        features: Names of the features; () = not named.
        units: Units of the features, or one for all; () = not stated.
        shape: Shape of one; (): that of the first. Series may be shorter, and are filled up as not measured.
        missing_file: "error" or "absent": what a name without a file (or a row of the bank) means.
        unreadable_file: "error" or "absent".
        description: One line for people.
    """

    kind: ClassVar[str] = "array"

    as_kind: str = "tabular"
    column: str = ""
    folder: str = ""
    ending: str = ""
    file: str = ""
    key: str | None = None
    ids: str = ""
    match: str = ""
    several: Several = ONE
    features: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    missing_file: str = "error"
    unreadable_file: str = "error"
    description: str = ""

    @classmethod
    def read(cls, name: str, section: Section) -> Array:
        """Reads it from a schema; see `Source.read`."""
        kind = "tabular" if cls.kind == "embedding" else section.choice("as", _N_AXES)
        shape = section.raw("shape", [])
        if not isinstance(shape, list) or any(type(n) is not int or n < 1 for n in shape):
            raise section.wrong("shape", f"a list of {_N_AXES[kind]} whole numbers", shape)
        source = cls(
            name,
            kind,
            section.text("column", ""),
            section.text("folder", ""),
            section.text("ending", ""),
            section.text("file", ""),
            section.text("key", None),
            section.text("ids", ""),
            section.text("match", ""),
            Several.read(section),
            section.texts("features", ()),
            _units(section),
            tuple(shape),
            section.choice("missing_file", ("error", "absent"), "error"),
            section.choice("unreadable_file", ("error", "absent"), "error"),
            section.text("description", ""),
        )
        section.done()
        if bool(source.column) == bool(source.file):
            raise SchemaError(
                f"{section.where} needs either `column` (a file for each case) or `file` (one for all)",
                got="both" if source.column else "neither",
            )
        if source.file and not source.ids:
            raise SchemaError(
                f"{section.where} lacks the key 'ids'",
                expected="the name of the array in the same file that says whose rows they are",
            )
        if source.several and (cls._set_of(kind) is None or (source.file and not source.match)):
            raise SchemaError(
                f"{section.where} has `separator`, and its cells name no arrays that could be a set",
                expected="as: tabular or as: image, with `column`, or `file` and `match`",
            )
        if source.shape and len(source.shape) != _N_AXES[kind]:
            raise section.wrong("shape", f"{_N_AXES[kind]} whole numbers for a {kind} modality", shape)
        return source

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values that `read` takes."""
        keys = (
            "column",
            "folder",
            "ending",
            "file",
            "key",
            "ids",
            "match",
            "missing_file",
            "unreadable_file",
            "description",
        )
        record = {key: getattr(self, key) for key in keys if getattr(self, key)}
        kind = {} if self.kind == "embedding" else {"as": self.as_kind}
        record |= {key: list(getattr(self, key)) for key in ("features", "units") if getattr(self, key)}
        return {"kind": self.kind, **kind, **record, **self.several.to_json(), "shape": list(self.shape)}

    def columns(self) -> tuple[str, ...]:
        """The manifest's columns that it reads."""
        return tuple(column for column in (self.column, self.match if self.file else "") if column)

    def tables(self) -> tuple[str, ...]:
        """The files with rows of all cases that it reads."""
        return (self.file,) if self.file else ()

    def surveyed(self, place: Place) -> Array:
        """Itself with the shape of the first array that is there."""
        several = self.several.surveyed(place.manifest, self.column or self.match, place.missing)
        if self.shape:
            return replace(self, several=several)._checked()
        shape = self._bank(place)[0].shape[1:] if self.file else self._first_shape(place)
        if self.traits.on_grid:
            shape = _channels_first(shape)
        if len(shape) != _N_AXES[self.as_kind] or 0 in shape:
            raise SchemaError(
                f"modalities.{self.name}: the first array has the shape {shape}",
                expected=f"{_N_AXES[self.as_kind]} axes for a {self.as_kind} modality",
            )
        return replace(self, shape=tuple(int(n) for n in shape), several=several)._checked()

    def _checked(self) -> Array:
        """Itself, if its names and units fit its shape; one unit holds for all features."""
        n = self.traits.n_features(self.shape)
        for what in ("features", "units"):
            given = getattr(self, what)
            if given and len(given) != n and not (what == "units" and len(given) == 1):
                raise SchemaError(
                    f"modalities.{self.name}.{what} do not fit arrays of shape {self.shape}",
                    expected=f"{n}, one a feature", got=len(given),
                )  # fmt: skip
        return replace(self, units=self.units * n) if len(self.units) == 1 else self

    def _first_shape(self, place: Place) -> tuple[int, ...]:
        for chunk in place.manifest.chunks([self.column], 1024):
            cells = texts(chunk[self.column], place.missing)
            for name in (name for own in self.several.entries(cells) for name in own):
                path = within(place.root, self.folder, name + self.ending)
                try:
                    if path.is_file():
                        return load_array(path, self.key).shape
                except DataError:
                    continue
        raise DataError(
            f"modalities.{self.name}: no file that the column {self.column!r} names can be read",
            hint="Are they in `folder`, relative to the data folder (--root)?",
        )

    def _bank(self, place: Place) -> tuple[np.ndarray, np.ndarray]:
        path = within(place.root, "", self.file)
        if not path.is_file():
            raise DataError(f"modalities.{self.name}: there is no file {self.file!r} in {place.root}")
        if path.suffix.lower() != ".npz":
            raise DataError(f"modalities.{self.name}: the bank {self.file} is no .npz file")
        values, names = open_bank(path, self.key, place.work), open_bank(path, self.ids, place.work)
        if names.ndim != 1 or len(names) != len(values):
            raise DataError(
                f"modalities.{self.name}: {self.file} does not have one name for each row",
                expected=f"{len(values)} names in {self.ids!r}",
                got=names.shape,
            )
        return values, names

    @property
    def traits(self) -> ModalityKind:
        """The traits of the modality's kind."""
        return modality_kind(self.as_kind)

    def modality(self) -> Modality:
        """Name, kind and shape."""
        kind, shape = self.as_kind, self.shape
        if self.several:
            kind, shape = self._set_of(kind) or kind, (self.several.most, *shape)
        return Modality(self.name, kind, shape, self.features, self.units, self.description)

    @staticmethod
    def _set_of(kind: str) -> str | None:
        """The kind of sets of samples of a kind; None if there is none."""
        return next((n for n, k in MODALITY_KINDS.items() if isinstance(k, SetKind) and k.of.name == kind), None)

    def set_rule(self) -> Several:
        """How several of its entries stand in one cell."""
        return self.several

    def taken_for(self) -> str:
        """One line on what the arrays are taken for."""
        where = f"rows of {self.file}" if self.file else f"a file a case ({self.column})"
        where = f"sets of up to {self.several.most}, {where}" if self.several else where
        return f"{where}, as {self.as_kind} ({', '.join(map(str, self.shape))}), values as they are"

    def reader(self, place: Place) -> Reader:
        """Opens what it reads."""
        return _BankReader(self, place) if self.file else _FileReader(self, place)

    def fitted(self, array: np.ndarray) -> np.ndarray:
        """One array as float32 of this source's shape.

        Raises:
            DataError: If it has another shape or holds infinite values.
        """
        array = np.asarray(array, dtype=np.float32)
        if self.traits.on_grid and array.ndim == 2:
            array = array[None]
        elif self.traits.on_grid and array.shape != self.shape and _channels_first(array.shape) == self.shape:
            array = np.moveaxis(array, -1, 0)
        if self.traits.takes_lengths and array.shape[1:] == self.shape[1:]:
            if len(array) > self.shape[0]:
                raise DataError(
                    f"the series is longer than the others: {len(array)} of at most {self.shape[0]}",
                    hint=f"Write `shape: {[len(array), *self.shape[1:]]}`, or that of the longest.",
                )
            blank = np.full(self.shape, np.nan, np.float32)
            blank[: len(array)] = array[: self.shape[0]]
            array = blank
        if array.shape != self.shape:
            raise DataError(f"the array has the shape {array.shape}", expected=self.shape)
        if np.isinf(array).any() or (not self.traits.takes_measured and np.isnan(array).any()):
            raise DataError("the array holds infinite values" + ("" if self.traits.takes_measured else " or NaN"))
        return array


@dataclass(frozen=True)
class Embedding(Array):
    """Vectors computed elsewhere: arrays (D,)."""

    kind: ClassVar[str] = "embedding"


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """An image's shape as (C, H, W): (H, W) is grey, and 1, 3 or 4 at the end are channels if none stand in front."""
    if len(shape) == 2:
        return (1, *shape)
    if len(shape) == 3 and shape[-1] in (1, 3, 4) and shape[0] not in (1, 3, 4):
        return (shape[-1], *shape[:-1])
    return shape


class _FileReader(Reader):
    def __init__(self, source: Array, place: Place):
        self.source, self.place = source, place

    def read(self, rows: Rows) -> Piece:
        source = self.source
        rule = FileRule(
            source.column, source.folder, source.missing_file, source.unreadable_file,
            ending=source.ending, several=source.several,
        )  # fmt: skip

        def decode(path: Path) -> np.ndarray:
            return source.fitted(load_array(path, source.key))

        found, _ = read_files(self.place, rows, rule, source.name, decode)
        return _piece(source, found, rows, self.place)


class _BankReader(Reader):
    def __init__(self, source: Array, place: Place):
        self.source, self.place = source, place
        self.values, self.places = None, {}
        path = within(place.root, "", source.file)
        if place.lenient and not path.is_file():
            place.problems.add(f"modalities.{source.name}: {source.file} is not there", place.ids)
            return
        self.values, names = source._bank(place)
        known = [spelled(str(name), ignore_case=place.reading.ignore_case) for name in names]
        self.places = {name: i for i, name in enumerate(known)}
        if len(self.places) != len(known):
            twice = next(name for i, name in enumerate(known) if self.places[name] != i)
            raise DataError(f"modalities.{source.name}: {source.file} has the name {twice!r} twice")

    def read(self, rows: Rows) -> Piece:
        source, problems = self.source, self.place.problems
        if self.values is None or (source.match and source.match not in rows.columns):
            return _piece(source, [[] for _ in rows.ids], rows, self.place)
        case = self.place.reading.ignore_case
        cells = np.array([*rows.ids, None], dtype=object)[:-1]
        if source.match:
            cells = words(rows.columns[source.match], self.place.missing, ignore_case=case)
        spot = f"{source.name}: names of {source.match or 'the ids'}"
        names = source.several.limited(cells, problems, rows.ids, f"{source.name}: name", spot)
        names = [[spelled(name, ignore_case=case) for name in own] for own in names]
        lacking = [(row, name) for row, own in zip(rows.ids, names) for name in own if name not in self.places]
        self._tell(lacking, spot)
        found: list[list[np.ndarray]] = []
        for row, own in zip(rows.ids, names):
            at = [self.places[name] for name in own if name in self.places]
            try:
                found.append([source.fitted(self.values[place]) for place in at])
            except DataError as error:
                raise DataError(f"modalities.{source.name}: {source.file}, row {row}: {error}") from error
        problems.enter(spot, 0, measured=sum(map(len, found)))
        return _piece(source, found, rows, self.place)

    def _tell(self, lacking: list[tuple[str, str]], spot: str) -> None:
        source, problems = self.source, self.place.problems
        ids, names = [row for row, _ in lacking], [name for _, name in lacking]
        what = f"{source.name}: no row of {source.file} has this name"
        if source.missing_file == "absent":
            problems.add(what, ids, names, lost=spot)
            return
        near = say_pairs(near_pairs(set(names), self.places))
        hint = f"{near} Correct it, or write `missing_file: absent` to take such rows as absent.".strip()
        problems.grave(what, ids, names, expected="one of its names", hint=hint, lost=spot)


def _piece(source: Array, found: list[list[np.ndarray]], rows: Rows, place: Place) -> Piece:
    """The arrays of each row as a piece; those without one measured cell are counted, and absent."""
    blank = [(row, i) for row, own in zip(rows.ids, found) for i, array in enumerate(own) if np.isnan(array).all()]
    place.problems.add(f"{source.name}: array without a measured cell, taken as absent", [row for row, _ in blank])
    if blank:
        found = [[array for array in own if not np.isnan(array).all()] for own in found]
    if source.several:
        return set_piece(found, source.shape, np.float32)
    values = np.zeros((len(rows.ids), *source.shape), np.float32)
    observed = np.array([bool(own) for own in found], dtype=bool)
    for i in np.flatnonzero(observed):
        values[i] = found[i][0]
    return Piece(values, observed)


def _units(section: Section) -> tuple[str, ...]:
    given = section.raw("units")
    if isinstance(given, list | tuple):  # the same unit may stand several times
        if any(not isinstance(unit, str) for unit in given):
            raise section.wrong("units", "a text, or a list of texts", given)
        return tuple(given)
    return (section.text("units"),) if "units" in section else ()
