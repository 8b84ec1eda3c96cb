"""Several entries in one cell: files, notes or arrays of one case, which become a set."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from amodal.data.limits import MOST_FILES_IN_A_CELL
from amodal.data.table.cells import texts
from amodal.data.table.manifest import Table
from amodal.data.table.problems import Problems
from amodal.data.table.section import Section
from amodal.errors import SchemaError

__all__ = ["ONE", "Several", "parted"]

_QUOTED = r"'[^']*'|\"[^\"]*\""
_LISTED = re.compile(rf"^\[\s*(?:{_QUOTED})(?:\s*,?\s*(?:{_QUOTED}))*\s*,?\s*\]$")


def parted(cell: str, separator: str, *, bare: bool = False) -> list[str]:
    """The entries of a cell: what stands between separators, or a list as programs print it.

    Args:
        cell: The cell.
        separator: What stands between its entries.
        bare: Whether brackets around words without quotes are those of a list, too.

    Example:
        >>> parted("a.png; b.png;", ";"), parted("['a.png', 'b.png']", ";"), parted('["a", 7]', ";")
        (['a.png', 'b.png'], ['a.png', 'b.png'], ['a', '7'])
    """
    entries: Any = cell.split(separator)
    if cell[:1] == "[" and cell[-1:] == "]":
        try:
            listed = json.loads(cell)
        except (ValueError, RecursionError):
            listed = [word[1:-1] for word in re.findall(_QUOTED, cell)] if _LISTED.match(cell) else None
        if isinstance(listed, list) and all(isinstance(entry, str | int | float | None) for entry in listed):
            entries = [str(entry) for entry in listed if entry is not None]
        elif bare:
            entries = cell[1:-1].split(separator)
    return [entry.strip() for entry in entries if entry.strip()]


@dataclass(frozen=True)
class Several:
    """The rule for several entries of one cell; false where a cell has one.

    Attributes:
        separator: What stands between them; "" = a cell has one.
        most: Entries of one cell at most, the first of them; 0: as many as the fullest cell has.
    """

    separator: str = ""
    most: int = 0

    @classmethod
    def read(cls, section: Section) -> Several:
        """Reads its keys from a modality's section.

        Raises:
            SchemaError: If `most` stands without `separator`.
        """
        rule = cls(section.text("separator", ""), section.integer("most", 0, most=MOST_FILES_IN_A_CELL))
        if rule.most and not rule:
            raise SchemaError(f"{section.where} has `most` without `separator`", hint="Write `separator: ';'`.")
        return rule

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values that `read` takes."""
        return {key: getattr(self, key) for key in ("separator", "most") if getattr(self, key)}

    def __bool__(self) -> bool:
        return bool(self.separator)

    def surveyed(self, table: Table, column: str, missing: frozenset[str], *, twice: bool = False) -> Several:
        """Itself, with the number of entries of the fullest cell where the schema says nothing.

        Args:
            table: The table.
            column: The column.
            missing: Words that stand for an empty cell.
            twice: Whether an entry that stands in a cell again is another one.
        """
        if not self or self.most:
            return self
        most = 1
        for chunk in table.chunks([column], 65536):
            cells = texts(chunk[column], missing)
            found = (parted(cell, self.separator) for cell in cells if cell is not None)
            most = max([most, *(len(own if twice else set(own)) for own in found)])
        return replace(self, most=min(most, MOST_FILES_IN_A_CELL))

    def entries(self, cells: np.ndarray) -> list[list[str]]:
        """The entries of each cell, object (n,), None where empty."""
        if not self:
            return [[] if cell is None else [str(cell)] for cell in cells]
        return [[] if cell is None else parted(cell, self.separator) for cell in cells]

    def limited(
        self, cells: np.ndarray, problems: Problems, ids: np.ndarray, what: str, spot: str, *, twice: bool = False
    ) -> list[list[str]]:
        """The entries of each cell that are read; those beyond `most` and those that stand twice are counted.

        Args:
            cells: Cells, object (n,), None where empty.
            problems: Takes what is left out.
            ids: Ids of the rows.
            what: The modality and what its entries are, in words.
            spot: The place whose entries are lost.
            twice: Whether an entry that stands in a cell again is another one.
        """
        given = self.entries(cells)
        problems.enter(spot, sum(map(len, given)))
        kept = given if twice else [list(dict.fromkeys(own)) for own in given]
        again = [row for row, own, once in zip(ids, given, kept) for _ in range(len(own) - len(once))]
        problems.add(f"{what} named twice in a cell, taken once", again, lost=spot)
        beyond = [(row, entry) for row, own in zip(ids, kept) for entry in own[self.most :]] if self else []
        problems.add(f"{what} beyond the first {self.most} of a cell, left out (`most`)",
                           [row for row, _ in beyond], [entry for _, entry in beyond], lost=spot)  # fmt: skip
        return [own[: self.most] for own in kept] if self else kept


ONE = Several()
"""One entry a cell."""
