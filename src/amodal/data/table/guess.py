"""A first schema by looking at a table, with comments, for people to correct."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from amodal.data.table.cells import MISSING_WORDS, date_formats, texts
from amodal.data.table.manifest import Table, open_table
from amodal.data.table.tabular import bracketed_units
from amodal.data.table.times import moments
from amodal.errors import ConfigurationError, DataError, UnknownNameError

__all__ = ["Look", "guess_schema", "look_at"]

_ROWS = 50_000
_DISTINCT = 2_000
_FEW = 30
_ODD_WORDS = frozenset({"?", "-", "--", "unknown", "Unknown", "none", "None", "missing", "Missing", ".", "nd", "n.d."})
_ENDINGS = {
    ".png": "image", ".jpg": "image", ".jpeg": "image", ".dcm": "image", ".wav": "audio", ".flac": "audio",
    ".ogg": "audio", ".npy": "array", ".npz": "array", ".txt": "text",
}  # fmt: skip
_TARGETS = re.compile(
    r"^(target|label|class|outcome|diagnosis|finding|y|died|death|dead|mortality|survival|result)", re.I
)
_GROUPS = re.compile(r"(patient|subject|person|participant|group|mrn)", re.I)
_SPLITS = re.compile(r"^(split|fold|set|subset|partition)$", re.I)
_IDS = re.compile(r"(^id$|_id$|^id_|id$|uid|key|filename|file)", re.I)


@dataclass
class Look:
    """What a column looks like.

    Attributes:
        name: The column.
        rows: Rows looked at.
        words: How often each of the first few thousand distinct texts comes.
        empty: Empty cells.
        numeric: Cells that are numbers.
        length: Characters of all texts.
        low: Smallest number.
        high: Largest number.
        odd: Words in a column of numbers that seem to mean an empty cell.
        kind: "empty", "constant", "file", "number", "date", "category", "text" or "words" (many different short ones).
    """

    name: str
    rows: int = 0
    words: Counter[str] = field(default_factory=Counter)
    empty: int = 0
    numeric: int = 0
    length: int = 0
    low: float = np.inf
    high: float = -np.inf
    odd: set[str] = field(default_factory=set)
    kind: str = ""

    @property
    def filled(self) -> int:
        """Cells that are not empty."""
        return self.rows - self.empty

    @property
    def is_distinct(self) -> bool:
        """Whether no text comes twice, as far as was looked."""
        return bool(self.words) and self.filled == self.rows and max(self.words.values()) == 1

    def add(self, cells: np.ndarray) -> None:
        """Takes in some cells, texts with None where empty."""
        self.rows += len(cells)
        for cell in cells:
            if cell is None:
                self.empty += 1
                continue
            if cell in self.words or len(self.words) < _DISTINCT:
                self.words[cell] += 1
            self.length += len(cell)
            try:
                number = float(cell)
            except ValueError:
                continue
            self.numeric += 1
            self.low, self.high = min(self.low, number), max(self.high, number)

    def decide(self) -> None:
        """Says what kind of column it is."""
        self.odd = {word for word in self.words if word in _ODD_WORDS}
        filled = self.filled - sum(self.words[word] for word in self.odd)
        words = [word for word in self.words if word not in self.odd]
        if not words:
            self.kind = "empty"
        elif len(words) == 1:
            self.kind = "constant"
        elif self.numeric >= 0.95 * filled:
            self.kind = "number"
        elif sum(Path(word).suffix.lower() in _ENDINGS for word in words) >= 0.9 * len(words):
            self.kind = "file"
        elif len(date_formats(np.array(words[:200], object))) and _are_dates(words[:200]):
            self.kind = "date"
        elif len(words) <= min(_FEW, max(2, 0.5 * filled)):
            self.kind = "category"
        else:
            self.kind = "text" if self.length / max(1, self.filled) > 25 else "words"


def look_at(table: Table, rows: int = _ROWS) -> list[Look]:
    """Looks at the first rows of every column of a table."""
    looks = [Look(name) for name in table.names]
    missing = frozenset(MISSING_WORDS)
    for chunk in table.chunks(table.names, 8192):
        for look in looks:
            look.add(texts(chunk[look.name], missing))
        if looks[0].rows >= rows:
            break
    for look in looks:
        look.decide()
    return looks


def guess_schema(manifest: str | Path, *, target: str | None = None) -> str:
    """Writes a first schema by looking at a table.

    Args:
        manifest: The table.
        target: The column to predict; None guesses by its name.

    Returns:
        The schema as YAML with comments on what was seen and what to check.

    Raises:
        DataError: If the table has no rows.
        UnknownNameError: If there is no column `target`.
        ConfigurationError: If no column could be a target.
    """
    table = open_table(Path(manifest))
    looks = {look.name: look for look in look_at(table)}
    if not next(iter(looks.values())).rows:
        raise DataError(f"{table.path} has no rows", expected="one row for each case beneath the columns' names")
    if target is not None and target not in looks:
        raise UnknownNameError("column", target, looks)
    chosen = looks[target] if target else _target(list(looks.values()))
    taken = {chosen.name}
    row_id = _first(looks.values(), lambda look: look.is_distinct and look.kind != "date", _IDS)
    group = _first(looks.values(), lambda look: look.filled == look.rows and not look.is_distinct, _GROUPS, must=True)
    split = _first(looks.values(), lambda look: look.kind in ("category", "number"), _SPLITS, must=True)
    taken |= {look.name for look in (group, split) if look}
    if row_id is not None and row_id.kind != "file":
        taken.add(row_id.name)
    odd = sorted({word for look in looks.values() for word in look.odd})
    rest = [look for look in looks.values() if look.name not in taken]
    parts = [
        _head(table, next(iter(looks.values())).rows),
        _people(row_id, group, split),
        _missing(odd),
        _task(chosen),
        _modalities(table, rest),
    ]
    return "\n".join(parts)


def _head(table: Table, rows: int) -> str:
    return (
        f"# A first schema for {table.path.name}, made by looking at {rows:,} rows. Check every line: what is guessed\n"
        "# here is used as it stands. Then: amodal data prepare table --manifest "
        f"{table.path.name} --schema THIS --out DIR\n"
        f"name: {_quoted(table.path.stem)}\n"
    )


def _people(row_id: Look | None, group: Look | None, split: Look | None) -> str:
    lines = [
        f"id: {_quoted(row_id.name)}                # distinct in every row"
        if row_id
        else "# id: COLUMN            # no column is distinct in every row: rows are numbered",
        f"group: {_quoted(group.name)}             # cases of one group (patient) stay in one split"
        if group
        else "# group: COLUMN         # are several rows of one patient? Then name the patient's column",
    ]
    if split is not None:
        lines.append(f"split: {_quoted(split.name)}             # {_some(split)}; training takes train, valid, test")
    else:
        lines += [
            "split:                  # drawn by group, with the same mixture of classes in each",
            "  fractions: {train: 0.7, valid: 0.1, test: 0.2}",
            "  seed: 0",
        ]
    return "\n".join(lines) + "\n"


def _missing(odd: Sequence[str]) -> str:
    words = [*MISSING_WORDS, *odd]
    seen = f"   # {', '.join(odd)} were met: do they mean an empty cell?" if odd else "   # words for an empty cell"
    return f"missing: {json.dumps(words, ensure_ascii=False)}{seen}\n"


def _task(look: Look) -> str:
    words = [word for word in look.words if word not in look.odd]
    lines = ["task:", f"  column: {_quoted(look.name)}     # is this what is to be predicted?"]
    if look.kind == "number" and len(words) > 10:
        lines += [
            "  kind: regression",
            '  units: ""               # fill in',
            f"  # values from {look.low:g} to {look.high:g}",
        ]
    else:
        words = sorted(words, key=lambda word: (float(word) if look.kind == "number" else 0.0, word))
        lines += [
            f"  kind: {'binary' if len(words) == 2 else 'multiclass'}",
            f"  classes: {json.dumps(words, ensure_ascii=False)}"
            + ("   # the second one is the positive one" if len(words) == 2 else ""),
            f"  # counts: {', '.join(f'{_line(word)} {look.words[word]:,}' for word in words[:10])}",
        ]
    empty = look.empty + sum(look.words[word] for word in look.odd)
    if empty:
        lines.append(f"  without_target: leave_out   # {empty:,} rows have none; or `error`")
    return "\n".join(lines) + "\n"


def _modalities(table: Table, looks: Sequence[Look]) -> str:
    lines = ["modalities:"]
    columns = [look for look in looks if look.kind in ("number", "category", "date")]
    if columns:
        lines += ["  table:                # cut it into several: what is measured together is missing together",
                  "    kind: tabular", "    columns:"]  # fmt: skip
        lines += [_column(look) for look in columns]
    for look in looks:
        if look.kind == "text":
            lines += [f"  {_name(look.name)}:", "    kind: text",
                      f"    column: {_quoted(look.name)}   # {look.empty / look.rows:.0%} empty"]  # fmt: skip
        elif look.kind == "file":
            lines += _file(table, look)
    if len(lines) == 1:
        lines.append("  # no column looks like an input")
    left = [look for look in looks if look.kind in ("empty", "constant", "words")]
    for look in left:
        why = {"empty": "empty", "constant": "the same in every row"}.get(look.kind, f"{_some(look)}")
        lines.append(f"  # left out: {_line(look.name)} ({why})")
    return "\n".join(lines) + "\n"


def _line(text: str) -> str:
    """A text on one line, for comments."""
    return " ".join(text.split())


def _column(look: Look) -> str:
    empty = f"{look.empty / look.rows:.0%} empty"
    if look.kind == "category":
        words = sorted(word for word in look.words if word not in look.odd)
        return (
            f"      {_quoted(look.name)}: {{type: category, categories: {json.dumps(words, ensure_ascii=False)}}}"
            f"   # {empty}"
        )
    if look.kind == "date":
        forms = date_formats(np.array(list(look.words)[:200], object))
        form = next(iter(forms))
        written = "" if form.startswith("%Y-%m-%d") else f", format: {json.dumps(form)}"
        several = f"; SEVERAL FORMATS: {', '.join(forms)}" if len(forms) > 1 else ""
        return f"      {_quoted(look.name)}: {{type: date{written}}}   # {empty}{several}"
    units = bracketed_units(look.name)
    return (
        f"      {_quoted(look.name)}: {{units: {_quoted(units or '')}}}"
        f"   # {look.low:g} … {look.high:g}, {empty}; add min and max of what is possible"
    )


def _file(table: Table, look: Look) -> list[str]:
    suffix = Counter(Path(word).suffix.lower() for word in look.words).most_common(1)[0][0]
    kind = _ENDINGS[suffix]
    folder, found = _folder(table.path.parent, list(look.words)[:50])
    lines = [f"  {_name(look.name)}:", f"    kind: {kind}", f"    column: {_quoted(look.name)}"]
    if folder:
        lines.append(f"    folder: {_quoted(folder)}")
    if not found:
        lines.append(
            f"    # none of the first files was found beside {table.path.name}: name their `folder`, or --root"
        )
    lines.append("    missing_file: error   # or absent")
    extra = {
        "image": ["    size: 128", "    channels: 1         # 3 for colour"],
        "audio": ["    rate: 16000", "    seconds: 5"],
        "array": ["    as: tabular         # or series, or image"],
        "text": ["    files: true"],
    }
    return lines + extra[kind]


def _folder(base: Path, names: Sequence[str]) -> tuple[str, bool]:
    folders = [base, *(path for path in sorted(base.iterdir())[:500] if path.is_dir() and not path.is_symlink())]
    best = max(folders, key=lambda folder: sum((folder / name).is_file() for name in names))
    found = any((best / name).is_file() for name in names)
    return ("" if best == base or not found else best.name), found


def _target(looks: Sequence[Look]) -> Look:
    fits = [look for look in looks if look.kind == "category" or (look.kind == "number" and not look.is_distinct)]
    named = [look for look in fits if _TARGETS.search(look.name)]
    if not fits:
        raise ConfigurationError("no column could be a target", hint="Name it with --target.")
    return named[0] if named else fits[-1]


def _first(looks, fits, names: re.Pattern[str], *, must: bool = False) -> Look | None:
    good = [look for look in looks if fits(look)]
    named = [look for look in good if names.search(look.name)]
    return named[0] if named else good[0] if good and not must else None


def _are_dates(words: Sequence[str]) -> bool:
    """Whether most words are dates in some common format, and not mere numbers."""
    forms = date_formats(np.array(words, object))
    array = np.array([*words, None], object)[:-1]
    fits = np.zeros(len(words), bool)
    for form in forms:
        fits |= ~moments(array, (form,)).bad
    return bool(fits.mean() > 0.9) and not all(word.isdigit() for word in words)


def _some(look: Look) -> str:
    shown = ", ".join(_line(word)[:20] for word, _ in look.words.most_common(3))
    more = "or more " if len(look.words) >= _DISTINCT else ""
    return f"{len(look.words):,} {more}different: {shown}, …"


def _name(column: str) -> str:
    """A modality's name made of a column's."""
    name = re.sub(r"[^A-Za-z0-9_\-]+", "_", column).strip("_") or "modality"
    return f"m_{name}" if name == "table" or not re.match(r"[A-Za-z_]", name) else name


def _quoted(text: str) -> str:
    """A text as YAML writes it: plain where that is safe."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_ /.\-]*", text) and text.lower() not in ("true", "false", "null", "nan")
    return text if plain and not text.endswith(" ") else json.dumps(text, ensure_ascii=False)
