"""The JSON Schema of a table's schema, for editors: drawn from the code that reads schemas, so that it cannot drift.

The readers of all kinds are run on a recorder instead of a section. It notes every key that is asked for, its type, its
choices and whether it is required; readers that go different ways for a choice are run for each of its words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from amodal.data.table.column import Column
from amodal.data.table.numbers import NumberRule
from amodal.data.table.schema import SOURCES, SplitRule, TableSchema
from amodal.data.table.section import REQUIRED, Section
from amodal.data.table.several import Several
from amodal.data.table.target import LabelColumn, TaskColumns
from amodal.data.table.variable import Variable
from amodal.errors import AmodalError

__all__ = ["json_schema"]

_PRESENT = "every key that a reader looks for is there"
_TEXT = {"type": ["string", "number"]}
_TEXTS = {"type": "array", "items": {"type": ["string", "number"]}}

_CLASSES = {"anyOf": [_TEXTS, {"type": "object", "additionalProperties": _TEXTS}]}


@dataclass
class _Node:
    """The keys of one mapping, as far as they were asked for.

    Attributes:
        keys: What each may hold.
        inner: Mappings inside, by key; of `several` each value is such a mapping.
        several: Keys whose values are mappings of mappings.
        required: How often each key was asked for without a default.
        asked: How often the mapping was read.
        choices: The words of each choice.
    """

    keys: dict[str, dict[str, Any]] = field(default_factory=dict)
    inner: dict[str, _Node] = field(default_factory=dict)
    several: set[str] = field(default_factory=set)
    required: dict[str, int] = field(default_factory=dict)
    asked: int = 0
    choices: dict[str, list[str]] = field(default_factory=dict)


class _Recorder(Section):
    """A section that holds nothing, notes what it is asked, and answers what lets the reader go on."""

    def __init__(self, node: _Node, where: str, forced: Mapping[str, str]):
        super().__init__(where, {})
        self.node, self.forced = node, forced
        node.asked += 1

    def _note(self, key: str, kind: dict[str, Any], default: Any, sample: Any) -> Any:
        known = self.node.keys.get(key)
        self.node.keys[key] = known or kind
        if default is REQUIRED:
            self.node.required[key] = self.node.required.get(key, 0) + 1
            return sample
        return default

    def __contains__(self, key: str) -> bool:
        self.node.keys.setdefault(key, {})
        return _PRESENT in self.forced

    def text(self, key: str, default: Any = REQUIRED) -> Any:
        return self._note(key, _TEXT, default, "x")

    def number(self, key: str, default: Any = REQUIRED) -> Any:
        return self._note(key, {"type": "number"}, default, 1.0)

    def integer(self, key: str, default: Any = REQUIRED, *, least: int = 1, most: int = 2**31) -> Any:
        return self._note(key, {"type": "integer", "minimum": least, "maximum": most}, default, least)

    def flag(self, key: str, default: bool) -> bool:
        self.node.choices.setdefault(key, ["true", "false"])
        self._note(key, {"type": "boolean"}, default, default)
        return {"true": True, "false": False}.get(self.forced.get(self.place(key), ""), default)

    def choice(self, key: str, options: Iterable[str], default: Any = REQUIRED) -> Any:
        words = list(options)
        self.node.choices.setdefault(key, words)
        given = self._note(key, {"enum": words}, default, words[0])
        return self.forced.get(self.place(key), given)

    def texts(self, key: str, default: Any = REQUIRED) -> Any:
        return self._note(key, _TEXTS, default, ("x", "y"))

    def words(self, key: str, default: Any = REQUIRED) -> Any:
        return self._note(key, {"anyOf": [_TEXT, _TEXTS]}, default, ("x",))

    def moment(self, key: str, default: Any = REQUIRED) -> Any:
        return self._note(key, {"anyOf": [_TEXT, {**_TEXTS, "minItems": 1, "maxItems": 2}]}, default, ("x",))

    def numbers(self, key: str, default: Any = REQUIRED) -> Any:
        return self._note(key, {"type": "array", "items": {"type": "number"}}, default, (0.0, 1.0))

    def shares(self, key: str, known: Mapping[str, float]) -> dict[str, float]:
        share = {"type": "number", "minimum": 0, "maximum": 1}
        kind = {"type": "object", "properties": dict.fromkeys(known, share), "additionalProperties": False}
        self._note(key, kind, {}, {})
        return {}

    def mapping(self, key: str) -> dict[str, str]:
        return self._note(key, {"type": "object", "additionalProperties": _TEXT}, {}, {})

    def raw(self, key: str, default: Any = None) -> Any:
        return self._note(key, {}, default, None)

    def section(self, key: str) -> Section:
        self._note(key, {}, REQUIRED, None)
        node = self.node.inner.setdefault(key, _Node())
        return _Recorder(node, self.place(key), self.forced)

    def sections(self, key: str) -> dict[str, Section]:
        self.node.several.add(key)
        return {"x": self.section(key)}

    def done(self) -> None:
        pass


def _explored(read: Callable[[Section], object]) -> _Node:
    """Runs a reader once as it is, and once for each word of each choice."""
    node = _Node()

    def run(forced: Mapping[str, str]) -> None:
        try:
            read(_Recorder(node, "", forced))
        except (AmodalError, ValueError, TypeError, IndexError, KeyError, AttributeError):
            return  # the answers of a recorder need not fit together: what was asked until then is noted

    run({})
    run({_PRESENT: "true"})
    for key, words in list(node.choices.items()):
        for word in words:
            run({key: word})
    return node


def _object(node: _Node, notes: Mapping[str, str], inner: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A node as JSON Schema."""
    properties: dict[str, Any] = {}
    for key, kind in node.keys.items():
        content = dict(kind)
        if key in inner:
            content = inner[key]
        elif key in node.inner and node.inner[key].keys:
            own = _object(node.inner[key], notes, {})
            each = {"anyOf": [own, {"type": "null"}]}
            content = {"type": "object", "additionalProperties": each} if key in node.several else own
            content = {"anyOf": [content, _TEXTS]} if key in node.several else content
        if notes.get(key):
            content = {"description": notes[key], **content}
        properties[key] = content
    required = sorted(key for key, count in node.required.items() if count == node.asked and node.asked)
    return {"type": "object", "properties": properties, "additionalProperties": False} | (
        {"required": required} if required else {}
    )


