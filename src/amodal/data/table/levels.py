"""Levels of images: values of any type to 0 … 255 by one mapping for all images of a modality.

The mapping is the file type's own range (8 bits: 0 … 255, 16 bits: 0 … 65,535), a range that the schema states, or,
only where the schema asks for it, each image's own extremes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from amodal.data.table.section import Section
from amodal.errors import DataError, SchemaError

__all__ = ["BY_TYPE", "Decoded", "Levels", "bytes_of", "needs_range"]

SCALINGS = ("type", "own")


class Levels(NamedTuple):
    """The map from values to levels 0 … 255.

    Attributes:
        range: The values that become 0 and 255; None: the type's own.
        scaling: "type", or "own": each image's own extremes become 0 and 255.
    """

    range: tuple[float, float] | None = None
    scaling: str = "type"

    @classmethod
    def read(cls, section: Section) -> Levels:
        """Reads `range` and `scaling` from a schema."""
        edges = section.numbers("range", None)
        scaling = section.choice("scaling", SCALINGS, "type")
        if edges is not None and (len(edges) != 2 or edges[0] >= edges[1]):
            raise section.wrong("range", "two numbers, the values that become black and white", list(edges))
        if edges is not None and scaling == "own":
            raise SchemaError(f"{section.where} has both `range` and `scaling: own`", hint="Delete one of them.")
        return cls(None if edges is None else (edges[0], edges[1]), scaling)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values that `read` takes."""
        return ({"range": list(self.range)} if self.range else {}) | (
            {"scaling": self.scaling} if self.scaling != "type" else {}
        )

    def describe(self) -> str:
        """One line for people."""
        if self.range:
            return f"values {self.range[0]:g} … {self.range[1]:g} become 0 … 255"
        if self.scaling == "own":
            return "each image's own extremes become 0 … 255, its level is lost"
        return "levels as the files' type has them, 0 … 255"


BY_TYPE = Levels()
"""The range of the files' type."""


class Decoded(NamedTuple):
    """One decoded file.

    Attributes:
        values: uint8 (C, H, W).
        what: What the file was taken for, the same for files whose values mean the same.
        notes: What is odd about it.
    """

    values: np.ndarray
    what: str
    notes: tuple[str, ...] = ()


def bytes_of(values: np.ndarray, levels: Levels, own: tuple[float, float] | None, what: str) -> np.ndarray:
    """Values to levels 0 … 255.

    Args:
        values: Numbers of any shape.
        levels: How.
        own: The range of their type; None: it has none that means something.
        what: What they are, for messages.

    Returns:
        uint8 of the same shape; values outside the range are clipped, NaN becomes 0.

    Raises:
        DataError: If there is neither a stated nor an own range.
    """
    edges = levels.range or own
    if levels.scaling == "own":
        finite = values if values.dtype.kind in "iub" else values[np.isfinite(values)]
        edges = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if edges is None:
        raise needs_range(values, what)
    if values.dtype == np.uint8 and edges == (0, 255):
        return values
    if values.dtype in (np.uint8, np.uint16):  # one table for all values, which holds no second image in floats
        table = _mapped(np.arange(np.iinfo(values.dtype).max + 1, dtype=np.float64), edges)
        return table[values]
    return np.stack([_mapped(part.astype(np.float32), edges) for part in values]) if values.ndim else values


def _mapped(values: np.ndarray, edges: tuple[float, float]) -> np.ndarray:
    low, high = edges
    shares = np.nan_to_num((values - low) / ((high - low) or 1.0), nan=0.0, posinf=1.0, neginf=0.0)
    return np.rint(255 * shares.clip(0, 1)).astype(np.uint8)


def needs_range(values: np.ndarray, what: str) -> DataError:
    """The error for values whose type has no range that means something."""
    finite = values[np.isfinite(values)] if values.size else values
    seen = f"{finite.min():g} … {finite.max():g}" if finite.size else "no finite value"
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return DataError(
        f"it holds {what}, which have no black and white of their own",
        got=f"{seen} in this file",
        hint=f"Say in the schema which values become black and white for all files, as `range: [{low:g}, {high:g}]`; "
        "or write `scaling: own` if each image's own extremes will do.",
    )
