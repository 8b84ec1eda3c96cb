"""Reading a schema key by key, so that every mistake is told with its place and the nearest right word."""

from __future__ import annotations

import difflib
import json
import math
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from amodal.errors import SchemaError

__all__ = ["REQUIRED", "Section", "load_record", "nearest", "plain_record"]

_LARGEST = 2**20
REQUIRED: Any = object()
"""The default of a key that has none."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """A hint that names the known word nearest to an unknown one; None if none is near.

    Example:
        >>> nearest("collumn", ["column", "units"])
        "Did you mean 'column'?"
    """
    words = list(known)
    near = difflib.get_close_matches(name, words, n=1) or [w for w in words if w.lower() == name.lower()]
    return f"Did you mean {near[0]!r}?" if near else None


class Section:
    """A mapping in a schema, with its place, read key by key.

    Args:
        where: Its place, for messages; "" is the top.
        record: The mapping.

    Raises:
        SchemaError: If it is no mapping with words as keys.

    Example:
        >>> section = Section("modalities.xray", {"kind": "image", "sise": 64})
        >>> section.text("kind")
        'image'
        >>> section.integer("size", default=32)
        32
        >>> section.done()
        Traceback (most recent call last):
        amodal.errors.SchemaError: modalities.xray has an unknown key 'sise' (expected one of kind, size). Did you mean 'size'?
    """  # noqa: E501

    def __init__(self, where: str, record: Any):
        if not isinstance(record, Mapping):
            raise SchemaError(f"{where or 'the schema'} is no mapping", expected="key: value", got=_shown(record))
        odd = [key for key in record if not isinstance(key, str)]
        if odd:
            raise SchemaError(f"{where or 'the schema'} has a key that is no word", got=repr(odd[0]), hint="Quote it.")
        self.where, self._record, self._asked = where, dict(record), {}

    def __contains__(self, key: str) -> bool:
        self._asked[key] = True
        return self._record.get(key) is not None

    def place(self, key: str) -> str:
        """Position of a key, for messages."""
        return f"{self.where}.{key}" if self.where else key

    def text(self, key: str, default: Any = REQUIRED) -> Any:
        """A string; numbers are taken as they are written."""
        given = self._get(key, default)
        if given is default and key not in self:
            return default
        if isinstance(given, bool) or not isinstance(given, str | int | float):
            raise self.wrong(key, "a text", given)
        return str(given)

    def number(self, key: str, default: Any = REQUIRED) -> Any:
        """A finite number."""
        given = self._get(key, default)
        if given is default and key not in self:
            return default
        if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
            raise self.wrong(key, "a number", given)
        return float(given)

    def integer(self, key: str, default: Any = REQUIRED, *, least: int = 1, most: int = 2**31) -> Any:
        """A whole number in a range."""
        given = self._get(key, default)
        if given is default and key not in self:
            return default
        if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
            raise self.wrong(key, f"a whole number from {least} to {most}", given)
        return given

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        given = self._get(key, default)
        if not isinstance(given, bool):
            raise self.wrong(key, "true or false", given)
        return given

    def choice(self, key: str, options: Iterable[str], default: Any = REQUIRED) -> Any:
        """One of some words."""
        words = list(options)
        given = self.text(key, default)
        if given is default and key not in self:
            return default
        if given not in words:
            raise SchemaError(
                f"{self.place(key)} is not known",
                expected=f"one of {', '.join(words)}",
                got=repr(given),
                hint=nearest(given, words),
            )
        return given

    def texts(self, key: str, default: Any = REQUIRED) -> tuple[str, ...]:
        """A list of distinct strings."""
        given = self._get(key, default)
        if given is default and key not in self:
            return default
        if not isinstance(given, list | tuple):
            raise self.wrong(key, "a list", given)
        if any(isinstance(entry, bool) or not isinstance(entry, str | int | float) for entry in given):
            raise self.wrong(key, "a list of texts", given)
        words = tuple(str(entry) for entry in given)
        twice = sorted({word for word in words if words.count(word) > 1}) if len(words) < 2000 else []
        if twice:
            raise SchemaError(f"{self.place(key)} names {twice[0]!r} twice")
        return words

    def words(self, key: str, default: Any = REQUIRED) -> tuple[str, ...]:
        """One string, or a list of distinct ones."""
        given = self._get(key, default)
        if given is default and key not in self:
            return default
        return self.texts(key) if isinstance(given, list | tuple) else (self.text(key),)

    def moment(self, key: str, default: Any = REQUIRED) -> Any:
        """The column of a point in time, or those of its date and of its time of day."""
        names = self.words(key, default)
        if len(names) > 2 or (not names and default is REQUIRED):
            raise self.wrong(key, "a column of dates, or [column of dates, column of times of day]", list(names))
        return names

    def shares(self, key: str, known: Mapping[str, float]) -> dict[str, float]:
        """A mapping of known words to shares from 0 to 1; an empty one may be left out."""
        if key not in self:
            return {}
        inner = self.section(key)
        found = {name: inner.number(name, None) for name in known}
        inner.done()
        for name, share in found.items():
            if share is not None and not 0 <= share <= 1:
                raise SchemaError(f"{inner.place(name)} is no share", expected="a number from 0 to 1", got=share)
        return {name: share for name, share in found.items() if share is not None}

    def numbers(self, key: str, default: Any = REQUIRED) -> tuple[float, ...]:
        """A list of finite numbers."""
        given = self._get(key, default)
        if given is default and key not in self:
            return default
        fits = isinstance(given, list | tuple) and all(
            isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in given
        )
        if not fits:
            raise self.wrong(key, "a list of numbers", given)
        return tuple(float(n) for n in given)

    def mapping(self, key: str) -> dict[str, str]:
        """A mapping of words to words; an empty one may be left out."""
        if key not in self:
            return {}
        inner = self.section(key)
        return {word: inner.text(word) for word in inner.keys()}  # noqa: SIM118

    def section(self, key: str) -> Section:
        """A mapping inside."""
        return Section(self.place(key), self._get(key, REQUIRED))

    def sections(self, key: str) -> dict[str, Section]:
        """A mapping of mappings inside, in order; an empty one may be left out."""
        inner = self.section(key)._record
        return {name: Section(f"{self.place(key)}.{name}", {} if v is None else v) for name, v in inner.items()}

    def raw(self, key: str, default: Any = None) -> Any:
        """Whatever stands there."""
        return self._get(key, default)

    def keys(self) -> list[str]:
        """The keys that are there."""
        return list(self._record)

    def done(self) -> None:
        """Raises SchemaError if a key was never asked for, with the nearest one that was."""
        for key in self._record:
            if key not in self._asked:
                raise SchemaError(
                    f"{self.where or 'the schema'} has an unknown key {key!r}",
                    expected=f"one of {', '.join(sorted(self._asked))}",
                    hint=nearest(key, self._asked),
                )

    def wrong(self, key: str, expected: str, got: Any) -> SchemaError:
        """The error for a value of another type."""
        hint = "Quote it." if isinstance(got, bool) and "text" in expected else None
        return SchemaError(f"{self.place(key)} has another type", expected=expected, got=_shown(got), hint=hint)

    def _get(self, key: str, default: Any) -> Any:
        self._asked[key] = True
        given = self._record.get(key)
        if given is not None:
            return given
        if default is REQUIRED:
            unknown = [name for name in self._record if name not in self._asked]
            near = difflib.get_close_matches(key, unknown, n=1)
            raise SchemaError(
                f"{self.where or 'the schema'} lacks the key {key!r}",
                hint=f"Is {near[0]!r} meant to be it?" if near else None,
            )
        return default


def load_record(path: Path) -> dict[str, Any]:
    """Reads a schema file, YAML or JSON, to plain values; nothing in it is executed.

    Only true and false are taken as truth values (never yes, no, on, off), dates stay texts, a key that stands twice
    and aliases are refused.

    Raises:
        SchemaError: If it is not there, too large, no UTF-8, or neither YAML nor JSON; the message says the line.
    """
    import yaml

    if not path.is_file():
        raise SchemaError(f"there is no schema at {path}", hint="Write a first one with `amodal data schema`.")
    if path.stat().st_size > _LARGEST:
        raise SchemaError(f"{path} is too large for a schema", expected="1 MiB or less", got=path.stat().st_size)
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SchemaError(f"{path} is not UTF-8 text: byte {error.start}", hint="Save it as UTF-8.") from error
    try:
        record = json.loads(content) if path.suffix == ".json" else yaml.load(content, _loader())
    except json.JSONDecodeError as error:
        raise SchemaError(f"{path} is no JSON: {error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        what = getattr(error, "problem", None) or type(error).__name__
        raise SchemaError(f"{path} is no YAML{line}: {what}") from error
    return Section("", record)._record


def plain_record(record: Any) -> Any:
    """A record with every letter in its composed form (NFC), as tables are read."""
    if isinstance(record, str):
        return unicodedata.normalize("NFC", record)
    if isinstance(record, Mapping):
        return {plain_record(key): plain_record(value) for key, value in record.items()}
    return [plain_record(entry) for entry in record] if isinstance(record, list | tuple) else record


def _loader() -> Any:
    """A safe YAML loader without the surprises: no `no` that is False, no dates, no key twice, no aliases."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                mark = self.peek_event().start_mark
                raise yaml.MarkedYAMLError(None, None, "aliases are not allowed", mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[Any] = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise yaml.MarkedYAMLError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, rule) for tag, rule in rules if not tag.endswith((":timestamp", ":bool"))]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    import re

    Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(true|false)$"), ["t", "f"])
    return Loader


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text[:60]}…" if len(text) > 60 else text
