"""Weights of cases and classes: in fits, in metrics, in cohorts and in tables."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.utils.class_weight import compute_class_weight

import amodal
from amodal.data.cohort import Cohort
from amodal.data.table import prepare
from amodal.errors import ConfigurationError, DataError, UnknownNameError
from amodal.evaluation import compare, evaluate, evaluate_patterns
from amodal.schema import Task
from amodal.training.fit import _class_weights

SETTINGS = {"epochs": 2, "width": 4, "device": "cpu", "seed": 0}


def made(n=120, weight=None, target=None, seed=0):
    rng = np.random.default_rng(seed)
    target = (rng.random(n) < 0.2).astype(int) if target is None else target
    values = {name: rng.normal(size=(n, 2)) + target[:, None] for name in "ab"}
    return Cohort.from_arrays(
        values,
        task=Task("binary", classes=("no", "yes")),
        target=target,
        extras={} if weight is None else {"sample_weight": weight},
    )


def test_a_cohort_with_weights_is_fitted_as_with_the_argument():
    weight = np.random.default_rng(1).random(120)
    first = amodal.fit("fusion", made(weight=weight), **SETTINGS)
    second = amodal.fit("fusion", made(), weight=weight, **SETTINGS)
    other = amodal.fit("fusion", made(), **SETTINGS)
    test = made(seed=5)
    np.testing.assert_array_equal(first.predict(test), second.predict(test))
    assert np.abs(first.predict(test) - other.predict(test)).max() > 1e-4
    assert first.experiment["data"]["weight"] == second.experiment["data"]["weight"]


def test_balanced_weights_are_those_of_scikit_learn():
    cohort = made()
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=cohort.target)
    np.testing.assert_allclose(_class_weights(cohort, "balanced"), expected)
    np.testing.assert_array_equal(_class_weights(cohort, {"yes": 3}), [1, 3])


@pytest.mark.parametrize("method", ["fusion", "boosting"])
def test_balanced_classes_are_predicted_as_of_a_population_where_they_are(method):
    cohort, test = made(600), made(600, seed=3)
    plain = amodal.fit(method, cohort, **SETTINGS | {"epochs": 8}).predict(test)[:, 1].mean()
    balanced = (
        amodal.fit(method, cohort, class_weight="balanced", **SETTINGS | {"epochs": 8}).predict(test)[:, 1].mean()
    )
    assert abs(plain - 0.2) < 0.06
    assert balanced > plain + 0.1


def test_weights_multiply():
    cohort, weight = made(), np.linspace(0.5, 2, 120)
    both = amodal.fit("fusion", cohort, weight=weight, class_weight={"yes": 4}, **SETTINGS)
    one = amodal.fit("fusion", cohort, weight=weight * np.where(cohort.target == 1, 4, 1), **SETTINGS)
    np.testing.assert_array_equal(both.predict(cohort), one.predict(cohort))


@pytest.mark.parametrize(
    ("class_weight", "kind", "words"),
    [
        ("balance", UnknownNameError, "unknown class_weight 'balance'.*balanced"),
        ({"maybe": 2.0}, UnknownNameError, "unknown class 'maybe'.*no, yes"),
        ({"yes": -1.0}, DataError, "weight cannot be used"),
    ],
)
def test_wrong_class_weights_are_told(class_weight, kind, words):
    with pytest.raises(kind, match=words):
        amodal.fit("fusion", made(), class_weight=class_weight, **SETTINGS)


def test_numbers_have_no_classes():
    cohort = Cohort.from_arrays({"a": np.eye(20)}, task=Task("regression"), target=np.arange(20.0))
    with pytest.raises(ConfigurationError, match="class_weight is for classes"):
        amodal.fit("fusion", cohort, class_weight="balanced", **SETTINGS)


def test_metrics_count_cases_as_their_weights_say():
    """Against scikit-learn, and against repetitions of the cases."""
    weight = np.random.default_rng(2).integers(1, 4, 120)
    plain, weighted = made(), made(weight=weight.astype(float))
    model = amodal.fit("fusion", plain, **SETTINGS)
    found = evaluate(model, weighted, resamples=50)
    expected = roc_auc_score(weighted.target, found.predictions[:, 1], sample_weight=weight)
    assert found.intervals["overall"]["auroc"].estimate == pytest.approx(expected)
    rows = np.repeat(np.arange(120), weight)
    repeated = evaluate(model, plain.take(rows), resamples=50).intervals["overall"]
    for name in ("auroc", "nll", "brier", "accuracy"):
        assert found.intervals["overall"][name].estimate == pytest.approx(repeated[name].estimate)
    differing = compare({"a": found, "b": evaluate(model, weighted, resamples=50)}, metrics=["auroc"])
    assert differing["difference"].tolist() == [0.0]
    by_pattern = evaluate_patterns(model, weighted, resamples=50, metrics=["auroc"]).intervals["a+b"]["auroc"]
    assert by_pattern.estimate == pytest.approx(expected)


def test_weights_travel_with_the_cohort(tmp_path):
    cohort = made(weight=np.arange(120.0))
    cohort.save(tmp_path / "cohort")
    again = Cohort.open(tmp_path / "cohort").take(np.arange(5))
    np.testing.assert_array_equal(again.weight, np.arange(5.0))
    with pytest.raises(DataError, match="'sample_weight' cannot be used.*not negative"):
        _ = made(weight=-np.ones(120)).weight


SCHEMA = {
    "id": "id",
    "weight": "design",
    "task": {"kind": "binary", "name": "ill", "column": "ill", "classes": {"no": ["0"], "yes": ["1"]}},
    "modalities": {"labs": {"kind": "tabular", "columns": ["crp"]}},
}


def table(tmp_path, weights):
    frame = pd.DataFrame({"id": range(40), "design": weights, "ill": [0, 1] * 20, "crp": np.arange(40.0)})
    frame.to_csv(tmp_path / "cases.csv", index=False)
    return tmp_path / "cases.csv"


def test_a_column_of_a_table(tmp_path):
    weights = np.round(np.linspace(0.5, 4.4, 40), 2)
    cohort = prepare(table(tmp_path, weights), SCHEMA, tmp_path / "cohort").cohort
    np.testing.assert_allclose(cohort.weight, weights)
    with pytest.raises(DataError, match=r"weight column 'design' is no weight in rows: 3.*0 or more"):
        prepare(table(tmp_path, [1, 1, 1, "heavy"] + [1] * 36), SCHEMA, tmp_path / "other")
