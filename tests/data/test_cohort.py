"""Cohorts: columns, views, batches, scores, and what can be trained on."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from amodal.data import Cohort, check_trainable
from amodal.errors import ConfigurationError, DataError, SchemaError, ShapeError, UnknownNameError
from amodal.schema import Task

from .cohorts import N, assert_same_batch, mixed_cohort

ROWS = np.arange(N)
YES_NO = Task("binary", classes=("no", "yes"))


def small(**changes):
    parts = {"task": YES_NO, "target": [0, 1, 0, 1]}
    return Cohort.from_arrays({"a": np.ones((4, 2)), "b": np.ones((4, 3))}, **(parts | changes))


def test_a_cohort_knows_what_it_is_of():
    cohort = mixed_cohort()
    assert [(m.name, m.kind, m.shape) for m in cohort.schema.modalities] == [
        ("labs", "tabular", (3,)),
        ("vitals", "series", (5, 2)),
        ("waves", "series", (5, 1)),
        ("x-ray", "image", (1, 2, 2)),
        ("note", "text", ()),
    ]
    assert cohort.schema["vitals"].units == ("1/min", "degC")
    assert repr(cohort) == "<Cohort 'mixed': 40 samples, labs, vitals, waves, x-ray, note>"
    assert not cohort.observed[::7, 0].any()
    assert cohort.observed[:, 3].tolist() == (ROWS % 3 > 0).tolist()
    assert cohort.observed[:, 4].tolist() == (ROWS % 5 > 0).tolist()
    assert (len(cohort.split("train")), len(cohort.split("valid")), len(cohort.split("test"))) == (24, 6, 8)


def test_defaults_of_ids_groups_and_splits():
    cohort = small()
    assert cohort.ids.tolist() == cohort.groups.tolist() == ["0", "1", "2", "3"]
    assert cohort.splits.tolist() == [""] * 4
    assert small(target=None).target is None
    with pytest.raises(UnknownNameError, match="unknown split 'train' .expected none is defined"):
        cohort.split("train")


def test_a_batch_holds_what_a_row_by_row_reading_gives():
    cohort = mixed_cohort()
    rows = np.array([8, 3, 8, 21])
    batch = cohort.batch(rows)
    one_by_one = [cohort.batch(rows[i : i + 1]) for i in range(4)]
    assert batch.ids == ["stay08", "stay03", "stay08", "stay21"]
    for name in cohort.schema.names:
        for i, single in enumerate(one_by_one):
            width = single.values[name].shape[1]
            assert torch.equal(batch.values[name][i, :width], single.values[name][0])
            assert not batch.values[name][i, width:].any()
            assert batch.observed[name][i] == single.observed[name][0]
    assert batch.target.tolist() == cohort.target[rows].tolist()
    assert batch.values["x-ray"].dtype == torch.float32
    assert batch.values["note"].dtype == torch.uint8
    text = [bytes(v[:n].tolist()).decode() for v, n in zip(batch.values["note"], batch.lengths["note"])]
    assert text == ["", "é" * 3, "", "é"]
    assert batch.values["vitals"].shape == (4, 5, 2)


def test_measured_lengths_and_presence_have_three_names():
    cohort = mixed_cohort()
    batch = cohort.batch(ROWS)
    assert set(batch.measured) == {"labs", "vitals"}
    assert set(batch.lengths) == {"vitals", "waves", "note"}
    inside = torch.arange(5) < batch.lengths["vitals"][:, None]
    assert not batch.measured["vitals"][~inside].any()
    assert (batch.measured["vitals"].sum((1, 2)) > 0).sum() > 30
    np.testing.assert_array_equal(batch.presence.numpy(), cohort.observed)


def test_views_share_storage_and_compose():
    cohort = mixed_cohort()
    view = cohort.split("test").take(np.array([5, 0, 5])).take(np.array([True, True, False]))
    assert view.stores["labs"] is cohort.stores["labs"]
    assert view.ids.tolist() == ["stay35", "stay30"]
    assert view.extras["age"].tolist() == [35, 30]
    assert view.groups.tolist() == ["patient17", "patient15"]
    assert_same_batch(view.batch(np.arange(2)), cohort.batch(np.array([35, 30])))
    assert len(cohort.take(np.zeros(0, int))) == 0
    assert len(cohort.take([])) == 0


def test_presence_can_be_removed_and_never_added():
    cohort = mixed_cohort()
    presence = np.random.default_rng(0).random(cohort.observed.shape) < 0.5
    view = cohort.with_observed(presence)
    np.testing.assert_array_equal(view.observed, cohort.observed & presence)
    np.testing.assert_array_equal(view.with_observed(~presence).observed, np.zeros_like(presence))
    np.testing.assert_array_equal(cohort.observed, mixed_cohort().observed)
    batch = view.batch(ROWS)
    removed = ~torch.from_numpy(presence[:, 0])
    assert not batch.values["labs"][removed].any()
    assert not batch.measured["labs"][removed].any()
    for bad in (presence.astype(int), presence[:, :2], presence[:3]):
        with pytest.raises(ShapeError, match="presence must be bool"):
            cohort.with_observed(bad)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.array([0, N]), "out of range .expected 0 … 39, got 0 … 40"),
        (np.array([-1]), "out of range"),
        (np.array([0.5]), "rows must be integers"),
        (np.array([[0]]), "rows must be integers"),
        (np.ones(3, bool), "one entry for each row .expected 40"),
    ],
)
def test_rows_out_of_range_are_refused(rows, words):
    with pytest.raises(ShapeError, match=words):
        mixed_cohort().batch(rows)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"ids": ["x", "y", "x", "z"]}, DataError, "ids come more than once: x .expected distinct ids"),
        ({"ids": ["x", "y"]}, ShapeError, "ids have another number of rows"),
        (
            {"groups": [1, 1, 2, 3], "splits": ["train", "test", "train", "train"]},
            DataError,
            "group '1' is in two splits: 'train' and 'test'",
        ),
        ({"target": [0, 1, 0]}, ShapeError, "target 'target' has another shape"),
        ({"target": [0, 1, 0, 2]}, DataError, "has a class that the task does not have, in rows: 3"),
        ({"features": {"a": ["x"]}}, SchemaError, "modality 'a' has another number of features"),
        ({"features": {"c": ["x"]}}, UnknownNameError, "unknown modality in `features` 'c'"),
        ({"kinds": {"a": "series"}}, ShapeError, "modality 'a' has the wrong number of axes"),
        ({"kinds": ["tabular"]}, ConfigurationError, "`kinds` must map names of modalities"),
        ({"observed": np.ones((4, 3), bool)}, ShapeError, "observed must be bool"),
        ({"extras": {"age": [1]}}, ShapeError, "extra column 'age'"),
    ],
)
def test_columns_that_do_not_fit_are_refused_by_name(changes, kind, words):
    with pytest.raises(kind, match=words):
        small(**changes)


def test_modalities_that_do_not_fit_are_refused_by_name():
    for values, kind, words in [
        ({}, DataError, "at least one modality"),
        (
            {"a": np.ones((4, 2)), "b": np.ones((3, 2))},
            ShapeError,
            "modality 'b' has another number of rows .expected 4",
        ),
        ({"a b": np.ones((4, 2))}, SchemaError, "name is not usable .*'a b'"),
    ]:
        with pytest.raises(kind, match=words):
            Cohort.from_arrays(values, task=YES_NO)


def test_a_group_without_a_split_may_be_anywhere():
    assert small(groups=[1, 1, 2, 2], splits=["train", "", "", "test"]).splits.tolist() == ["train", "", "", "test"]


def test_scores_of_a_complete_table_are_means_of_standardised_features():
    values = np.random.default_rng(0).normal(size=(50, 4)) * [1, 10, 100, 1000] + [0, 5, -7, 1e4]
    cohort = Cohort.from_arrays({"t": values.astype(np.float32)}, task=Task("regression"))
    expected = StandardScaler().fit_transform(StandardScaler().fit_transform(values).mean(1, keepdims=True))
    np.testing.assert_allclose(cohort.scores(), expected, atol=1e-4)


def test_scores_are_standardised_over_present_rows_and_nan_where_absent():
    cohort = mixed_cohort().with_observed(np.random.default_rng(1).random((N, 5)) < 0.8)
    scores = cohort.scores()
    np.testing.assert_array_equal(np.isnan(scores), ~cohort.observed)
    np.testing.assert_allclose(np.nanmean(scores, 0), 0, atol=1e-9)
    np.testing.assert_allclose(np.nanstd(scores, 0), 1, atol=1e-9)
    lengths = cohort.batch(ROWS).lengths["note"].numpy()[cohort.observed[:, 4]]
    assert np.corrcoef(scores[cohort.observed[:, 4], 4], lengths)[0, 1] == pytest.approx(1)


def test_scores_do_not_depend_on_what_is_hidden():
    values = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    presence = np.arange(30) % 3 > 0
    other = values.copy()
    other[~presence] = 1e30
    one, two = (
        Cohort.from_arrays({"t": v}, task=Task("regression"), observed={"t": presence}).scores()
        for v in (values, other)
    )
    np.testing.assert_array_equal(one, two)


def test_scores_of_special_rows():
    values = np.array([[1.0, 1], [1, 1], [np.nan, np.nan]])
    cohort = Cohort.from_arrays({"t": values}, task=Task("regression"), observed={"t": np.ones(3, bool)})
    assert cohort.scores().ravel().tolist() == [0, 0, 0]  # constant, and present without any measured cell
    assert np.isnan(cohort.with_observed(np.zeros((3, 1), bool)).scores()).all()


def test_cuts_go_through_present_rows_once_in_order_of_storage(monkeypatch):
    monkeypatch.setattr("amodal.data.store.CHUNK_BYTES", 50)
    cohort = mixed_cohort().take(np.random.default_rng(0).permutation(N))
    chunks = [rows for rows, _ in cohort.cuts("labs")]
    assert len(chunks) > 5
    rows = np.concatenate(chunks)
    assert (np.diff(cohort.rows[rows]) > 0).all()
    assert sorted(rows) == np.flatnonzero(cohort.observed[:, 0]).tolist()
    with pytest.raises(UnknownNameError, match="unknown modality 'lab'.*Did you mean 'labs'"):
        next(iter(cohort.cuts("lab")))


@pytest.mark.parametrize(
    ("cohort", "words"),
    [
        (lambda: mixed_cohort().take([]), "the training split is empty"),
        (lambda: mixed_cohort(target=None), "have no target 'target'"),
        (lambda: mixed_cohort(target=np.ones(N, int)), "the same class of 'target' .*two classes, got 'yes'"),
        (
            lambda: mixed_cohort("multilabel", target=np.full((N, 3), np.nan)),
            "no label of 'target' is known",
        ),
        (
            lambda: mixed_cohort(observed={"x-ray": np.zeros(N, bool)}),
            "modalities never observed in training: x-ray. Leave them out",
        ),
        (
            lambda: mixed_cohort().with_observed(np.repeat(ROWS[:, None] > 2, 5, axis=1)),
            "no modality observed: stay00, stay01, stay02 .*Leave these samples out",
        ),
    ],
)
def test_what_cannot_be_trained_on(cohort, words):
    with pytest.raises(DataError, match=words):
        check_trainable(cohort())


def test_what_can_be_trained_on():
    for task in ("binary", "multilabel", "regression"):
        check_trainable(mixed_cohort(task))
    check_trainable(mixed_cohort().with_observed(np.repeat(ROWS[:, None] > 2, 5, axis=1)), allow_empty_rows=True)
