"""Batch: the record that every method receives, with each kind of absence under a name of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from amodal.errors import DataError, SchemaError, ShapeError

__all__ = ["UNKNOWN_CLASS", "Batch", "Present", "known_targets", "rows_where"]

UNKNOWN_CLASS = -1
"""What stands in a column of classes where a row has no label; labels and values have NaN there."""


class Present(NamedTuple):
    """One modality of the rows that have it.

    Attributes:
        rows: Positions of these rows in the batch, int64, of shape (P,).
        values: Their values, of shape (P, …).
        measured: Which cells were measured, bool, of the shape of `values`; None if all were.
        lengths: Valid lengths along axis 1, int64, of shape (P,); None if all are full.
    """

    rows: Tensor
    values: Tensor
    measured: Tensor | None
    lengths: Tensor | None


@dataclass(frozen=True, eq=False)
class Batch:
    r"""Some samples: what is known of each, and what is not there.

    Three kinds of "not there" have three names and never share one: a modality that is *absent* (`observed` is
    False), a cell that was *not measured* inside a present modality (`measured` is False), and *padding* beyond a
    row's `lengths`. Construction checks everything once and **blanks** all three: the values are set to zero, so that
    hidden data are physically gone and no later arithmetic can meet a NaN in them. Nobody checks again. A fourth is a
    state of the row: a target may be unknown (`labelled` is False), and is blanked, too.

    Args:
        values: A tensor of shape (B, …) for each modality, in the schema's order. Text is UTF-8 bytes, uint8 (B, L).
        observed: Presence, bool of shape (B,) for each modality; True = present.
        measured: For some modalities, bool of the values' shape: the cells measured.
        lengths: For some modalities, integers of shape (B,): valid entries along axis 1.
        target: int64 (B,) classes (-1 = unknown), float (B, K) labels (NaN = unknown label) or float (B,) values (NaN =
            unknown); None at prediction.
        ids: The samples' ids, used in messages and in predictions.
        labelled: Whether a row's target is known, bool of shape (B,); of several labels, whether any is. None: as the
            target says. Where it is False the target is blanked to what stands for unknown.
        times: For modalities with a clock of their own, float of shape (B, T): when each entry along axis 1 was, in any
            order.

    Raises:
        SchemaError: If `observed`, `measured`, `lengths` or `times` name modalities that `values` does not have.
        ShapeError: If sizes or types disagree.
        DataError: If a present, measured value is NaN or infinite.

    Example:
        >>> batch = Batch(
        ...     values={"labs": torch.tensor([[1.0, float("nan")], [5.0, 6.0]])},
        ...     observed={"labs": torch.tensor([True, False])},
        ...     measured={"labs": torch.tensor([[True, False], [True, True]])},
        ... )
        >>> batch.values["labs"]
        tensor([[1., 0.],
                [0., 0.]])
    """

    values: Mapping[str, Tensor]
    observed: Mapping[str, Tensor]
    measured: Mapping[str, Tensor] = field(default_factory=dict)
    lengths: Mapping[str, Tensor] = field(default_factory=dict)
    target: Tensor | None = None
    ids: Sequence[str] | None = None
    labelled: Tensor = None  # type: ignore[assignment]  # given or not, a tensor after construction
    times: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check()
        self._settle_labels()
        values, measured, lengths, times = {}, {}, {}, {}
        for name, value in self.values.items():
            seen = self.observed[name]
            if name in self.lengths:
                lengths[name] = torch.where(seen, self.lengths[name].long(), 0)
            keep = _kept_cells(value, seen, self.measured.get(name), lengths.get(name))
            values[name] = _blank(value, keep)
            if name in self.measured:
                measured[name] = keep.expand(value.shape)
            _check_finite(name, values[name], self.ids)
            if name in self.times:
                kept = _kept_cells(self.times[name], seen, None, lengths.get(name))
                times[name] = _blank(self.times[name], kept)
                _check_finite(f"times of {name}", times[name], self.ids)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "observed", {name: self.observed[name] for name in values})
        object.__setattr__(self, "measured", measured)
        object.__setattr__(self, "lengths", lengths)
        object.__setattr__(self, "times", times)

    def _check(self) -> None:
        if not self.values:
            raise SchemaError("a batch needs at least one modality", got="no values")
        for what in ("observed", "measured", "lengths", "times"):
            unknown = set(getattr(self, what)) - set(self.values)
            if unknown:
                raise SchemaError(f"`{what}` names modalities that `values` does not have: {sorted(unknown)}")
        lacking = set(self.values) - set(self.observed)
        if lacking:
            raise SchemaError(
                f"`observed` lacks the modalities {sorted(lacking)}",
                hint="Presence is explicit: pass observed[name], bool of shape (B,), for every modality.",
            )
        size = -1
        for name, value in self.values.items():
            if not isinstance(value, Tensor) or value.ndim == 0:
                raise ShapeError(
                    f"modality {name!r} must be a tensor of shape (B, …)", got=getattr(value, "shape", type(value))
                )
            size = len(value) if size < 0 else size
            if len(value) != size:
                raise ShapeError(f"modality {name!r} has another number of rows", expected=size, got=tuple(value.shape))
            seen = self.observed[name]
            if seen.dtype != torch.bool or seen.shape != (size,):
                raise ShapeError(
                    f"observed[{name!r}] must be bool of shape (B,)",
                    expected=f"bool ({size},)",
                    got=f"{seen.dtype} {tuple(seen.shape)}",
                )
            self._check_inner(name, value, size)
        if self.target is not None and (self.target.ndim == 0 or len(self.target) != size):
            raise ShapeError("the target has another number of rows", expected=size, got=tuple(self.target.shape))
        if self.ids is not None and len(self.ids) != size:
            raise ShapeError("ids have another number of rows", expected=size, got=len(self.ids))

    def _settle_labels(self) -> None:
        """Blanks the targets of rows that are not labelled, and says which are."""
        given, size = self.labelled, len(self)
        if given is not None and (given.dtype != torch.bool or given.shape != (size,)):
            raise ShapeError(
                "labelled must be bool of shape (B,)",
                expected=f"bool ({size},)",
                got=f"{given.dtype} {tuple(given.shape)}",
            )
        if self.target is None:
            labelled = torch.zeros(size, dtype=torch.bool, device=self.device)
        else:
            known = known_targets(self.target)
            labelled = known if given is None else known & given
            if given is not None and not bool(torch.equal(labelled, known)):
                blank = UNKNOWN_CLASS if not self.target.is_floating_point() else torch.nan
                keep = labelled.view(-1, *[1] * (self.target.ndim - 1))
                object.__setattr__(self, "target", torch.where(keep, self.target, blank))
        object.__setattr__(self, "labelled", labelled)

    def _check_inner(self, name: str, value: Tensor, size: int) -> None:
        measured, lengths = self.measured.get(name), self.lengths.get(name)
        if measured is not None and (measured.dtype != torch.bool or measured.shape != value.shape):
            raise ShapeError(
                f"measured[{name!r}] must be bool of the values' shape",
                expected=f"bool {tuple(value.shape)}",
                got=f"{measured.dtype} {tuple(measured.shape)}",
            )
        times = self.times.get(name)
        if times is not None and (times.shape != value.shape[:2] or value.ndim < 2 or not times.is_floating_point()):
            raise ShapeError(
                f"times[{name!r}] must be floating, one for each entry along axis 1 of the values",
                expected=f"float {tuple(value.shape[:2])}",
                got=f"{times.dtype} {tuple(times.shape)}",
            )
        if lengths is None:
            return
        if lengths.shape != (size,) or lengths.is_floating_point() or lengths.dtype == torch.bool or value.ndim < 2:
            raise ShapeError(
                f"lengths[{name!r}] must be integers of shape (B,), for values with an axis 1",
                expected=f"integers ({size},)",
                got=f"{lengths.dtype} {tuple(lengths.shape)} for values {tuple(value.shape)}",
            )
        if size and (int(lengths.min()) < 0 or int(lengths.max()) > value.shape[1]):
            raise ShapeError(
                f"lengths[{name!r}] are out of range",
                expected=f"0 … {value.shape[1]}",
                got=f"{int(lengths.min())} … {int(lengths.max())}",
            )

    @classmethod
    def _trusted(cls, **fields: object) -> Batch:
        """Builds a batch from parts of one that was checked already."""
        batch = object.__new__(cls)
        object.__setattr__(batch, "times", {})
        for name, value in fields.items():
            object.__setattr__(batch, name, value)
        return batch

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in order."""
        return tuple(self.values)

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return next(iter(self.values.values())).device

    @property
    def presence(self) -> Tensor:
        """Presence of all modalities, bool, of shape (B, M)."""
        return torch.stack([self.observed[name] for name in self.values], dim=1)

    @cached_property
    def rows(self) -> dict[str, Tensor]:
        """Positions of the rows that have each modality, int64 (P,): found once, also for copies on other devices."""
        return dict(zip(self.values, rows_where(*self.observed.values())))

    @cached_property
    def all_labelled(self) -> bool:
        """Whether every row's target is known; found once, also for copies on other devices."""
        return bool(self.labelled.all())

    def prepared(self) -> Batch:
        """The same rows without ids, with what is found once found now: before they go where that means waiting."""
        _ = self.rows, self.all_labelled
        parts = {part: getattr(self, part) for part in _MAPPINGS}
        same = self._trusted(**parts, target=self.target, ids=None, labelled=self.labelled)
        return same._knowing(self, "rows", "all_labelled")

    @property
    def labels(self) -> Tensor:
        """The target of a batch that has one, which may be unknown in rows that are not `labelled`.

        Raises:
            DataError: If the batch has no target.
        """
        if self.target is None:
            raise DataError("the batch has no target", hint="An objective needs rows with a target.")
        return self.target

    def present(self, name: str) -> Present:
        """Gathers the rows that have a modality.

        Args:
            name: The modality.

        Returns:
            Positions, values, measured cells and lengths of the P rows that have it; P may be 0.
        """
        rows = self.rows[name]  # (P,)
        measured, lengths = self.measured.get(name), self.lengths.get(name)
        return Present(
            rows,
            self.values[name][rows],
            None if measured is None else measured[rows],
            None if lengths is None else lengths[rows],
        )

    def times_of(self, name: str) -> Tensor | None:
        """Times (P, T) of the rows that have a modality; None if it has no clock of its own."""
        return self.times[name][self.rows[name]] if name in self.times else None

    def take(self, rows: Tensor, *, complete: bool = False) -> Batch:
        """Selects rows.

        Args:
            rows: Positions, int64 (n,), or a bool selection (B,).
            complete: Whether it is known that all of these rows have every modality of the batch.

        Returns:
            The batch of these rows, in that order.
        """
        if rows.dtype == torch.bool:
            rows = rows_where(rows)[0]
        ids = None if self.ids is None else [self.ids[i] for i in rows.tolist()]
        some = self._trusted(
            **{part: {k: v[rows] for k, v in getattr(self, part).items()} for part in _MAPPINGS},
            target=None if self.target is None else self.target[rows],
            ids=ids,
            labelled=self.labelled[rows],
        )
        if complete:
            some.__dict__["rows"] = dict.fromkeys(self.values, torch.arange(len(rows), device=rows.device))
        return some

    def only(self, names: Sequence[str]) -> Batch:
        """The same rows with some of the modalities, and no others, in the order of `names`."""
        parts = {part: {k: getattr(self, part)[k] for k in names if k in getattr(self, part)} for part in _MAPPINGS}
        some = self._trusted(**parts, target=self.target, ids=self.ids, labelled=self.labelled)
        if "rows" in self.__dict__:
            some.__dict__["rows"] = {name: self.rows[name] for name in names}
        return some._knowing(self, "all_labelled")

    def filled(self, given: Batch, names: Sequence[str]) -> Batch:
        """The rows, which all lack some modalities, with these as the rows of another batch have them.

        Args:
            given: As many rows, on the same device.
            names: The modalities to take from them.
        """
        parts = {}
        for part in _MAPPINGS:
            own, other = getattr(self, part), getattr(given, part)
            columns = {k: v for k, v in own.items() if k not in names} | {k: other[k] for k in names if k in other}
            parts[part] = {k: columns[k] for k in self.values if k in columns}
        return self._trusted(**parts, target=self.target, ids=self.ids, labelled=self.labelled)

    def restrict(self, observed: Mapping[str, Tensor]) -> Batch:
        """Removes modalities: what is absent here or in `observed` is absent in the result, and blanked.

        Args:
            observed: Presence to allow, bool (B,), for some modalities; those not named stay as they are.

        Returns:
            A new batch; nothing can become present by this.
        """
        unknown = set(observed) - set(self.values)
        if unknown:
            raise SchemaError(f"cannot restrict modalities the batch does not have: {sorted(unknown)}")
        seen = {name: self.observed[name] & observed.get(name, self.observed[name]) for name in self.values}
        parts: dict[str, dict[str, Tensor]] = {"observed": seen}
        for part in ("values", "measured", "lengths", "times"):
            columns = getattr(self, part)
            parts[part] = {k: _blank(v, _of_rows(seen[k], v)) if k in observed else v for k, v in columns.items()}
        restricted = self._trusted(**parts, target=self.target, ids=self.ids, labelled=self.labelled)
        return restricted._knowing(self, "all_labelled")

    def _knowing(self, other: Batch, *what: str) -> Batch:
        """The batch, to which applies what was found once of another."""
        self.__dict__.update({name: other.__dict__[name] for name in what if name in other.__dict__})
        return self

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Copies all tensors to a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Pins all tensors in page-locked memory, for faster copies to a GPU."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        mapped = self._trusted(
            **{part: {k: function(v) for k, v in getattr(self, part).items()} for part in _MAPPINGS},
            target=None if self.target is None else function(self.target),
            ids=self.ids,
            labelled=function(self.labelled),
        )
        if "rows" in self.__dict__:
            mapped.__dict__["rows"] = {name: function(rows) for name, rows in self.rows.items()}
        return mapped._knowing(self, "all_labelled")


