"""Reading a user's arrays and texts of one modality into a store and presence, with errors by row."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from amodal.data.checks import check_bool, is_missing, name_rows
from amodal.data.frames import plain_values
from amodal.data.sets import stacked_sets
from amodal.data.store import CHUNK_BYTES, ArrayStore, RaggedStore, Store
from amodal.errors import DataError, SchemaError, ShapeError
from amodal.kinds import MODALITY_KINDS, ModalityKind, SetKind, modality_kind

__all__ = ["Intake", "read_modality"]

_COLOURS = (1, 3, 4)


class Intake(NamedTuple):
    """One modality, read and checked.

    Attributes:
        kind: Its kind.
        shape: Shape of one sample.
        store: Its values.
        observed: Presence, bool, of shape (N,).
        features: Names of the features, if anything names them.
    """

    kind: str
    shape: tuple[int, ...]
    store: Store
    observed: np.ndarray
    features: tuple[str, ...] = ()


def read_modality(
    name: str,
    given: Any,
    *,
    ids: np.ndarray,
    kind: str | None = None,
    measured: np.ndarray | None = None,
    lengths: np.ndarray | None = None,
    observed: np.ndarray | None = None,
    features: Sequence[str] = (),
) -> Intake:
    """Reads one modality.

    Args:
        name: Its name, for messages.
        given: An array, tensor or frame (N, …), or a list of N texts, series (T_i, D), sets (lists of texts, lists or
            stacks of images) or arrays of one shape (None = absent). Of images also (N, H, W) and, where `kind` says
            image, (N, H, W, C).
        ids: Ids of the N rows.
        kind: Its kind; None: by the shape.
        measured: Cells measured, bool of the shape of the array; None: those that are not NaN.
        lengths: Valid entries along axis 1 of a series, integers (N,).
        observed: Presence, bool (N,); None: rows that are not None and not NaN altogether.
        features: Names of the features; the columns of a frame are put in their order.

    Returns:
        Kind, shape, store, presence and names of features.

    Raises:
        ShapeError: If sizes disagree or the number of axes is wrong.
        DataError: If the content cannot be used, with the ids of the rows.
    """
    given, kind, most = stacked_sets(name, given, ids, kind)
    _refuse_mixed_types(name, given)
    traits = None if kind is None else modality_kind(kind)
    known = {} if traits is None else {"is_series": traits.takes_lengths, "is_text": traits.holds_texts}
    given, names = plain_values(name, given, features, **known)
    if len(given) != len(ids):
        raise ShapeError(f"modality {name!r} has another number of rows", expected=len(ids), got=len(given))
    if traits.holds_texts if traits else _looks_like_text(given):
        if measured is not None or lengths is not None:
            raise SchemaError(f"modality {name!r} is text and takes neither `measured` nor `lengths`")
        read = _read_texts(name, given, ids, kind, observed)
        return read._replace(features=names, shape=(most,) if most else ())
    if (traits is None or traits.takes_lengths) and _looks_ragged(given):
        if measured is not None or lengths is not None:
            raise SchemaError(f"series of different length take neither `measured` nor `lengths` (modality {name!r})")
        return _read_ragged(name, given, ids, kind, observed)._replace(features=names)
    return _read_array(name, given, ids, kind, measured, lengths, observed)._replace(features=names)


def _refuse_mixed_types(name: str, given: Any) -> None:
    """Refuses a list in which some arrays are bytes and others are not: they are of two scales."""
    arrays = [a for a in given if isinstance(a, np.ndarray) and a.ndim > 1] if isinstance(given, list | tuple) else []
    types = sorted({str(array.dtype) for array in arrays})
    if "uint8" in types and len(types) > 1:
        raise DataError(
            f"modality {name!r} mixes arrays of bytes with others",
            expected="one type for all rows: bytes 0 … 255, or numbers of one scale",
            got=", ".join(types),
            hint="Bring all to one scale: 200 of 255 and 0.78 are the same level and are not taken as such.",
        )


def _first_kind(**traits: bool) -> str:
    """The first registered kind with these traits."""
    return next(n for n, kind in MODALITY_KINDS.items() if all(getattr(kind, k) == v for k, v in traits.items()))


# Texts ---------------------------------------------------------------------------------------------------------------


def _looks_like_text(given: Any) -> bool:
    if isinstance(given, np.ndarray) and given.dtype != object:
        return given.dtype.kind in "UT" and given.ndim == 1
    if isinstance(given, np.ndarray) and given.ndim != 1:
        return False
    some = [entry for entry in given if not is_missing(entry)]
    return bool(some) and all(isinstance(entry, str) for entry in some)


def _read_texts(name: str, given: Any, ids: np.ndarray, kind: str | None, observed: np.ndarray | None) -> Intake:
    texts = given.tolist() if isinstance(given, np.ndarray) else list(given)
    absent = np.array([is_missing(text) for text in texts], dtype=bool)
    bad = np.array([not isinstance(text, str) for text in texts], dtype=bool) & ~absent
    if bad.any():
        wrong = type(texts[int(np.flatnonzero(bad)[0])]).__name__
        raise DataError(f"modality {name!r} has texts that are no text in rows: {name_rows(bad, ids)}", got=wrong)
    if observed is not None and (observed & absent).any():
        raise DataError(f"modality {name!r} is marked observed but has no text in rows: "
                        f"{name_rows(observed & absent, ids)}")  # fmt: skip
    encoded = [b"" if is_missing(text) else text.encode("utf-8", "replace") for text in texts]
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in encoded])]).astype(np.int64)
    flat = np.frombuffer(b"".join(encoded), np.uint8)
    seen = ~absent if observed is None else observed & ~absent
    return Intake(kind or _first_kind(holds_texts=True), (), RaggedStore(flat, offsets), seen)


# Series and sets of different length ---------------------------------------------------------------------------------


def _looks_ragged(given: Any) -> bool:
    if isinstance(given, np.ndarray) and given.dtype != object:
        return False
    some = [entry for entry in given if entry is not None]
    return bool(some) and all(isinstance(entry, np.ndarray) and entry.ndim in (2, 4) for entry in some)


def _read_ragged(
    name: str, given: Sequence[Any] | np.ndarray, ids: np.ndarray, kind: str | None, observed: np.ndarray | None
) -> Intake:
    shape = next(entry.shape[1:] for entry in given if entry is not None)
    for row, entry in enumerate(given):
        if entry is not None and entry.shape[1:] != shape:
            raise ShapeError(
                f"row {ids[row]} of modality {name!r} has another number of features", expected=shape, got=entry.shape
            )
    traits = modality_kind(kind or _first_kind(in_order=True))
    rows = [_as_numbers(name, entry, keep_bytes=traits.on_grid) for entry in given if entry is not None]
    empty = np.zeros((0, *shape), np.result_type(*rows))
    rows = [empty if entry is None else rows.pop(0) for entry in given]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    offsets = np.concatenate([[0], lengths.cumsum()])
    flat = np.concatenate(rows)  # (total, …)
    flat = flat if flat.dtype == np.uint8 else flat.astype(np.float32, copy=False)

    def of_rows(cells: np.ndarray) -> np.ndarray:
        count = np.concatenate([[0], cells.any(tuple(range(1, cells.ndim))).cumsum()])
        return count[offsets[1:]] > count[offsets[:-1]]

    missing = np.isnan(flat)
    seen = of_rows(~missing) if observed is None else observed
    _refuse(name, seen & of_rows(np.isinf(flat)), ids)
    longest = max(1, int(lengths.max(initial=0)))
    if not traits.takes_measured:
        _refuse(name, seen & of_rows(missing), ids)
    gaps = bool((seen & of_rows(missing)).any())
    store = RaggedStore(flat, offsets, width=longest if traits.in_order else None, gaps=gaps)
    return Intake(traits.name, (longest, *shape), store, seen)


# Arrays --------------------------------------------------------------------------------------------------------------


def _read_array(
    name: str,
    given: Any,
    ids: np.ndarray,
    kind: str | None,
    measured: np.ndarray | None,
    lengths: np.ndarray | None,
    observed: np.ndarray | None,
) -> Intake:
    possible = {n: k for n, k in MODALITY_KINDS.items() if not isinstance(k, SetKind)}  # by lists, or as stated
    possible = possible if kind is None else {kind: modality_kind(kind)}
    if isinstance(given, list | tuple) or (isinstance(given, np.ndarray) and given.dtype == object):
        given, there = _stacked(name, given, ids)
        observed = there if there is not None and observed is None else observed
        if there is not None and (observed & ~there).any():
            raise DataError(
                f"modality {name!r} is marked observed but is None in rows: {name_rows(observed & ~there, ids)}"
            )
    array = _as_numbers(name, given, keep_bytes=any(traits.on_grid for traits in possible.values()))
    if measured is None and lengths is None:
        array = _with_channels(name, array, kind, possible)
    fitting = [k for k, traits in possible.items() if traits.is_numeric and len(traits.axes) + 1 == array.ndim]
    if not fitting:
        raise ShapeError(
            f"modality {name!r} has the wrong number of axes",
            expected=" or ".join(traits.axes_of_rows for traits in possible.values()),
            got=array.shape,
            hint="A single feature has the shape (N, 1)." if array.ndim == 1 else None,
        )
    traits = possible[fitting[0]]
    if array.dtype == np.uint8 and not traits.on_grid:
        array = array.astype(np.float32)
    if measured is not None:
        if not traits.takes_measured:
            raise SchemaError(f"modality {name!r} is of kind {fitting[0]} and takes no `measured`")
        measured = check_bool(f"measured[{name!r}]", np.asarray(measured), array.shape)
        seen = np.ones(len(ids), bool) if observed is None else observed
        contradicted = (np.isnan(array) & measured).any(tuple(range(1, array.ndim))) & seen
        if contradicted.any():
            raise DataError(
                f"modality {name!r} has NaN in cells marked as measured, in rows: {name_rows(contradicted, ids)}"
            )
        array = np.where(measured, array, np.array(np.nan, array.dtype))
    if lengths is not None:
        if not traits.takes_lengths:
            having = " and ".join(kind.plural for kind in MODALITY_KINDS.values() if kind.takes_lengths)
            raise SchemaError(f"lengths[{name!r}]: only {having} have lengths", got=fitting[0])
        lengths = _check_lengths(name, np.asarray(lengths), array)
    seen, gaps = _scan(name, array, lengths, ids, observed, traits)
    return Intake(fitting[0], array.shape[1:], ArrayStore(array, gaps=gaps, lengths=lengths), seen)


def _stacked(name: str, given: Any, ids: np.ndarray) -> tuple[Any, np.ndarray | None]:
    """A list of arrays of one shape, None = absent, as one array and who is there; anything else as it is, and None.

    Raises:
        ShapeError: If they differ in shape.
    """
    entries = list(given)
    arrays = [None if is_missing(entry) else np.asarray(entry) for entry in entries]
    some = [array for array in arrays if array is not None]
    if not some or some[0].ndim == 0:
        return given, None
    shapes: dict[tuple[int, ...], str] = {}
    for i, array in enumerate(arrays):
        if array is not None:
            shapes.setdefault(array.shape, str(ids[i]))
    if len(shapes) > 1:
        shown = ", ".join(f"{shape} in row {row}" for shape, row in list(shapes.items())[:3])
        raise ShapeError(
            f"modality {name!r} is not a regular array: its rows have {len(shapes)} shapes",
            expected="one shape",
            got=shown,
            hint="Bring all images to one size, colours and grey alike; series of different length are arrays (T, D).",
        )
    there = np.array([array is not None for array in arrays], dtype=bool)
    dtype = np.result_type(*{array.dtype for array in some})
    stacked = np.zeros((len(arrays), *some[0].shape), dtype)
    for i in np.flatnonzero(there):
        stacked[i] = arrays[i]
    return stacked, None if there.all() else there


def _with_channels(name: str, array: np.ndarray, kind: str | None, possible: Mapping[str, ModalityKind]) -> np.ndarray:
    """Images as (N, C, H, W): grey ones without an axis of channels get it, channels that come last are moved.

    Both are done where the schema says image; bytes (N, H, W) are grey images without being told, since neither tables
    nor series are measured in bytes.

    Raises:
        ShapeError: If channels seem to come last, and nothing says that these are images.
    """
    is_image = kind is not None and possible[kind].on_grid and not isinstance(possible[kind], SetKind)
    if array.ndim == 3 and (is_image or (kind is None and array.dtype == np.uint8)):
        return array[:, None]
    if array.ndim == 4 and array.shape[-1] in _COLOURS and array.shape[1] not in _COLOURS:
        if is_image:
            return np.moveaxis(array, -1, 1)
        if kind is None:
            grid = next(k for k, traits in possible.items() if traits.on_grid)
            raise ShapeError(
                f"the channels of modality {name!r} seem to come last",
                expected="(N, C, H, W)",
                got=array.shape,
                hint=f"Say that these are images, with kinds={{{name!r}: {grid!r}}}, or move the axis yourself.",
            )
    return array


def _scan(
    name: str,
    array: np.ndarray,
    lengths: np.ndarray | None,
    ids: np.ndarray,
    observed: np.ndarray | None,
    traits: ModalityKind,
) -> tuple[np.ndarray, bool]:
    """Goes through an array once, chunk by chunk: presence (N,), and whether present rows have unmeasured cells."""
    n = len(array)
    if array.dtype == np.uint8:
        return (np.ones(n, bool) if observed is None else observed), False
    inner = tuple(range(1, array.ndim))
    some, infinite, missing = (np.zeros(n, bool) for _ in range(3))
    step = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    for part in (slice(start, start + step) for start in range(0, n, step)):
        values = np.asarray(array[part])
        inside = np.ones((1,) * array.ndim, bool)
        if lengths is not None:
            inside = np.arange(array.shape[1]) < lengths[part, None]  # (n, T)
            inside = inside.reshape(*inside.shape, *[1] * (array.ndim - 2))
        nan = np.isnan(values)
        some[part] = (~nan & inside).any(inner)
        infinite[part] = (np.isinf(values) & inside).any(inner)
        missing[part] = (nan & inside).any(inner)
    seen = some if observed is None else observed
    _refuse(name, seen & infinite, ids)
    if not traits.takes_measured:
        _refuse(name, seen & missing, ids)
    return seen, bool((seen & missing).any())


def _refuse(name: str, bad: np.ndarray, ids: np.ndarray) -> None:
    if bad.any():
        raise DataError(
            f"modality {name!r} has NaN or infinite values in present rows: {name_rows(bad, ids)}",
            expected="finite values (within float32's 3.4e38) wherever the modality is present",
            hint="In tables and series NaN marks a cell that was not measured; elsewhere mark the row as absent.",
        )


def _as_numbers(name: str, given: Any, *, keep_bytes: bool = False) -> np.ndarray:
    """Any array-like to float32, float16 or uint8, without a copy where it is one of these already."""
    if isinstance(given, np.ma.MaskedArray):
        given = np.where(np.ma.getmaskarray(given), np.float32(np.nan), np.ma.getdata(given))
    try:
        array = given if isinstance(given, np.ndarray) else np.asarray(given)
    except (ValueError, TypeError) as error:
        raise ShapeError(f"modality {name!r} is not a regular array", got=str(error)) from None
    if array.dtype == object or array.dtype.kind not in "fiub":
        raise DataError(
            f"modality {name!r} has dtype {array.dtype}",
            expected="numbers, or a list of str",
            hint="Code categories as numbers, and write missing cells as NaN.",
        )
    if array.dtype in (np.float32, np.float16) or (keep_bytes and array.dtype == np.uint8):
        return array
    with np.errstate(over="ignore"):  # what does not fit becomes infinite and is reported with its row
        single = array.astype(np.float32)
    _warn_of_lost_digits(name, array, single)
    return single


def _warn_of_lost_digits(name: str, array: np.ndarray, single: np.ndarray) -> None:
    """Warns where whole numbers that differ are the same in single precision."""
    if array.dtype.itemsize < 4 or array.dtype.kind == "b":
        return
    big = np.abs(array) > 2**24 if array.dtype.kind != "u" else array > 2**24
    if not big.any():
        return
    some, kept = array[big][:10_000], single[big][:10_000]
    if len(np.unique(some)) > len(np.unique(kept)):
        warnings.warn(
            f"modality {name!r} has numbers beyond 2**24, like {some[0]:.0f}, different ones of which are the same in "
            "single precision: subtract their middle first (tables read by a schema do)",
            stacklevel=2,
        )


def _check_lengths(name: str, lengths: np.ndarray, array: np.ndarray) -> np.ndarray:
    if lengths.shape != (len(array),) or lengths.dtype.kind not in "iu":
        raise ShapeError(
            f"lengths[{name!r}] must be integers of shape (N,)",
            expected=f"({len(array)},)",
            got=f"{lengths.dtype} {lengths.shape}",
        )
    if len(lengths) and (lengths.min() < 0 or lengths.max() > array.shape[1]):
        raise ShapeError(
            f"lengths[{name!r}] are out of range",
            expected=f"0 … {array.shape[1]}",
            got=f"{lengths.min()} … {lengths.max()}",
        )
    return lengths.astype(np.int64)
