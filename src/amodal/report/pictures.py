"""Pictures of a case, modality by modality, with what was absent."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from amodal.batch import Batch
from amodal.data.sources.digits import QUADRANTS
from amodal.kinds.sets import BETWEEN_TEXTS
from amodal.report.svg import clean
from amodal.report.words import join_words, plain_name
from amodal.schema import Modality, Schema

__all__ = ["PICTURES", "Curve", "Exhibit", "exhibit_case"]

_SHOWN = 8  # features of a table or series
_LETTERS = 400  # of a text
_IMAGES = 3  # of a set
_SIDE = 120  # pixels of the longer side of a picture


@dataclass(frozen=True)
class Curve:
    """One feature over time.

    Args:
        name: The feature, with its unit.
        points: "x,y x,y …" in a box of 100 by 24.
        last: The last measured value.
    """

    name: str
    points: str
    last: str


@dataclass(frozen=True)
class Exhibit:
    """One modality of one case, or several that make one picture.

    Args:
        kind: What is shown: "picture", "curves", "values" or "text"; "nothing" if there is nothing to show.
        title: The modality's name; "" where the picture speaks for itself.
        state: "seen", "removed" (it is there, but was hidden from the model), "part" (of some the one, of some the
            other) or "absent" (the data do not have it).
        picture: A data URI.
        alt: What is in the picture.
        curves: Of a series.
        values: Of a table: name and value.
        text: Of a text.
    """

    kind: Literal["picture", "curves", "values", "text", "nothing"]
    title: str
    state: Literal["seen", "removed", "part", "absent"]
    picture: str = ""
    alt: str = ""
    curves: Sequence[Curve] = ()
    values: Sequence[tuple[str, str]] = ()
    text: str = ""
    size: tuple[int, int] = field(default=(_SIDE, _SIDE))


def exhibit_case(schema: Schema, batch: Batch, row: int, seen: NDArray[np.bool_]) -> list[Exhibit]:
    """A case's modalities as exhibits, with what the model saw of them.

    Args:
        schema: The modalities.
        batch: Cases with everything that the data have, in raw units.
        row: Position of the case in the batch.
        seen: Which modalities the model saw, bool (M,).

    Returns:
        One exhibit for each modality, or one for all where they are the quadrants of one scan.
    """
    if schema.names == tuple(QUADRANTS) and all(m.traits.on_grid for m in schema.modalities):
        return [_quadrants(schema, batch, row, seen)]
    exhibits = []
    for modality, visible in zip(schema.modalities, seen):
        if not bool(batch.observed[modality.name][row]):
            exhibits.append(Exhibit("nothing", plain_name(modality.name), "absent"))
        else:
            exhibits.append(PICTURES[modality.traits.picture](modality, batch, row, bool(visible)))
    return exhibits


def _quadrants(schema: Schema, batch: Batch, row: int, seen: NDArray[np.bool_]) -> Exhibit:
    """The scan put together again, with what the model did not see greyed out."""
    scan, visible = np.zeros((8, 8)), np.zeros((8, 8), dtype=bool)
    for name, present in zip(schema.names, seen):
        rows, columns = QUADRANTS[name]
        scan[rows, columns] = batch.values[name][row, 0].numpy()
        visible[rows, columns] = bool(present)
    hidden = [plain_name(name) for name, present in zip(schema.names, seen) if not present]
    alt = "A scanned digit" + (f"; greyed out, because it was absent: {join_words(hidden)}" if hidden else "")
    state = "seen" if not hidden else "part"
    return Exhibit("picture", "", state, picture=_png(scan / 16, visible), alt=f"{alt}.", size=(88, 88))


def _image(modality: Modality, batch: Batch, row: int, visible: bool) -> Exhibit:
    return _picture(modality, batch.values[modality.name][row].numpy(), visible, plain_name(modality.name))


def _images(modality: Modality, batch: Batch, row: int, visible: bool) -> Exhibit:
    """The first images of a set, side by side."""
    n = int(batch.lengths[modality.name][row]) if modality.name in batch.lengths else modality.shape[0]
    values = batch.values[modality.name][row][: min(n, _IMAGES)].numpy()  # (K, C, H, W)
    shown = f"{plain_name(modality.name)}, {n} image{'s' if n != 1 else ''}" + (
        f", of which {_IMAGES}" if n > _IMAGES else ""
    )
    return _picture(modality, np.concatenate(list(values), axis=2), visible, shown)


def _picture(modality: Modality, values: NDArray, visible: bool, shown: str) -> Exhibit:
    """Values (C, H, W) as a picture."""
    values = values.astype(float)
    pixels = np.moveaxis(values, 0, -1) if values.shape[0] == 3 else values.mean(0)
    low, high = float(pixels.min()), float(pixels.max())
    scaled = (pixels - low) / (high - low) if high > low else np.zeros_like(pixels)
    picture = _png(scaled, np.full(scaled.shape[:2], visible), dark=True)
    height, width = scaled.shape[:2]
    size = (round(_SIDE * width / max(height, width)), round(_SIDE * height / max(height, width)))
    alt = f"{shown}, {height} by {width} pixels" + ("" if visible else "; greyed out, because it was absent")
    return Exhibit("picture", plain_name(modality.name), _state(visible), picture=picture, alt=alt, size=size)


def _series(modality: Modality, batch: Batch, row: int, visible: bool) -> Exhibit:
    values = batch.values[modality.name][row].numpy()  # (T, D)
    measured = np.ones_like(values, dtype=bool)
    if modality.name in batch.measured:
        measured = batch.measured[modality.name][row].numpy()
    if modality.name in batch.lengths:
        measured = measured & (np.arange(len(values)) < int(batch.lengths[modality.name][row]))[:, None]
    curves = []
    for d in np.argsort(-measured.sum(0), kind="stable")[:_SHOWN]:
        times = np.flatnonzero(measured[:, d])
        if not len(times):
            continue
        heights = values[times, d].astype(float)
        low, spread = heights.min(), float(np.ptp(heights)) or 1.0
        x, y = 100 * times / max(len(values) - 1, 1), 22 - 20 * (heights - low) / spread
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y))
        name, unit = _feature(modality, int(d))
        curves.append(Curve(name, points, f"{heights[-1]:.4g} {unit}".strip()))
    return Exhibit("curves", plain_name(modality.name), _state(visible), curves=curves)


def _tabular(modality: Modality, batch: Batch, row: int, visible: bool) -> Exhibit:
    cells = batch.values[modality.name][row].numpy()
    measured = batch.measured[modality.name][row].numpy() if modality.name in batch.measured else cells == cells
    values = []
    for d, value in enumerate(cells[:_SHOWN]):
        name, unit = _feature(modality, d)
        column, one_of, word = name.rpartition("=")  # a category's feature: told by the word that is true
        if one_of and measured[d] and value in (0, 1):
            values += [(column, word)] if value else []
            continue
        values.append((name, f"{value:.4g} {unit}".strip() if measured[d] else "not measured"))
    if len(cells) > _SHOWN:
        values.append(("…", f"{len(cells) - _SHOWN} more"))
    return Exhibit("values", plain_name(modality.name), _state(visible), values=values)


def _text(modality: Modality, batch: Batch, row: int, visible: bool) -> Exhibit:
    raw = batch.values[modality.name][row].numpy().astype(np.uint8)
    length = int(batch.lengths[modality.name][row]) if modality.name in batch.lengths else len(raw)
    plain = raw[:length].tobytes().replace(bytes([BETWEEN_TEXTS]), b"\n\n")
    text = clean(plain.decode("utf-8", errors="replace"), _LETTERS)
    return Exhibit("text", plain_name(modality.name), _state(visible), text=text)


PICTURES: dict[str, Callable[[Modality, Batch, int, bool], Exhibit]] = {
    "picture": _image,
    "curves": _series,
    "values": _tabular,
    "text": _text,
    "pictures": _images,
}
"""How a sample is shown, by the name that a kind of modality gives."""


def _state(visible: bool) -> Literal["seen", "removed"]:
    return "seen" if visible else "removed"


def _feature(modality: Modality, d: int) -> tuple[str, str]:
    name = modality.features[d] if modality.features else f"feature {d + 1}"
    return clean(name, 32), clean(modality.units[d], 16) if modality.units else ""


def _png(ink: NDArray[np.float64], visible: NDArray[np.bool_], *, dark: bool = False) -> str:
    """A picture as a data URI; what is not visible is faded and hatched.

    Args:
        ink: In [0, 1], (H, W) or (H, W, 3); 1 is black, or white if `dark`.
        visible: Bool, of shape (H, W).
        dark: Whether 0 is black.
    """
    from PIL import Image

    colours = ink if dark else 1 - ink
    colours = colours[..., None].repeat(3, 2) if colours.ndim == 2 else colours  # (H, W, 3)
    scale = max(1, _SIDE // max(colours.shape[:2]))
    large, shown = (np.repeat(np.repeat(part, scale, 0), scale, 1) for part in (colours, visible))
    stride = -(-max(large.shape[:2]) // 512)  # large photographs: every n-th pixel
    large, shown = large[::stride, ::stride], shown[::stride, ::stride]
    y, x = np.indices(large.shape[:2])
    stripe = ((x + y) // 2 % 5 == 0)[..., None]
    faded = 0.86 - 0.2 * (1 - large) - np.where(stripe, 0.1, 0.0)
    result = np.where(shown[..., None], large, faded)
    buffer = io.BytesIO()
    Image.fromarray((result.clip(0, 1) * 255).round().astype(np.uint8)).quantize(64).save(
        buffer, format="PNG", optimize=True
    )
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