_MAPPINGS = ("values", "observed", "measured", "lengths", "times")


def rows_where(*masks: Tensor) -> list[Tensor]:
    """Positions of what is true in each of some masks, found together: an accelerator is waited for once.

    Args:
        *masks: Bool, each of shape (n,) with an n of its own.

    Returns:
        Of each mask its positions, int64, in order.

    Example:
        >>> rows_where(torch.tensor([False, True]), torch.tensor([True, False, True]))
        [tensor([1]), tensor([0, 2])]
    """
    counts = torch.stack([mask.sum() for mask in masks]).tolist()
    return [torch.nonzero_static(mask, size=count)[:, 0] for mask, count in zip(masks, counts)]


def known_targets(target: Tensor) -> Tensor:
    """Which rows of a target are known: classes (B,) that are not -1, values (B,) and labels (B, K) that are not NaN.

    Example:
        >>> known_targets(torch.tensor([2, -1])), known_targets(torch.tensor([[1.0, torch.nan], [torch.nan] * 2]))
        (tensor([ True, False]), tensor([ True, False]))
    """
    known = ~target.isnan() if target.is_floating_point() else target != UNKNOWN_CLASS
    return known.flatten(1).any(1) if known.ndim > 1 else known


def _kept_cells(value: Tensor, seen: Tensor, measured: Tensor | None, lengths: Tensor | None) -> Tensor:
    """Cells that are neither absent, nor unmeasured, nor padding: bool, broadcastable to the values."""
    keep = _of_rows(seen, value)
    if lengths is not None:
        inside = torch.arange(value.shape[1], device=value.device) < lengths[:, None]  # (B, L)
        keep = keep & inside.view(*inside.shape, *[1] * (value.ndim - 2))
    return keep if measured is None else keep & measured


