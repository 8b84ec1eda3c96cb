"""Requests and answers as JSON Schema, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from amodal.data.table import TableSchema
from amodal.data.table.array import Array
from amodal.data.table.column import Column
from amodal.data.table.events import Events
from amodal.data.table.source import Source
from amodal.data.table.tabular import Tabular
from amodal.data.table.text import Text
from amodal.schema import Task

__all__ = ["error_response", "prediction_response", "request_body"]


def request_body(rules: TableSchema) -> dict[str, Any]:
    """The body of /predict, as JSON or as a form; every part of it is optional."""
    as_json = {source.name: {"anyOf": [_value(source), {"type": "null"}]} for source in rules.sources}
    as_form: dict[str, Any] = {}
    for source in rules.sources:
        if isinstance(source, Tabular):
            as_form |= {f"{source.name}.{c.name}": {"type": "string"} for c in source.fields}
        elif isinstance(source, Text):
            as_form[source.name] = {"type": "string"}
        elif isinstance(source, Events):
            as_form[source.name] = {"type": "string", "description": "JSON, as in the other form of the body"}
        else:
            as_form[source.name] = {"type": "string", "format": "binary"}
        if source.set_rule():
            as_form[source.name] = {"type": "array", "items": as_form[source.name], "maxItems": source.set_rule().most}
    return {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": as_json, "additionalProperties": False},
            },
            "multipart/form-data": {
                "schema": {"type": "object", "properties": as_form, "additionalProperties": False},
            },
        },
    }


def prediction_response(task: Task) -> dict[str, Any]:
    """The answer of /predict."""
    number: dict[str, Any] = {"type": "number"}
    share = number | {"minimum": -1e-6, "maximum": 1 + 1e-6}
    shares = {
        "type": "object",
        "properties": {str(label): share for label in task.classes},
        "required": [str(label) for label in task.classes],
    }
    parts: dict[str, Any] = {"name": {"type": "string"}}
    if task.traits.one_value:
        parts |= {"value": number, "units": {"type": "string"}}
    else:
        parts["probabilities"] = shares
    if task.is_classification:
        parts["predicted"] = {"type": "string", "enum": [str(label) for label in task.classes]}
    names = {"type": "array", "items": {"type": "string"}}
    body = {
        "type": "object",
        "properties": {
            "prediction": {"type": "object", "properties": parts, "required": list(parts)},
            "observed": names,
            "absent": names,
            "notes": names,
        },
        "required": ["prediction", "observed", "absent", "notes"],
    }
    return {"description": "The prediction.", "content": {"application/json": {"schema": body}}}


def error_response(what: str) -> dict[str, Any]:
    """An error: which field, and what is wrong with it."""
    error = {
        "type": "object",
        "properties": {"field": {"type": ["string", "null"]}, "problem": {"type": "string"}},
        "required": ["field", "problem"],
    }
    body = {"type": "object", "properties": {"error": error}, "required": ["error"]}
    return {"description": what, "content": {"application/json": {"schema": body}}}


def _value(source: Source) -> dict[str, Any]:
    one, most = _one(source), source.set_rule().most
    return {"anyOf": [one, {"type": "array", "items": one, "maxItems": most}]} if source.set_rule() else one


def _one(source: Source) -> dict[str, Any]:
    if isinstance(source, Tabular):
        columns = {c.name: {"anyOf": [_cell(c), {"type": "null"}]} for c in source.fields}
        return {"type": "object", "properties": columns, "additionalProperties": False}
    if isinstance(source, Text):
        return {"type": "string"}
    if isinstance(source, Events):
        event = {
            "type": "object",
            "properties": {
                "time": {"type": "number"},
                "variable": {"type": "string", "enum": [variable.name for variable in source.variables]},
                "value": {"type": "number"},
                "units": {"type": "string"},
            },
            "required": ["time", "variable", "value"],
        }
        return {"type": "array", "items": event}
    file = {"type": "string", "format": "byte", "description": "The file's bytes as base64"}
    if isinstance(source, Array):
        numbers: dict[str, Any] = {"type": "number"}
        for size in reversed(source.shape):
            numbers = {"type": "array", "items": numbers, "maxItems": size}
        return {"anyOf": [file, numbers]}
    return file


def _cell(column: Column) -> dict[str, Any]:
    if column.type == "number":
        return {"type": ["number", "string"], "description": column.units or "A number"}
    if column.type == "category" and not column.other:
        return {"type": ["string", "number"], "examples": list(column.categories or ())}
    return {"type": ["string", "number"]}
