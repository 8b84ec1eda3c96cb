"""Presence as a mechanism realised it: drawn once, printed, stored, and the same for every method compared."""

from __future__ import annotations

import hashlib
import os
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amodal.errors import DataError, ShapeError
from amodal.missingness.mechanisms import Mechanism
from amodal.missingness.patterns import pattern_codes, pattern_label

__all__ = ["Presence", "realise"]

_FORMAT = 1
_SHOWN = 12  # patterns listed by describe()


@dataclass(frozen=True, eq=False)
class Presence:
    """Presence of all modalities in all rows, after natural absence and removal.

    Args:
        observed: Presence now, bool, of shape (N, M).
        names: Names of the M modalities.
        natural: Presence before removal, bool, of shape (N, M).

    Raises:
        ShapeError: If the three do not fit together.
        DataError: If something is present that naturally is not.

    Example:
        >>> natural = np.array([[True, True], [True, True], [True, False]])
        >>> presence = Presence(natural & [[True, False]], ("vitals", "labs"), natural)
        >>> presence.rates, presence.patterns()
        ({'vitals': 0.0, 'labs': 1.0}, {'vitals': 3})
    """

    observed: np.ndarray
    names: tuple[str, ...]
    natural: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        for what in ("observed", "natural"):
            array = np.asarray(getattr(self, what))
            object.__setattr__(self, what, array)
            if array.dtype != np.bool_ or array.ndim != 2 or array.shape[1] != len(self.names):
                raise ShapeError(
                    f"`{what}` must be bool, with a column for each modality",
                    expected=f"bool (N, {len(self.names)})",
                    got=f"{array.dtype} {array.shape}",
                )
        if self.observed.shape != self.natural.shape:
            raise ShapeError(
                "presence before and after removal differ in shape",
                expected=self.natural.shape,
                got=self.observed.shape,
            )
        added = self.observed & ~self.natural
        if added.any():
            raise DataError(f"{int(added.sum())} entries are present that naturally are not")

    def __len__(self) -> int:
        return len(self.observed)

    @property
    def rates(self) -> dict[str, float]:
        """Fraction of all rows in which each modality is absent, naturally or by removal; NaN without rows."""
        return _fractions(~self.observed, np.ones_like(self.observed), self.names)

    @property
    def natural_rates(self) -> dict[str, float]:
        """Fraction of all rows in which each modality is naturally absent; NaN without rows."""
        return _fractions(~self.natural, np.ones_like(self.natural), self.names)

    @property
    def removed_rates(self) -> dict[str, float]:
        """Fraction of the rows that naturally have each modality from which it was removed; NaN where none has it."""
        return _fractions(self.natural & ~self.observed, self.natural, self.names)

    def patterns(self) -> dict[str, int]:
        """Counts of rows by pattern of presence that occurs, the most frequent first, by label ("a+b")."""
        codes, counts = np.unique(pattern_codes(self.observed), return_counts=True)
        order = np.lexsort((codes, -counts))
        return {pattern_label(int(codes[i]), self.names): int(counts[i]) for i in order}

    @property
    def hash(self) -> str:
        """A SHA-256 digest of the names and of who has what: equal only if both are, row for row."""
        digest = hashlib.sha256()
        digest.update("\x1f".join(self.names).encode() + b"\0" + str(self.observed.shape).encode() + b"\0")
        digest.update(np.packbits(self.observed).tobytes())
        return digest.hexdigest()

    def describe(self) -> str:
        """Rates, the most frequent patterns and the hash, as a text of a few lines."""
        width = max(len("modality"), *map(len, self.names))
        lines = [
            f"presence of {len(self.names)} modalities in {len(self)} rows, hash {self.hash[:12]}",
            f"  {'modality':<{width}}   absent  naturally  removed of those present",
        ]
        absent, natural, removed = self.rates, self.natural_rates, self.removed_rates
        lines += [
            f"  {name:<{width}}  {absent[name]:7.1%}  {natural[name]:9.1%}  {removed[name]:26.1%}"
            for name in self.names
        ]
        patterns = self.patterns()
        lines.append(f"  {len(patterns)} patterns" + (", the most frequent:" if len(patterns) > _SHOWN else ":"))
        lines += [f"  {count:>8}  {label}" for label, count in list(patterns.items())[:_SHOWN]]
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes an .npz file, packed eight entries a byte, under a temporary name first.

        Args:
            path: Where to write; the folder must exist.

        Returns:
            The path.
        """
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with temporary.open("wb") as file:
                np.savez(
                    file,
                    format=np.int64(_FORMAT),
                    names=np.array(self.names),
                    rows=np.int64(len(self)),
                    observed=np.packbits(self.observed),
                    natural=np.packbits(self.natural),
                    hash=np.array(self.hash),
                )
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Presence:
        """Reads what `save` wrote.

        Args:
            path: The .npz file.

        Returns:
            The presence.

        Raises:
            DataError: If the file is not there, is not such a file, or its content does not fit its hash.
        """
        try:
            with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                stored = {key: file[key] for key in ("format", "names", "rows", "observed", "natural", "hash")}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is not a file of presence: {error}") from error
        if int(stored["format"]) > _FORMAT:
            raise DataError(
                f"{path} has a newer format", expected=f"{_FORMAT} or older", got=int(stored["format"]), hint="Update."
            )
        shape = (int(stored["rows"]), len(stored["names"]))
        size = shape[0] * shape[1]
        if any(len(stored[what]) != (size + 7) // 8 for what in ("observed", "natural")):
            raise DataError(f"{path} is inconsistent: presence does not fill {shape[0]} rows of {shape[1]} modalities")
        observed, natural = (
            np.unpackbits(stored[what], count=size).astype(bool).reshape(shape) for what in ("observed", "natural")
        )
        presence = cls(observed, tuple(stored["names"].tolist()), natural)
        if presence.hash != str(stored["hash"]):
            raise DataError(f"{path} does not fit its hash", expected=str(stored["hash"]), got=presence.hash)
        return presence


def realise(
    mechanism: Mechanism,
    observed: np.ndarray,
    names: tuple[str, ...],
    *,
    seed: int | np.random.SeedSequence,
    scores: np.ndarray | None = None,
) -> Presence:
    """Draws a mechanism once.

    Args:
        mechanism: Who is removed, and why.
        observed: Natural presence, bool, of shape (N, M).
        names: Names of the M modalities.
        seed: Seeds the generator; the same seed gives the same presence.
        scores: What `MAR` and `MNAR` depend on, of shape (N, M).

    Returns:
        What was realised.

    Raises:
        AmodalError: Whatever `Mechanism.draw` raises.

    Example:
        >>> from amodal.missingness import MCAR
        >>> presence = realise(MCAR(0.5), np.ones((1000, 2), dtype=bool), ("a", "b"), seed=0)
        >>> sorted(presence.patterns())
        ['a', 'b']
    """
    generator = np.random.default_rng(seed)
    return Presence(mechanism.draw(observed, names, generator, scores), tuple(names), np.asarray(observed).copy())


def _fractions(part: np.ndarray, whole: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    counts, sizes = part.sum(axis=0), whole.sum(axis=0)
    return {name: int(n) / int(size) if size else float("nan") for name, n, size in zip(names, counts, sizes)}
