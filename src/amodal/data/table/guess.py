"""A first schema by looking at the files of a cohort together, with comments, for people to correct.

Nothing is guessed that would be dangerous if it were wrong: the target is asked for, and ids, dates, diagnoses, what
lies after the outcome and what tells it by itself are left out, each with the reason as a comment.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from amodal.data.table.cells import MISSING_WORDS
from amodal.data.table.column import bracketed_units
from amodal.data.table.guess_tables import second_tables
from amodal.data.table.leaks import event_pair, reasons
from amodal.data.table.look import ENDINGS, Look, look_at
from amodal.data.table.manifest import Table, open_table
from amodal.data.table.schema_lines import column_line, counts, line, modality_name, quoted
from amodal.data.table.several import parted
from amodal.errors import ConfigurationError, DataError, UnknownNameError

__all__ = ["guess_schema"]

_CANDIDATES = 15
_NONE = frozenset({"none", "keine", "keiner", "kein", "nil", "no", "no finding", "aucun", "ninguno", "nessuno", "ohne"})
_NO = frozenset(
    {
        "no", "nein", "n", "false", "falsch", "0", "non", "neg", "negative", "negativ", "healthy", "gesund", "control",
        "alive", "lives", "lived", "survived", "survivor", "lebt", "überlebt", "absent", "benign", "normal", *_NONE,
    }
)  # fmt: skip
_YES = frozenset(
    {
        "yes", "ja", "y", "j", "true", "wahr", "1", "oui", "si", "sí", "pos", "positive", "positiv", "sick", "krank",
        "case", "died", "dead", "death", "deceased", "verstorben", "tot", "present", "malignant", "abnormal",
    }
)  # fmt: skip
_TARGETS = re.compile(
    r"^(target|label|class|outcome|diagnosis|finding|y|died|death|dead|mortality|survival|result|verstorben|ziel)", re.I
)
_GROUPS = re.compile(r"(patient|subject|person|participant|group|mrn|proband|paciente)", re.I)
_SPLITS = re.compile(r"^(split|fold|set|subset|partition)$", re.I)
_IDS = re.compile(r"(^id$|_id$|^id_|id$|uid|key|filename|file|fall|case|visit|encounter|nummer|number)", re.I)


def guess_schema(
    manifest: str | Path,
    *,
    target: str | None = None,
    events: Sequence[str | Path] = (),
    tables: Sequence[str | Path] = (),
) -> str:
    """Writes a first schema by looking at a table of cases and the tables beside it.

    Args:
        manifest: The table of cases.
        target: The column to predict.
        events: Long tables with a row a measurement.
        tables: Tables with a row a case.

    Returns:
        The schema as YAML with comments on what was seen, what was left out and why, and what to check.

    Raises:
        DataError: If the table has no rows.
        UnknownNameError: If there is no column `target`.
        ConfigurationError: If there is no `target`: the message lists the columns that could be one, with counts.
    """
    table = open_table(Path(manifest))
    looks = {look.name: look for look in look_at(table)}
    if not next(iter(looks.values())).rows:
        raise DataError(f"{table.path} has no rows", expected="one row for each case beneath the columns' names")
    if target is None:
        raise _asked(table, list(looks.values()))
    if target not in looks:
        raise UnknownNameError("column", target, looks)
    chosen = looks[target]
    row_id = _id(list(looks.values()), chosen)
    group = _group(list(looks.values()), chosen, row_id)
    split = next((k for k in looks.values() if k.kind in ("category", "number") and _SPLITS.search(k.name)), None)
    who = {
        look.name
        for look in (row_id, group, split, chosen)
        if look is not None and (look is not row_id or look.kind != "file")
    }
    beside = second_tables(table, looks, row_id, group, chosen, events, tables)
    left = {name: why for name, why in reasons(looks, chosen).items() if name not in who and name not in beside.since}
    origin = {name for name in beside.since if looks[name].kind != "date"}
    rest = [look for look in looks.values() if look.name not in who | left.keys() | origin]
    odd = sorted({word for look in [*looks.values(), *beside.looks] for word in look.odd})
    limits: Counter[str] = Counter()
    for look in [*rest, *beside.looks]:
        limits.update(look.limits)
    parts = [
        _head(table, next(iter(looks.values())).rows),
        _people(row_id, group, split),
        _words(odd, limits),
        _task(chosen, event_pair(list(looks.values()))),
        _modalities(table, rest, left, beside.lines, chosen),
    ]
    return "\n".join(parts)


# The target -----------------------------------------------------------------------------------------------------------


def _asked(table: Table, looks: Sequence[Look]) -> ConfigurationError:
    """The error that asks for the target, with the columns that could be one."""
    fits = [k for k in looks if k.kind in ("category", "codes") or (k.kind == "number" and not k.is_distinct)]
    fits.sort(key=lambda look: not _TARGETS.search(look.name))
    shown = "".join(f"\n  {quoted(look.name)}: {counts(look)}" for look in fits[:_CANDIDATES])
    more = f"\n  … ({len(fits)} columns)" if len(fits) > _CANDIDATES else ""
    return ConfigurationError(
        f"which column of {table.path.name} is to be predicted? Name it with --target. These could be:{shown}{more}"
        if fits
        else f"no column of {table.path.name} could be a target",
        hint=None if fits else "Name it with --target.",
    )


def _task(look: Look, pair: tuple[Look, Look] | None) -> str:
    words = [word for word in look.words if word not in look.odd]
    lines = ["task:", f"  column: {quoted(look.name)}"]
    if pair and look in pair:
        other = pair[1] if look is pair[0] else pair[0]
        both = f"{line(look.name)} and {line(other.name)}"
        lines.insert(
            0, f"# CAREFUL: {both} are a time and an event: who was still without it when last seen is no negative,"
        )
        lines.insert(1, "# and has no time. Predict the event within a fixed time, from a column that says so.")
    if look.kind == "codes":
        parts: Counter[str] = Counter()
        for word, count in look.words.items():
            parts.update({part.strip(): count for part in word.split(look.separator)})
        none = [part for part in parts if part.casefold() in _NONE]
        labels = [part for part, _ in parts.most_common() if part not in none and part not in look.odd]
        lines += ["  kind: multilabel", f"  separator: {json.dumps(look.separator)}",
                  f"  classes: {json.dumps(labels, ensure_ascii=False)}"]  # fmt: skip
        lines += (
            [f"  none: {json.dumps(none, ensure_ascii=False)}        # words that mean none of the labels"]
            if none
            else []
        )
        lines += ["  empty: unknown         # or `no`, if an empty cell means none of the labels"] if look.empty else []
    elif look.kind == "number" and len(words) > 10:
        lines += ["  kind: regression", f"  units: {quoted(bracketed_units(look.name) or '')}               # fill in"]
    else:
        words = sorted(words, key=lambda word: (_sign(word), _number(word) if look.kind == "number" else 0.0, word))
        lines += [
            f"  kind: {'binary' if len(words) == 2 else 'multiclass'}",
            f"  classes: {json.dumps(words, ensure_ascii=False)}"
            + ("   # the second one is the positive one" if len(words) == 2 else ""),
        ]
    lines.append(f"  # {counts(look)}")
    empty = look.empty + sum(look.words[word] for word in look.odd)
    if empty:
        lines.append(f"  without_target: keep   # {empty:,} rows without a label; or `leave_out`, `error`")
    return "\n".join(lines) + "\n"


def _sign(word: str) -> int:
    """-1 for a word that says no, 1 for one that says yes: of two classes the second is the positive one."""
    return -1 if word.casefold() in _NO else 1 if word.casefold() in _YES else 0


def _number(word: str) -> float:
    from amodal.data.table.look import as_number

    return as_number(word)[0] or 0.0


# Who the cases are ----------------------------------------------------------------------------------------------------


def _id(looks: Sequence[Look], target: Look) -> Look | None:
    """The column that is distinct in every row: a code by its values first, then by its name."""
    fits = [k for k in looks if k.is_distinct and k.kind in ("code", "words", "file", "number") and k is not target]
    fits = [k for k in fits if k.kind != "number" or (k.whole == k.rows and _IDS.search(k.name))]
    fits.sort(key=lambda k: (not _IDS.search(k.name), k.kind != "code"))
    return fits[0] if fits else None


def _group(looks: Sequence[Look], target: Look, row_id: Look | None) -> Look | None:
    """The column whose values few rows share, as those of one patient: a code by its values, or known by its name."""
    fits = []
    for look in looks:
        if look is target or look is row_id or look.filled < look.rows or look.is_distinct:
            continue
        per_value = look.rows / max(1, len(look.words))
        named = _GROUPS.search(look.name) and len(look.words) > 1 and per_value <= 50  # `dzgroup` is no patient
        if named and look.kind in ("code", "words", "number", "category"):
            fits.append((0 if look.kind == "code" else 1, look))
        elif look.kind == "code" and per_value <= 20:
            fits.append((2, look))
    return min(fits, key=lambda fit: fit[0])[1] if fits else None


def _head(table: Table, rows: int) -> str:
    return (
        f"# A first schema for {table.path.name}, made by looking at {rows:,} rows. Check every line: what is written\n"
        "# here is used as it stands. Then: amodal data prepare table --check --manifest "
        f"{table.path.name} --schema THIS\n"
        f"name: {quoted(table.path.name.split('.')[0])}\n"
    )


def _people(row_id: Look | None, group: Look | None, split: Look | None) -> str:
    lines = [
        f"id: {quoted(row_id.name)}                # distinct in every row"
        if row_id
        else "# id: COLUMN            # no column is distinct in every row: rows are numbered",
        f"group: {quoted(group.name)}             # {len(group.words):,} in {group.rows:,} rows: cases of one group "
        "(patient) stay in one split"
        if group
        else "# group: COLUMN         # are several rows of one patient? Then name the patient's column",
    ]
    if split is not None:
        lines.append(f"split: {quoted(split.name)}             # {_some(split)}; training takes train, valid, test")
    else:
        lines += [
            "split:                  # drawn by group, with the same mixture of classes in each",
            "  fractions: {train: 0.7, valid: 0.1, test: 0.2}",
            "  seed: 0",
        ]
    return "\n".join(lines) + "\n"


def _words(odd: Sequence[str], limits: Counter[str]) -> str:
    words = [*MISSING_WORDS, *odd]
    seen = (
        f"   # {', '.join(map(line, odd))} were met: do they mean an empty cell?"
        if odd
        else "   # words for an empty cell"
    )
    text = f"missing: {json.dumps(words, ensure_ascii=False)}{seen}\n"
    if limits:
        shown = ", ".join(word for word, _ in limits.most_common(3))
        text += (
            f"censored: limit         # {limits.total():,} cells like {shown}: the limit itself; or half, or missing\n"
        )
    return text


# The inputs -----------------------------------------------------------------------------------------------------------


def _modalities(
    table: Table, looks: Sequence[Look], left: Mapping[str, str], beside: Sequence[str], target: Look
) -> str:
    from amodal.data.table.leaks import single_column_score

    lines = ["modalities:"]
    columns = [look for look in looks if look.kind in ("number", "category", "codes")]
    if columns:
        lines += ["  table:                # cut it into several: what is measured together is missing together",
                  "    kind: tabular", "    columns:"]  # fmt: skip
        for look in columns:
            score = single_column_score(look, target)
            lines.append(
                column_line(look) + (f"; CAREFUL: tells the target rather well ({score:.2f})" if score > 0.9 else "")
            )
    for look in looks:
        if look.kind == "text":
            lines += [f"  {modality_name(look.name)}:", "    kind: text",
                      f"    column: {quoted(look.name)}   # {look.empty / look.rows:.0%} empty"]  # fmt: skip
        elif look.kind == "file":
            lines += _file(table, look)
    lines += beside
    if len(lines) == 1:
        lines.append("  # no column looks like an input")
    lines += [f"  # left out: {line(name)} ({why})" for name, why in left.items()]
    for look in looks:
        if look.kind in ("empty", "constant", "words"):
            why = {"empty": "empty", "constant": "the same in every row"}.get(look.kind)
            why = why or f"{_some(look)}; as an input: {{type: category, other: true}}"
            lines.append(f"  # left out: {line(look.name)} ({why})")
    return "\n".join(lines) + "\n"


def _file(table: Table, look: Look) -> list[str]:
    suffix = Counter(Path(word).suffix.lower() for word in look.words).most_common(1)[0][0]
    kind = ENDINGS[suffix]
    mark, most = _several(list(look.words)[:2000])
    names = [name for word in list(look.words)[:50] for name in (parted(word, mark) if mark else [word])]
    folder, found = _folder(table.path.parent, names)
    lines = [f"  {modality_name(look.name)}:", f"    kind: {kind}", f"    column: {quoted(look.name)}"]
    if folder:
        lines.append(f"    folder: {quoted(folder)}")
    if not found:
        lines.append(
            f"    # none of the first files was found beside {table.path.name}: name their `folder`, or --root"
        )
    if mark:
        lines.append(f"    separator: {json.dumps(mark)}      # a set: encoded one by one, and pooled")
        lines.append(f"    most: {most}")
    lines.append("    missing_file: error   # or absent")
    volume = [
        "    depth: 32           # slices, which become channels",
        "    range: [-1000, 1000]  # values that become black and white: check",
    ]
    extra = {
        "image": [
            "    size: 128",
            *(volume if suffix in (".nii", ".gz") else ["    channels: 1         # 3 for colour"]),
        ],
        "audio": ["    rate: 16000", "    seconds: 5"],
        "array": ["    as: tabular         # or series, or image"],
        "text": ["    files: true"],
    }
    return lines + extra[kind]


def _several(words: Sequence[str]) -> tuple[str, int]:
    """What stands between several names of files in a cell, and the most names of one; "" where each has one."""
    for mark in (";", "|", ",", "\n"):
        parts = [parted(word, mark) for word in words]
        most = max(map(len, parts), default=1)
        if most > 1 and all(Path(name).suffix.lower() in ENDINGS for own in parts for name in own):
            return mark, most
    return "", 1


def _folder(base: Path, names: Sequence[str]) -> tuple[str, bool]:
    folders = [base, *(path for path in sorted(base.iterdir())[:500] if path.is_dir() and not path.is_symlink())]
    best = max(folders, key=lambda folder: sum((folder / name).is_file() for name in names))
    found = any((best / name).is_file() for name in names)
    return ("" if best == base or not found else best.name), found


def _some(look: Look) -> str:
    shown = ", ".join(line(word)[:20] for word, _ in look.words.most_common(3))
    more = "or more " if len(look.words) >= 5000 else ""
    return f"{len(look.words):,} {more}different: {shown}, …"
