"""Ids, groups, presence and targets: what is taken, and every refusal by its words."""

import numpy as np
import pandas as pd
import pytest

from amodal.data.columns import read_column, read_names, read_presence, read_target
from amodal.errors import DataError, ShapeError, UnknownNameError
from amodal.schema import Task

IDS = np.array(["p", "q", "r"])
DEATH = Task("binary", name="death", classes=("survived", "died"))
NAN = np.nan


@pytest.mark.parametrize(
    ("task", "given", "positions"),
    [
        (DEATH, ["died", "survived", "died"], [1, 0, 1]),
        (DEATH, np.array(["died", "survived", "died"], dtype=object), [1, 0, 1]),
        (DEATH, [1, 0, 1], [1, 0, 1]),
        (DEATH, [True, False, True], [1, 0, 1]),
        (Task("binary", classes=(False, True)), [1, 0, 1], [1, 0, 1]),
        (Task("multiclass", classes=(3, 5, 9)), [9, 3, 5], [2, 0, 1]),
        (Task("multiclass", classes=(3, 5, 9)), np.array([9.0, 3.0, 5.0]), [2, 0, 1]),
        (Task("multiclass", classes=("1", "2")), ["2", "1", "1"], [1, 0, 0]),
        (DEATH, pd.Series(["died", "survived", "died"], dtype="category"), [1, 0, 1]),
    ],
)
def test_labels_become_positions(task, given, positions):
    target = read_target(given, task, IDS)
    assert target.tolist() == positions
    assert target.dtype == np.int64


def test_labels_may_be_unknown_one_by_one():
    task = Task("multilabel", classes=("a", "b"))
    target = read_target([[0, NAN], [1, 1], [NAN, NAN]], task, IDS)
    np.testing.assert_array_equal(target, np.float32([[0, NAN], [1, 1], [NAN, NAN]]))
    assert target.dtype == np.float32
    assert read_target(np.ones((3, 2), bool), task, IDS).tolist() == [[1, 1]] * 3


def test_values_of_a_regression():
    target = read_target([1, 2.5, -3], Task("regression"), IDS)
    assert (target.tolist(), target.dtype) == ([1, 2.5, -3], np.float32)


@pytest.mark.parametrize(
    ("task", "given", "read"),
    [
        (DEATH, ["died", None, "survived"], [1, -1, 0]),
        (DEATH, ["died", NAN, "survived"], [1, -1, 0]),
        (DEATH, ["died", pd.NA, pd.NaT], [1, -1, -1]),
        (DEATH, pd.array([1, None, 0], dtype="Int64"), [1, -1, 0]),
        (DEATH, np.array([0, NAN, NAN]), [0, -1, -1]),
        (DEATH, [0, -1, 1], [0, -1, 1]),  # as a cohort holds it, and pandas' codes
        (Task("multiclass", classes=(1, 2)), [1, None, 2], [0, -1, 1]),
        (Task("multilabel", classes=("a", "b")), [[0, 1], [None, pd.NA], [1, NAN]], [[0, 1], [NAN] * 2, [1, NAN]]),
        (Task("regression"), [1, None, NAN], [1, NAN, NAN]),
        (Task("regression"), pd.array([1.5, None, 0], dtype="Float64"), [1.5, NAN, 0]),
    ],
)
def test_unknown_targets(task, given, read):
    np.testing.assert_array_equal(read_target(given, task, IDS), read)