def _of_rows(flags: Tensor, value: Tensor) -> Tensor:
    """Flags (B,) of the rows, broadcastable to values (B, …)."""
    return flags.view(-1, *[1] * (value.ndim - 1))


def _blank(value: Tensor, keep: Tensor) -> Tensor:
    """Zero where not kept, whatever is there; exactly the value elsewhere."""
    if value.dtype == torch.float32 and not value.requires_grad:
        # The same as `where` below, on the bits: no branches, some ten times as fast on a CPU.
        return (value.view(torch.int32) & keep.to(torch.int32).neg_()).view(torch.float32)
    return torch.where(keep, value, torch.zeros((), dtype=value.dtype, device=value.device))


def _check_finite(name: str, value: Tensor, ids: Sequence[str] | None) -> None:
    if not value.is_floating_point():
        return
    # A finite sum means finite terms, and is much cheaper to have; an infinite one may be an overflow.
    if bool(torch.isfinite(value.sum())) or bool(torch.isfinite(value).all()):
        return
    bad = (~torch.isfinite(value)).reshape(len(value), -1).any(1).nonzero(as_tuple=True)[0][:5].tolist()
    rows = ", ".join(str(ids[i]) for i in bad) if ids is not None else ", ".join(map(str, bad))
    raise DataError(
        f"modality {name!r} has NaN or infinite values in present rows: {rows}",
        expected="finite values wherever the modality is observed and the cell measured",
        hint="Mark unmeasured cells with `measured`, or the whole row as absent with `observed`.",
    )
