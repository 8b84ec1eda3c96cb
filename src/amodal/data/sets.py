"""Sets as people have them in memory, lists of texts or arrays a case, to texts and stacks that can be stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from amodal.data.checks import is_missing
from amodal.errors import DataError, ShapeError
from amodal.kinds.sets import BETWEEN_TEXTS, ImageSet, TextSet

__all__ = ["join_texts", "stacked_sets"]

_BETWEEN = chr(BETWEEN_TEXTS)


def join_texts(texts: Sequence[str]) -> str:
    """Several texts as one, parted by the separator of sets; empty ones are left out."""
    parts = [text.replace(_BETWEEN, " ") for text in texts]
    return _BETWEEN.join(part for part in parts if part.strip())


def stacked_sets(name: str, given: Any, ids: np.ndarray, kind: str | None) -> tuple[Any, str | None, int]:
    """Lists of texts or arrays a case, as one text or one array a case.

    Args:
        name: The modality, for messages.
        given: The values of N cases, of any form.
        ids: Their ids.
        kind: The modality's kind, where it is stated.

    Returns:
        The values; the kind, if it is stated or the form says that these are sets of texts or of images; and the size
        of the largest set of texts, 0 for anything else.

    Raises:
        DataError: If a set mixes texts with something else.
        ShapeError: If the arrays of a set differ in shape.
    """
    if hasattr(given, "iloc") and getattr(given, "ndim", 0) == 1:
        given = given.tolist() if any(isinstance(entry, list | tuple) for entry in given) else given
    if not isinstance(given, list | tuple) and not (isinstance(given, np.ndarray) and given.dtype == object):
        return given, kind, 0
    several = [entry if isinstance(entry, list | tuple) and len(entry) else None for entry in given]
    first: Any = next((entry[0] for entry in several if entry is not None), None)
    if isinstance(first, str) or kind == TextSet.name:
        return _joined(name, given, ids)
    if hasattr(first, "shape") and len(first.shape) >= 1 and (len(first.shape) > 1 or kind is not None):
        given = [entry if several[i] is None else _stack(name, entry, ids[i]) for i, entry in enumerate(given)]
    given = [None if isinstance(entry, list | tuple) and not len(entry) else entry for entry in given]
    axes = {np.ndim(entry) for entry in given if isinstance(entry, np.ndarray)}
    if kind is None and axes == {len(ImageSet.axes)}:
        kind = ImageSet.name
    return given, kind, 0


def _joined(name: str, given: Any, ids: np.ndarray) -> tuple[list[str | None], str, int]:
    texts: list[str | None] = []
    most = 1
    for i, entry in enumerate(given):
        parts = [] if is_missing(entry) else [entry] if isinstance(entry, str) else list(entry)
        if any(not isinstance(part, str) for part in parts):
            raise DataError(f"modality {name!r} has a set of texts with something else in row {ids[i]}",
                            expected="a list of str")  # fmt: skip
        joined = join_texts(parts)
        most = max(most, joined.count(_BETWEEN) + 1)
        texts.append(joined or None)
    return texts, TextSet.name, most


def _stack(name: str, entry: Any, row: str) -> np.ndarray:
    arrays = [np.asarray(part) for part in entry]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise ShapeError(
            f"modality {name!r} has arrays of several shapes in the set of row {row}",
            expected="one shape",
            got=", ".join(map(str, sorted(shapes)[:3])),
        )
    stack = np.stack(arrays)
    return stack[:, None] if stack.ndim == len(ImageSet.axes) - 1 else stack  # grey images without a channel
