"""The JSON Schema for editors takes what the readers take and refuses what they refuse."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from data.test_table_bad_input import SCHEMA

from amodal.cli import main
from amodal.data.table.json_schema import json_schema
from amodal.data.table.schema import SOURCES, TableSchema
from amodal.errors import SchemaError

jsonschema_rs = pytest.importorskip("jsonschema_rs")
EXAMPLES = Path(__file__).parents[3] / "src" / "amodal" / "data" / "table" / "examples"


@pytest.fixture(scope="module")
def validator() -> Any:
    return jsonschema_rs.validator_for(json_schema())


@pytest.mark.parametrize("name", [path.stem for path in sorted(EXAMPLES.glob("*.yaml"))])
def test_examples_are_valid_also_as_they_are_written_back(
    name: str, validator: Any, capsys: pytest.CaptureFixture[str]
):
    assert main(["data", "example", name]) == 0
    record = yaml.safe_load(capsys.readouterr().out)
    assert [error.message for error in validator.iter_errors(record)] == []
    assert [e.message for e in validator.iter_errors(TableSchema.from_json(record).to_json())] == []


VALID: list[dict[str, Any]] = [
    {},
    {"split": "fold", "missing": ["", "?"], "decimal": ",", "ignore_case": True},
    {"split": {"column": "site", "values": {"A": "train", "B": "test"}}},
    {"task": {"kind": "regression", "column": "days", "units": "days", "bins": [1, 2]}},
    {"task": {"kind": "multilabel", "columns": {"A": {"column": "a", "yes": [1]}, "B": "b"}}},
    {"modalities": {"x": {"kind": "image", "column": "f", "size": [8, 8], "range": [0, 4095], "separator": ";"}}},
    {"modalities": {"x": {"kind": "array", "as": "image", "file": "b.npz", "key": "x", "ids": "n"}}},
    {"modalities": {"x": {"kind": "tabular", "columns": ["a", "b"]}}},
    {"modalities": {"x": {"kind": "tabular", "columns": {"a": None, "b": {"type": "duration", "units": "hours"}}}}},
]
INVALID: list[dict[str, Any]] = [
    {"gruop": "patient"},
    {"missing": 3},
    {"decimal": ";"},
    {"task": {"kind": "binary"}, "tsk": 1},
    {"task": {"kind": "regresion", "column": "y"}},
    {"modalities": {}},
    {"modalities": {"x": {"kind": "picture", "column": "f"}}},
    {"modalities": {"x": {"kind": "image"}}},
    {"modalities": {"x": {"kind": "image", "column": "f", "channels": "three"}}},
    {"modalities": {"x": {"kind": "text", "column": "f", "longest": 0}}},
    {"modalities": {"x": {"kind": "tabular", "columns": {"a": {"unit": "y"}}}}},
    {"modalities": {"x": {"kind": "tabular", "columns": {"a": {"type": "kategorie"}}}}},
]


@pytest.mark.parametrize("change", VALID)
def test_valid_ones(change: dict[str, Any], validator: Any):
    record = copy.deepcopy(SCHEMA) | change
    assert [error.message for error in validator.iter_errors(record)] == []
    TableSchema.from_json(record)


@pytest.mark.parametrize("change", INVALID)
def test_invalid_ones(change: dict[str, Any], validator: Any):
    record = copy.deepcopy(SCHEMA) | change
    assert not validator.is_valid(record)
    with pytest.raises(SchemaError):
        TableSchema.from_json(record)


def test_every_kind_is_there_with_what_its_keys_mean(tmp_path: Path):
    assert main(["data", "json_schema", "--out", str(tmp_path / "s.json")]) == 0
    found = json.loads((tmp_path / "s.json").read_text())
    kinds = {
        of["properties"]["kind"]["const"]: of
        for of in found["properties"]["modalities"]["additionalProperties"]["oneOf"]
    }
    assert set(kinds) == set(SOURCES)
    assert kinds["image"]["properties"]["depth"]["description"] == "Slices of a volume; 0 = no volume."
    assert kinds["image"]["required"] == ["kind", "column"]
    assert "jsonschema" in found["$schema"] or "json-schema.org" in found["$schema"]