@pytest.mark.parametrize(
    ("task", "given", "kind", "words"),
    [
        (
            DEATH,
            ["died", "alive", "survived"],
            DataError,
            "has a class that the task does not have, in rows: q .expected one of 'survived', 'died', got 'alive'",
        ),
        (DEATH, [0, 1, 2], DataError, "in rows: r .*got 2"),
        (DEATH, [0, -2, 1], DataError, "in rows: q .*got -2.*Write None where it is unknown"),
        (Task("multiclass", classes=(1, 2)), [1, -1, 2], DataError, "in rows: q .*got -1"),
        (Task("multiclass", classes=(1, 2)), [1, 2, 0], DataError, "in rows: r .expected one of 1, 2, got 0"),
        (Task("multiclass", classes=(1, 2)), ["1", "2", "1"], DataError, "in rows: p, q, r .*got '1'"),
        (DEATH, np.array([0.5, 0, 1]), DataError, "in rows: p"),
        (DEATH, [(1,), (0,), (1,)], ShapeError, r"another shape .expected \(3,\), got \(3, 1\)"),
        (DEATH, [1, 0], ShapeError, r"'death' has another shape .expected \(3,\)"),
        (Task("multilabel", classes=("a", "b")), [1, 0, 1], ShapeError, r"expected \(3, 2\)"),
        (Task("multilabel", classes=("a", "b")), [[0, 1], [0, 2], [1, 1]], DataError, "label 'b' of row q .*got 2"),
        (
            Task("regression"),
            [1, NAN, np.inf],
            DataError,
            "is infinite in rows: r .expected finite numbers of 32 bits.*or NaN",
        ),
        (Task("regression"), [1, 1e300, 2], DataError, "is infinite in rows: q .*got 1e.300"),
        (Task("regression"), ["1 day", "2", "3"], DataError, "is not numeric"),
    ],
)
def test_targets_that_cannot_be_used(task, given, kind, words):
    with pytest.raises(kind, match=words):
        read_target(given, task, IDS)


def test_names_of_rows():
    assert read_names("ids", [10, 20, 3], 3).tolist() == ["10", "20", "3"]
    assert read_names("ids", np.array(["a", 2, "c"], dtype=object), 3).tolist() == ["a", "2", "c"]
    assert read_names("splits", ["", "a", ""], 3, allow_empty=True).tolist() == ["", "a", ""]


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ([1, 2], ShapeError, r"ids have another number of rows .expected \(3,\)"),
        (np.array(["a", None, "c"], dtype=object), DataError, "ids must be strings or integers, none missing: row 1"),
        (["a", NAN, "c"], DataError, "none missing: row 1 .got nan"),
        (np.array([1, NAN, 3]), DataError, "ids must be strings or integers, none missing: row 0 .*float64"),
        (["a", "", "c"], DataError, "ids has an empty entry: row 1"),
    ],
)
def test_names_that_cannot_be_used(given, kind, words):
    with pytest.raises(kind, match=words):
        read_names("ids", given, 3)


def test_presence_as_a_table_or_by_name():
    table = np.array([[True, False], [False, True], [True, True]])
    for given in (table, {"a": table[:, 0], "b": table[:, 1]}):
        presence = read_presence(given, ("a", "b"), 3)
        assert {name: column.tolist() for name, column in presence.items()} == {
            "a": [True, False, True],
            "b": [False, True, True],
        }
    assert read_presence({"b": table[:, 1]}, ("a", "b"), 3).keys() == {"b"}
    assert read_presence(None, ("a",), 3) == {}


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (
            np.ones((3, 2)),
            ShapeError,
            r"observed must be bool .* row and modality .expected bool \(3, 2\), got float64",
        ),
        (np.ones((3, 1), bool), ShapeError, r"got bool \(3, 1\)"),
        ({"a": np.ones(2, bool)}, ShapeError, r"observed\['a'\] must be bool"),
        ({"c": np.ones(3, bool)}, UnknownNameError, "unknown modality in `observed` 'c'"),
    ],
)
def test_presence_that_cannot_be_used(given, kind, words):
    with pytest.raises(kind, match=words):
        read_presence(given, ("a", "b"), 3)


def test_extra_columns():
    assert read_column("age", [1.5, 2, 3], 3).tolist() == [1.5, 2, 3]
    assert read_column("sex", np.array(["m", "f", "f"], dtype=object), 3).dtype.kind == "U"
    with pytest.raises(DataError, match="extra column 'sex' has dtype object"):
        read_column("sex", np.array(["m", None, "f"], dtype=object), 3)
    with pytest.raises(ShapeError, match="extra column 'age' has another shape"):
        read_column("age", [1, 2], 3)
