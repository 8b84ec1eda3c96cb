"""What a target is taken for: classes, labels or quantities, and every refusal by its words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from amodal.errors import DataError
from amodal.outcome import read_labels, read_numbers

B = np.arange(12) % 2


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (B, "int64"),
        (B.astype(np.int8), "int8"),
        (B.astype(float), "float64"),
        (B == 1, "bool"),
        (np.where(B, "a", "b"), "<U1"),
        (pd.Series(B, dtype="Int64"), "int64"),
        (pd.Series(np.where(B, "a", "b")).astype("category"), "object"),
        (torch.tensor(B), "int64"),
        (B.tolist(), "int64"),
    ],
    ids=["int", "int8", "float", "bool", "text", "nullable", "category", "tensor", "list"],
)
def test_labels_keep_their_type(given: object, dtype: str):
    outcome = read_labels(given)
    assert (outcome.task.kind, outcome.classes.dtype) == ("binary", np.dtype(dtype))
    assert len(outcome.target) == 12
    assert set(outcome.target) == set(outcome.task.classes)


def test_columns_name_labels_that_may_be_true_at_once():
    outcome = read_labels(pd.DataFrame({"aki": [0, 1, 1], "sepsis": [1, 1, None]}))
    assert (outcome.task.kind, outcome.task.classes) == ("multilabel", ("aki", "sepsis"))
    assert np.isnan(outcome.target[2, 1])
    with pytest.warns(
        UserWarning, match=r"shape \(12, 2\) is taken for 2 labels that may be true at once, and exactly"
    ):
        read_labels(np.c_[B, 1 - B])
    with pytest.warns(UserWarning, match="30 different values: they are taken for as many classes"):
        read_labels(np.arange(90) % 30)


@pytest.mark.parametrize("gap", [None, np.nan, pd.NA, pd.NaT])
@pytest.mark.parametrize("labels", [B, np.where(B, "a", "b"), B == 1], ids=["int", "text", "bool"])
def test_labels_that_are_not_known(labels: np.ndarray, gap: object):
    outcome = read_labels([*labels[:6].tolist(), gap, *labels[6:].tolist()])
    assert outcome.target[6] is None
    assert outcome.classes.tolist() == np.unique(labels).tolist()
    assert outcome.target[[*range(6), *range(7, 13)]].tolist() == labels.tolist()
    assert read_labels(pd.Series([0, 1, None, 1], dtype="Int64")).classes.dtype == int
    assert read_labels(np.array([np.int64(0), np.int64(1), None], dtype=object)).classes.dtype == int
    assert read_labels(pd.Series([0, 1, None, 1])).target.tolist() == [0, 1, None, 1]
    np.testing.assert_array_equal(read_numbers([0.5, gap, 2]).target, [0.5, np.nan, 2])


SURVIVAL = np.array([(True, 1.0), (False, 2.0)], dtype=[("event", bool), ("time", float)])


@pytest.mark.parametrize(
    ("read", "given", "words"),
    [
        (read_labels, None, "requires y to be passed, but the target y is None"),
        (read_labels, [1, "1"] * 3, "labels are of different types .expected one type, got int and str"),
        (read_labels, [None] * 12, "no target is known .*None, NaN or NA stand for"),
        (read_numbers, [np.nan] * 12, "no target is known"),
        (read_labels, np.linspace(0.1, 0.7, 12), "Unknown label type: continuous.*MissingModalityRegressor"),
        (read_labels, np.zeros(4), "there is one class only"),
        (read_labels, np.c_[B, B + 1], "Unknown label type: multiclass-multioutput.*taken for 2 labels a case"),
        (read_labels, np.c_[B, np.full(12, np.nan)], "labels never known in training: 1"),
        (read_labels, SURVIVAL, "y has fields event, time: a time with an event cannot be learned yet"),
        (read_numbers, SURVIVAL, "y has fields event, time"),
        (read_numbers, np.zeros((4, 2)), r"several numbers a case .*got \(4, 2\).*MultiOutputRegressor"),
        (read_numbers, ["a", "b"], "y is not numeric.*MissingModalityClassifier"),
        (read_numbers, pd.date_range("2020", periods=3), "y holds dates or durations.*unit of your own"),
        (read_numbers, pd.to_timedelta([1, 2], "h"), "y holds dates or durations"),
        (read_labels, [["a"], ["a", "b"]], "y is no column of targets.*MultiLabelBinarizer"),
        (read_labels, "abc", "y is no column of targets .*got str"),
        (read_labels, np.zeros((4, 2, 2)), r"y is no column of targets .*got shape \(4, 2, 2\)"),
        (read_labels, [b"a", b"b"], "labels are bytes .*Decode them"),
        (read_labels, np.array([["0", "1"], ["1", "0"]]), "Unknown label type.*taken for 2 labels"),
        (read_labels, np.array([0.0, 1.0, np.inf]), "Input y contains infinity"),
        (read_numbers, [1.0, np.inf], "Input y contains infinity"),
    ],
)
def test_refusals_by_their_words(read, given, words: str):
    with pytest.raises(DataError, match=words):
        read(given)