def _notes(*kinds: type) -> dict[str, str]:
    """Descriptions of the attributes of classes, from their docstrings."""
    found: dict[str, str] = {}
    for kind in kinds:
        part = (kind.__doc__ or "").partition("Attributes:")[2]
        for name, text in re.findall(r"^        (\w+): (.*(?:\n {9,}.*)*)", part, re.M):
            found.setdefault(name, " ".join(text.split()))
    return found


def _of(kind: type, *more: type, inner: Mapping[str, dict[str, Any]] | None = None, read: Any = None) -> dict[str, Any]:
    node = _explored(read or (lambda section: kind.read("x", section)))  # type: ignore[attr-defined]
    return _object(node, _notes(kind, *more), inner or {})


def _each(of: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"type": "object", "additionalProperties": {"anyOf": [of, {"type": "null"}]}}, _TEXTS]}


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a table's schema."""
    inner: dict[str, dict[str, dict[str, Any]]] = {
        "tabular": {"columns": _each(_of(Column, NumberRule))},
        "events": {"variables": _each(_of(Variable, NumberRule))},
    }
    modalities = []
    for word, kind in SOURCES.items():
        of = _of(kind, NumberRule, Several, inner=inner.get(word))
        of["properties"] = {"kind": {"const": word}, **of["properties"]}
        of["required"] = ["kind", *of.get("required", [])]
        modalities.append(of)
    label = _of(LabelColumn, read=LabelColumn.read)
    task = _of(
        TaskColumns, read=TaskColumns.read, inner={"columns": _each({"anyOf": [label, _TEXT]}), "classes": _CLASSES}
    )
    split = _of(SplitRule, read=SplitRule.read_section)
    own = {
        "task": task,
        "split": {"anyOf": [{"type": "string"}, split]},
        "modalities": {"type": "object", "minProperties": 1, "additionalProperties": {"oneOf": modalities}},
    }
    whole = _object(_explored(TableSchema.read_section), _notes(TableSchema, NumberRule), own)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "How a table and the files it names become a cohort of amodal",
        **whole,
        "required": ["task", "modalities"],
    }
