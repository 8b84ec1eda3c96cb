"""Requests and answers as pydantic models, from which FastAPI writes the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from amodal.data.table import TableSchema
from amodal.data.table.array import Array
from amodal.data.table.column import Column
from amodal.data.table.events import Events
from amodal.data.table.source import Source
from amodal.data.table.tabular import Tabular
from amodal.data.table.text import Text
from amodal.schema import Task

__all__ = ["Error", "answer_model", "case_model", "form_model", "without_references"]

_CLOSED = ConfigDict(extra="forbid")
_SLACK = 1e-6  # of probabilities, which are computed in single precision
_File = Annotated[str, Field(description="The file's bytes as base64", json_schema_extra={"format": "byte"})]
_Share = Annotated[float, Field(ge=-_SLACK, le=1 + _SLACK)]


class _Problem(BaseModel):
    field: str | None
    problem: str


class Error(BaseModel):
    """What is wrong with a request, and with which field."""

    error: _Problem


def case_model(rules: TableSchema) -> type[BaseModel]:
    """A case as JSON: every modality is optional."""
    return _record("Case", {source.name: (_value(source) | None, {"default": None}) for source in rules.sources})


def form_model(rules: TableSchema) -> type[BaseModel]:
    """A case as the fields of a form."""
    fields: dict[str, Any] = {}
    for source in rules.sources:
        if isinstance(source, Tabular):
            fields |= {f"{source.name}.{c.name}": (str, {"default": None}) for c in source.fields}
        elif isinstance(source, Text):
            fields[source.name] = str, {"default": None}
        elif isinstance(source, Events):
            said = "JSON as in the other form of the body, or a CSV file: time, variable, value, and units if you like"
            fields[source.name] = str, {"default": None, "description": said}
        else:
            fields[source.name] = str, {"default": None, "json_schema_extra": {"format": "binary"}}
        if source.set_rule() and not isinstance(source, Tabular):
            kind, said = fields[source.name]
            fields[source.name] = kind | Annotated[list[kind], Field(max_length=source.set_rule().most)], said
    return _record("CaseAsForm", fields)


def answer_model(task: Task) -> type[BaseModel]:
    """The answer: the prediction, what it is of everybody, and what could still change."""
    labels = [str(label) for label in task.classes]
    parts: dict[str, Any] = {"name": (str, ...)}
    if task.traits.one_value:
        parts |= {"value": (float, ...), "units": (str, ...)}
        base: Any = float
        ends: Any = _pair(float)
    else:
        base = _record("Shares", dict.fromkeys(labels, (_Share, {})))
        ends = _record("Ranges", dict.fromkeys(labels, (_pair(_Share), {})))
        parts["probabilities"] = base, ...
    if task.is_classification:
        parts["predicted"] = Literal[tuple(labels)], ...  # type: ignore[valid-type]
    parts["base"] = base, Field(description="The training cases' average: what is said of a case nothing is known of")
    still: Any = create_model(
        "StillOpen",
        variability=(float, Field(description="Expected change if everything that is absent is looked at")),
        range=(  # type: ignore[arg-type]
            ends | None,
            Field(description="Middle nine tenths of what may be predicted when all has been looked at"),
        ),
        plausible=(list[str] | None, Field(description="Classes that may come out on top then")),
        by_modality=(dict[str, float], Field(description="Expected change if this one is looked at next")),
        how=(str, Field(description="Where the values that may come are taken from")),
    )
    return create_model(
        "Answer",
        prediction=(create_model("Prediction", **parts), ...),
        observed=(list[str], ...),
        absent=(list[str], ...),
        still_open=(  # type: ignore[arg-type]
            still | None,
            Field(description="What the absent modalities could still change; null if not known"),
        ),
        notes=(list[str], ...),
    )


def without_references(schema: Any, known: Mapping[str, Any]) -> Any:
    """A schema with its references replaced by what they name.

    Args:
        schema: As JSON.
        known: Schemas by the last part of a reference.
    """
    if isinstance(schema, list):
        return [without_references(part, known) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    if "$ref" in schema:
        return without_references(known[str(schema["$ref"]).rpartition("/")[2]], known)
    return {key: without_references(part, known) for key, part in schema.items() if key != "$defs"}


def _record(name: str, fields: Mapping[str, tuple[Any, dict[str, Any]]]) -> type[BaseModel]:
    """A model whose fields are named as columns and classes are: of each its type, and what `Field` says of it."""
    named: dict[str, Any] = {
        f"field_{place}": (kind, Field(alias=field, title=field, **said))
        for place, (field, (kind, said)) in enumerate(fields.items())
    }
    return create_model(name, __config__=_CLOSED, **named)


def _pair(of: Any) -> Any:
    return Annotated[list[of], Field(min_length=2, max_length=2)]  # type: ignore[valid-type]


def _value(source: Source) -> Any:
    one, rule = _one(source), source.set_rule()
    return one | Annotated[list[one], Field(max_length=rule.most)] if rule else one


def _one(source: Source) -> Any:
    if isinstance(source, Tabular):
        return _record(source.name, {c.name: _cell(c) for c in source.fields})
    if isinstance(source, Text):
        return str
    if isinstance(source, Events):
        names = tuple(variable.name for variable in source.variables)
        event = create_model(
            f"{source.name} event",
            time=(float, ...),
            variable=(Literal[names], ...),  # type: ignore[valid-type]
            value=(float, ...),
            units=(str, Field("")),
        )
        return list[event]  # type: ignore[valid-type]
    if isinstance(source, Array):
        numbers: Any = float
        for size in reversed(source.shape):
            numbers = Annotated[list[numbers], Field(max_length=size)]  # type: ignore[valid-type]
        return _File | numbers
    return _File


def _cell(column: Column) -> tuple[Any, dict[str, Any]]:
    if column.type == "number":
        return float | str | None, {"default": None, "description": column.units or "A number"}
    examples = list(column.categories or ()) if column.type == "category" and not column.other else None
    return str | float | None, {"default": None, "examples": examples}
