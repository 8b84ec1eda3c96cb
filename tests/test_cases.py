"""Cases: rows by position, inputs by name, and labels of pandas that decide which rows belong together."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import train_test_split

from amodal import Cases
from amodal.errors import DataError, SchemaError, ShapeError, UnknownNameError


def made(n: int = 6) -> Cases:
    values = np.arange(n * 2.0).reshape(n, 2)
    return Cases(
        {
            "array": values,
            "tensor": torch.from_numpy(values),
            "frame": pd.DataFrame(values, columns=["p", "q"]),
            "texts": [f"note {i}" for i in range(n)],
        }
    )


@pytest.mark.parametrize(
    "rows",
    [
        np.array([4, 1]),
        [4, 1],
        np.isin(np.arange(6), [1, 4]),
        slice(1, 5, 3),
        np.array([1, 1, 1]),
        np.zeros(0, int),
        [],
    ],
    ids=["positions", "list", "bool", "slice", "repeated", "none", "empty"],
)
def test_rows_are_those_of_numpy_for_every_kind_of_input(rows: object):
    cases, expected = made(), np.arange(12.0).reshape(6, 2)[rows]
    for taken in (cases[rows], cases[rows, ...], cases.iloc[rows], cases.take(rows)):
        assert taken.shape == (len(expected), 4)
        assert len(taken) == len(expected)
        np.testing.assert_array_equal(taken["array"], expected)
        np.testing.assert_array_equal(taken["tensor"].numpy(), expected)
        np.testing.assert_array_equal(taken["frame"].to_numpy(), expected)
        assert taken["texts"] == [f"note {int(row // 2)}" for row in expected[:, 0]]


def test_it_is_a_dictionary_of_its_inputs():
    cases = made()
    assert list(cases) == list(cases.keys()) == cases.columns == ["array", "tensor", "frame", "texts"]
    assert len(cases.keys()) == len(dict(cases)) == 4
    assert "array" in cases
    assert "arrays" not in cases
    with pytest.raises(UnknownNameError, match="unknown modality 'arry'.*Did you mean 'array'"):
        cases["arry"]
    assert repr(cases) == "<Cases: 6 cases, array, tensor, frame, texts>"
    with pytest.raises(TypeError, match="is no single array"):
        np.asarray(cases)


def test_one_input_is_replaced_in_a_copy_only():
    cases = made()
    copy = cases.copy()
    copy["array"] = copy.iloc[[5, 4, 3, 2, 1, 0], 0]
    np.testing.assert_array_equal(copy["array"], cases["array"][::-1])
    assert cases["array"][0, 0] == 0
    with pytest.raises(ShapeError, match="'array' has another number of rows"):
        copy["array"] = np.zeros((5, 2))


def test_labels_align_and_a_case_that_an_input_lacks_is_missing_there():
    labs = pd.DataFrame({"crp": [1.0, 2, 3]}, index=["ann", "bob", "cem"])
    note = pd.Series(["x", "y"], index=["cem", "dan"])
    cases = Cases({"labs": labs, "note": note})
    assert cases.index.tolist() == ["ann", "bob", "cem", "dan"]
    np.testing.assert_array_equal(cases["labs"]["crp"], [1, 2, 3, np.nan])
    assert cases["note"].isna().tolist() == [True, True, False, False]
    assert cases.align("y", pd.Series([4, 3, 2, 1], index=["dan", "cem", "bob", "ann"])).tolist() == [1, 2, 3, 4]
    assert cases.align("y", [1, 2, 3, 4]) == [1, 2, 3, 4]
    train, test = train_test_split(cases, random_state=0)
    assert train.index.tolist() == list(train["labs"].index)
    assert len(train) + len(test) == 4


A, B = pd.DataFrame({"v": [1.0, 2, 3]}, index=[7, 8, 9]), pd.DataFrame({"w": [1.0, 2, 3]}, index=[9, 8, 6])


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({}, SchemaError, "X has no modality"),
        ([1, 2], SchemaError, "X is not a dictionary of modalities"),
        (
            {"a": np.zeros((3, 1)), "b": np.zeros((2, 1))},
            ShapeError,
            "'b' has another number of rows .expected 3, got 2",
        ),
        ({"a": A, "b": B, "c": np.zeros((3, 1))}, DataError, "'c' has no row labels, and those of the others differ"),
        ({"a": A, "b": B.iloc[[0, 0, 1]]}, DataError, "'b' cannot be aligned: label 9 comes twice.*to_numpy"),
        ({"a": A, "b": B.reset_index(drop=True)}, DataError, "'[ab]' cannot be aligned: its row labels are of another"),
        ({"a": A, "b": B.set_axis(["p", "q", "r"])}, DataError, "'a' cannot be aligned: its row labels are of another"),
        (
            {"a": A.reset_index(drop=True), "b": B.iloc[:2].reset_index(drop=True)},
            ShapeError,
            "'b' has another number of rows",
        ),
        ({"a": 3.0}, ShapeError, "'a' has no rows .expected an array.*got float"),
    ],
)
def test_what_cannot_be_aligned_is_refused(given: object, kind: type, words: str):
    with pytest.raises(kind, match=words):
        Cases(given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([7, 8], "y has no entry for rows of X: 9"),
        ([7, 8, 9, 10], "y has entries of rows that no input has: 10"),
        ([7, 8, 8], "y cannot be aligned with X: label 8 comes twice"),
        (None, "y cannot be aligned with X: the row labels are of another kind .expected 7, 8, 9, got 0, 1, 2"),
    ],
)
def test_targets_that_cannot_be_aligned_are_refused(labels: list | None, words: str):
    y = pd.Series(np.arange(3 if labels is None else len(labels)), index=labels)
    with pytest.raises(DataError, match=words):
        Cases({"a": A}).align("y", y)


def test_shuffled_rows_find_their_targets_also_without_labels_of_their_own():
    frame = pd.DataFrame({"v": np.arange(5.0)})
    cases = Cases({"a": frame.sample(frac=1, random_state=0)})
    y = pd.Series(np.arange(5.0) * 10)
    np.testing.assert_array_equal(cases.align("y", y).to_numpy(), cases["a"]["v"].to_numpy() * 10)
