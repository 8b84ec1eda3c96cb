"""What a schema accepts, refuses, and that it survives JSON."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amodal.errors import ConfigurationError, SchemaError, UnknownNameError
from amodal.schema import Modality, Schema, Task

VITALS = Modality("vitals", "series", (48, 2), features=("HR", "Temp"), units=("1/min", "degC"), description="d")
XRAY = Modality("x-ray", "image", (3, 8, 8))
NOTE = Modality("note", "text", ())
LABS = Modality("labs", "tabular", (5,))


@pytest.mark.parametrize(("modality", "width"), [(VITALS, 2), (XRAY, 3), (NOTE, 1), (LABS, 5)])
def test_number_of_features_by_kind(modality, width):
    assert modality.n_features == width


@pytest.mark.parametrize(
    "task",
    [
        Task("binary", name="death", classes=("no", "yes")),
        Task("multiclass", classes=tuple(range(10))),
        Task("multilabel", classes=("a", "b", "c")),
        Task("regression", name="stay", units="days", bins=(1, 2, 7)),
        Task("binary", classes=(False, True)),
    ],
)
def test_schema_survives_json(task):
    schema = Schema((VITALS, XRAY, NOTE, LABS), task)
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


def test_labels_of_numpy_become_plain():
    task = Task("multiclass", classes=tuple(np.unique(["b", "a", "c"])))
    assert json.loads(json.dumps(task.to_json()))["classes"] == ["a", "b", "c"]
    assert [type(c) for c in Task("binary", classes=tuple(np.arange(2))).classes] == [int, int]
    assert Task("binary", classes=tuple(np.array([False, True]))).classes == (False, True)


@pytest.mark.parametrize("label", [0.5, None, ("a",), np.float64(1.0)])
def test_labels_of_other_types_are_refused(label):
    with pytest.raises(SchemaError, match="another type .*strings, integers or booleans"):
        Task("binary", classes=(label, "x"))


@pytest.mark.parametrize(
    ("kind", "n", "outputs", "classification"),
    [("binary", 2, 2, True), ("multiclass", 4, 4, True), ("multilabel", 3, 3, False), ("regression", 0, 1, False)],
)
def test_outputs_by_kind_of_task(kind, n, outputs, classification):
    task = Task(kind, classes=tuple(range(n)))
    assert (task.n_outputs, task.is_classification) == (outputs, classification)


@pytest.mark.parametrize(
    ("kind", "classes", "words"),
    [
        ("binary", ("a",), "do not fit a binary task .*expected two distinct classes"),
        ("binary", ("a", "b", "c"), "expected two distinct"),
        ("binary", ("a", "a"), "expected two distinct"),
        ("multiclass", ("a",), "expected two or more distinct"),
        ("multilabel", (), "expected one or more distinct"),
        ("regression", ("a",), "expected no distinct classes"),
    ],
)
def test_classes_must_fit_the_kind(kind, classes, words):
    with pytest.raises(SchemaError, match=words):
        Task(kind, classes=classes)


@pytest.mark.parametrize("bins", [(1, 1), (2, 1), (0, float("nan"), 1), (0, float("inf"))])
def test_bins_must_increase_and_be_finite(bins):
    with pytest.raises(SchemaError, match="increasing inner edges"):
        Task("regression", bins=bins)


def test_bins_are_for_regression_only():
    with pytest.raises(SchemaError, match="of a regression target"):
        Task("binary", classes=("a", "b"), bins=(1,))


@pytest.mark.parametrize("name", ["", "1st", "a b", "a/b", "../a", "a\n", "é", "a.b"])
def test_names_that_are_no_file_names_are_refused(name):
    with pytest.raises(SchemaError, match="letters, digits, _ and -"):
        Modality(name, "tabular", (1,))


@pytest.mark.parametrize(
    ("kind", "shape", "words"),
    [
        ("tabular", (2, 3), r"expected \(D,\)"),
        ("series", (3,), r"expected \(T, D\)"),
        ("image", (8, 8), r"expected \(C, H, W\)"),
        ("text", (5,), r"expected \(\)"),
        ("tabular", (0,), "positive sizes"),
    ],
)
def test_shape_must_be_that_of_the_kind(kind, shape, words):
    with pytest.raises(SchemaError, match=f"modality 'm' .*{words}"):
        Modality("m", kind, shape)


def test_sizes_are_whole_numbers():
    with pytest.raises(TypeError):
        Modality("m", "tabular", (2.5,))
    assert Modality("m", "tabular", (np.int64(2),)).shape == (2,)


@pytest.mark.parametrize("what", ["features", "units"])
def test_numbers_of_features_and_units(what):
    with pytest.raises(SchemaError, match=f"another number of {what} .expected 2, got 1"):
        Modality("m", "series", (4, 2), **{what: ("only one",)})


def test_unknown_kinds_are_named():
    with pytest.raises(UnknownNameError, match="unknown kind of modality 'imgae' .*Did you mean 'image'"):
        Modality("m", "imgae", (1,))
    with pytest.raises(UnknownNameError, match="unknown kind of task 'ordinal'"):
        Task("ordinal")


def test_schema_refuses_none_and_twice():
    with pytest.raises(SchemaError, match="at least one modality"):
        Schema((), Task("regression"))
    with pytest.raises(SchemaError, match="the same name: labs"):
        Schema((LABS, XRAY, LABS), Task("regression"))


def test_schema_by_name():
    schema = Schema((LABS, XRAY), Task("regression"))
    assert schema["x-ray"] is XRAY
    with pytest.raises(UnknownNameError, match="unknown modality 'xray' .*Did you mean 'x-ray'"):
        schema.check_names(["labs", "xray"])


@pytest.mark.parametrize("version", [2, None, "1"])
def test_newer_format_is_refused(version):
    record = Schema((LABS,), Task("regression")).to_json() | {"format": version}
    with pytest.raises(SchemaError, match="not readable .*Update amodal"):
        Schema.from_json(record)


def test_records_with_other_keys_are_refused():
    record = Schema((LABS,), Task("regression")).to_json()
    with pytest.raises(SchemaError, match="expected modalities and task"):
        Schema.from_json({"format": 1})
    with pytest.raises(SchemaError, match="record of a modality has other keys .*'shape'"):
        Schema.from_json(record | {"modalities": [{"name": "labs", "kind": "tabular"}]})
    with pytest.raises(SchemaError, match="record of a task has other keys"):
        Schema.from_json(record | {"task": {"kind": "regression", "colour": "red"}})


@given(st.from_regex(r"[A-Za-z_][A-Za-z0-9_\-]*", fullmatch=True), st.integers(1, 9), st.integers(1, 9))
def test_any_legal_modality_survives_json(name, steps, width):
    modality = Modality(name, "series", (steps, width), tuple(f"f{i}" for i in range(width)))
    assert Modality.from_json(json.loads(json.dumps(modality.to_json()))) == modality


def test_roles_divide_the_modalities_in_the_order_of_the_schema():
    modalities = tuple(Modality(name, "tabular", (2,)) for name in ("age", "ct", "mri"))
    schema = Schema(modalities, Task("regression"))
    roles = schema.roles(["mri", "age"])
    assert (roles.maskable, roles.maskable_columns, roles.always_columns) == (("ct",), [1], [0, 2])
    assert schema.roles().maskable == schema.names
    with pytest.raises(ConfigurationError, match="primo needs a modality that may be missing"):
        schema.roles(schema.names).check_maskable("primo")
    with pytest.raises(UnknownNameError, match="pet"):
        schema.roles(["pet"])
