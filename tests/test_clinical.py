"""By label, at thresholds and by group: rows are those they claim to be, and differences are paired by patient."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from amodal.clinical import (
    Predicted,
    absence_by_group,
    at_thresholds,
    by_group,
    by_label,
    calibration_table,
    decision_curve,
)
from amodal.errors import ConfigurationError, DataError, ShapeError
from amodal.schema import Task

N = 240


def made(kind: str = "binary", seed: int = 0) -> Predicted:
    rng = np.random.default_rng(seed)
    risk = rng.uniform(0.02, 0.98, (N, 3))
    groups, observed = np.array([f"p{i // 2}" for i in range(N)]), rng.random((N, 2)) < 0.7
    if kind == "binary":
        p = np.stack([1 - risk[:, 0], risk[:, 0]], 1)
        target, task = (rng.random(N) < risk[:, 0]).astype(int), Task("binary", classes=("well", "ill"))
    elif kind == "multiclass":
        p = risk / risk.sum(1, keepdims=True)
        target = np.array([rng.choice(3, p=row) for row in p])
        task = Task("multiclass", classes=("a", "b", "c"))
    else:
        p, target = risk, (rng.random((N, 3)) < risk).astype(float)
        target[::7, 1] = np.nan
        task = Task("multilabel", classes=("x", "y", "z"))
    return Predicted(task, p, target, groups, observed, ("labs", "scan"), resamples=200)


def test_each_label_has_the_numbers_of_its_known_rows():
    predicted = made("multilabel")
    table = by_label(predicted, ["auroc"]).set_index("label")
    known = ~np.isnan(predicted.target[:, 1])
    assert table.loc["y", "n"] == known.sum() < N
    expected = roc_auc_score(predicted.target[known, 1], predicted.predictions[known, 1])
    assert table.loc["y", "auroc"] == pytest.approx(expected)
    assert (table["auroc_low"] < table["auroc"]).all()
    assert (table["auroc"] < table["auroc_high"]).all()
    assert by_label(made()).loc[0, "label"] == "ill"
    assert by_label(made("multiclass"))["label"].tolist() == ["a", "b", "c"]


def test_thresholds_curve_and_calibration_agree_with_one_another():
    predicted = made()
    rates = at_thresholds(predicted, [0.3]).iloc[0]
    curve = decision_curve(predicted, [0.3]).iloc[0]
    prevalence = predicted.target.mean()
    benefit = rates["sensitivity"] * prevalence - (1 - rates["specificity"]) * (1 - prevalence) * 0.3 / 0.7
    assert curve["model"] == pytest.approx(benefit)
    assert curve["gain"] == pytest.approx(curve["model"] - max(curve["all"], 0))
    assert rates["sensitivity_low"] < rates["sensitivity"] < rates["sensitivity_high"]
    fit = calibration_table(predicted).iloc[0]
    assert fit["slope_low"] < 1 < fit["slope_high"], "the risks are true"
    assert fit["intercept_low"] < 0 < fit["intercept_high"]
    assert fit["observed_over_expected"] == pytest.approx(1, abs=0.15)
    assert len(decision_curve(made("multilabel"))) == 3 * 99


def test_groups_their_absence_and_differences():
    predicted = made()
    sex = np.where(np.arange(N) // 2 % 3 == 0, "f", "m")
    worse = predicted.predictions.copy()
    worse[sex == "f"] = worse[sex == "f"][:, ::-1]  # the model is upside down for one group
    table = by_group(predicted._replace(predictions=worse), sex, ["auroc"]).set_index("group")
    assert table.loc["f", "value"] == pytest.approx(roc_auc_score(predicted.target[sex == "f"], worse[sex == "f", 1]))
    assert table.loc["f", "difference"] == pytest.approx(table.loc["f", "value"] - table.loc["m", "value"])
    assert table.loc["f", "difference_high"] < 0
    assert table.loc["f", "p_value"] < 0.05
    assert table.loc["f", "reference"] == "m"
    assert np.isnan(table.loc["m", "difference"])
    absent = absence_by_group(predicted, sex).set_index("group")
    assert absent.loc["f", "labs"] == pytest.approx((~predicted.observed[sex == "f", 0]).mean())
    assert absent.loc["f", "patients"] == 40


def test_numbers_become_bands_and_small_groups_are_said_to_be_small():
    predicted, age = made(), np.linspace(20, 99, N)
    table = by_group(predicted, age, ["accuracy"], bands=(40, 98))
    assert table["group"].tolist() == ["below 40", "40 to 98", "98 and above"]
    small = table.iloc[2]
    assert small["note"] == "fewer than 10 patients: no interval"
    assert np.isnan([small["value_low"], small["difference_low"], small["p_value"]]).all()
    assert not np.isnan(small["value"])
    assert len(absence_by_group(predicted, age)) == 4
    site = pd.Series(["a", "b", None] * (N // 3))
    assert by_group(predicted, site, ["accuracy"])["group"].tolist() == ["a", "b", "unknown"]
    with pytest.raises(ShapeError, match="`by` has another number of rows .expected 240, got 3"):
        by_group(predicted, ["a", "b", "c"])


def test_a_regression_has_groups_and_no_risks():
    rng = np.random.default_rng(0)
    predicted = made()._replace(task=Task("regression"), predictions=rng.normal(size=N), target=rng.normal(size=N))
    assert by_group(predicted, np.arange(N) % 2)["metric"].unique().tolist() == ["mae"]
    with pytest.raises(ConfigurationError, match="a regression has no risks"):
        at_thresholds(predicted)


@pytest.mark.parametrize(
    ("by", "sizes"),
    [
        (["unknown", "M", None, ""] * 60, {"M": 60, "unknown": 180}),
        (pd.Series([1, None] * 120, dtype="Int64"), {"1": 120, "unknown": 120}),
        (pd.Categorical(["10-20", "5-10"] * 120, ["5-10", "10-20"]), {"5-10": 120, "10-20": 120}),
        ([1, "1"] * 120, {"1": 240}),
        ([np.nan] * N, {"unknown": N}),
        ([np.inf] * 40 + [*range(200)], None),
        (1.6e9 + np.arange(N) * 0.1, None),
    ],
)
def test_every_case_is_in_one_group(by: object, sizes: dict | None):
    table = absence_by_group(made(), by)
    assert table["n"].sum() == N
    assert table["group"].is_unique
    if sizes is not None:
        assert dict(zip(table["group"], table["n"])) == sizes


def test_columns_of_pandas_are_aligned_by_the_cases_ids():
    predicted = made()._replace(ids=np.array([f"case{i}" for i in range(N)]))
    sex = pd.Series(np.where(np.arange(N) < 80, "f", "m"), index=predicted.ids)
    expected = absence_by_group(predicted, sex.to_numpy())
    pd.testing.assert_frame_equal(absence_by_group(predicted, sex.sample(frac=1, random_state=0)), expected)
    pd.testing.assert_frame_equal(absence_by_group(predicted, sex.reset_index(drop=True)), expected)
    with pytest.raises(DataError, match="by cannot be aligned.*to_numpy"):
        absence_by_group(predicted, sex.set_axis(range(7, N + 7)))
    with pytest.raises(DataError, match="by has no entry for rows of X: case0"):
        absence_by_group(predicted, sex.iloc[1:])


@pytest.mark.parametrize("bands", [[60.0, 30.0], [30.0, 30.0], [np.nan], []])
def test_bands_that_are_none_are_refused(bands: list):
    with pytest.raises(ConfigurationError, match="bands need edges in increasing order"):
        absence_by_group(made(), np.arange(float(N)), bands=bands)


def test_where_all_resamples_agree_there_is_no_interval():
    predicted = made()
    row = at_thresholds(predicted, [0.0]).iloc[0]
    assert row["sensitivity"] == 1
    assert np.isnan(row["sensitivity_low"])
    same = predicted._replace(predictions=np.tile([0.6, 0.4], (N, 1)))
    assert np.isnan(calibration_table(same).loc[0, "slope"])
    assert np.isfinite(calibration_table(same).loc[0, "intercept"])
