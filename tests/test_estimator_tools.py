"""The tools of scikit-learn run on the estimators: validation, searches, calibration, stacking, its own checks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
    train_test_split,
    validation_curve,
)
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from amodal import Cases, MissingModalityClassifier, MissingModalityRegressor

N = 60
pytestmark = pytest.mark.filterwarnings("ignore:.*have collapsed")


def small(**options: object) -> MissingModalityClassifier:
    return MissingModalityClassifier("fusion", **{"epochs": 3, "width": 8, "settings": {"device": "cpu"}, **options})


@pytest.fixture(scope="module")
def data() -> tuple[Cases, np.ndarray]:
    rng = np.random.default_rng(0)
    X = {
        "labs": rng.normal(size=(N, 4)),
        "vitals": rng.normal(size=(N, 5, 2)),
        "note": [None if i % 3 else f"note {i}" for i in range(N)],
    }
    y = np.where(X["labs"][:, 0] > 0, "yes", "no")
    X["labs"][::7] = np.nan
    return Cases(X), y


TOOLS = {
    "cross_val_score": lambda X, y: cross_val_score(small(), X, y, cv=2, scoring="roc_auc"),
    "cross_val_score by group": lambda X, y: cross_val_score(small(), X, y, cv=GroupKFold(2), groups=np.arange(N) // 2),
    "cross_validate": lambda X, y: cross_validate(small(), X, y, cv=2, return_estimator=True, return_train_score=True),
    "cross_val_predict": lambda X, y: cross_val_predict(small(), X, y, cv=2, method="predict_proba"),
    "GridSearchCV": lambda X, y: GridSearchCV(small(), {"settings__epochs": [1, 2], "width": [8]}, cv=2).fit(X, y),
    "RandomizedSearchCV": lambda X, y: RandomizedSearchCV(
        small(), {"learning_rate": [1e-3, 1e-2], "options__hidden": [4, 8]}, n_iter=2, cv=2, random_state=0
    ).fit(X, y),
    "CalibratedClassifierCV": lambda X, y: CalibratedClassifierCV(small(), cv=2).fit(X, y).predict_proba(X),
    "permutation_importance": lambda X, y: permutation_importance(small().fit(X, y), X, y, n_repeats=2, random_state=0),
    "permutation_test_score": lambda X, y: permutation_test_score(small(), X, y, cv=2, n_permutations=1),
    "learning_curve": lambda X, y: learning_curve(small(), X, y, cv=2, train_sizes=[0.5, 1.0]),
    "validation_curve": lambda X, y: validation_curve(
        small(), X, y, cv=2, param_name="batch_size", param_range=[8, 16]
    ),
    "StackingClassifier": lambda X, y: (
        StackingClassifier([("a", small()), ("b", small(width=4))], LogisticRegression(), cv=2)
        .fit(X, y)
        .predict_proba(X)
    ),
    "VotingClassifier": lambda X, y: (
        VotingClassifier([("a", small()), ("b", small(seed=1))], voting="soft").fit(X, y).predict(X)
    ),
    "Pipeline": lambda X, y: cross_val_score(
        Pipeline([("as it is", FunctionTransformer()), ("model", small())]), X, y, cv=2
    ),
    "clone": lambda X, y: clone(small().fit(X, y)).fit(X, y).predict(X),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_tool_runs(tool: str, data: tuple[Cases, np.ndarray]):
    assert TOOLS[tool](*data) is not None


def test_cross_validation_is_that_of_splitting_by_hand(data: tuple[Cases, np.ndarray]):
    X, y = data
    scores = cross_val_score(small(), X, y, cv=GroupKFold(2), groups=np.arange(N) // 2)
    for score, (train, test) in zip(scores, GroupKFold(2).split(X, y, np.arange(N) // 2)):
        by_hand = small().fit({name: X[train][name] for name in X}, y[train])
        assert score == by_hand.score({name: X[test][name] for name in X}, y[test])


def test_importance_of_a_modality_is_the_loss_without_its_order():
    rng = np.random.default_rng(1)
    X = Cases({"signal": rng.normal(size=(120, 2)), "noise": rng.normal(size=(120, 2))})
    y = (X["signal"][:, 0] > 0).astype(int)
    model = small(epochs=30).fit(X, y)
    found = permutation_importance(model, X, y, n_repeats=3, random_state=0)
    assert found.importances_mean.shape == (2,)
    assert found.importances_mean[0] > 0.2 > abs(found.importances_mean[1])


def test_split_of_cases_and_targets(data: tuple[Cases, np.ndarray]):
    X_train, X_test, y_train, y_test = train_test_split(*data, test_size=0.25, stratify=data[1], random_state=0)
    assert isinstance(X_train, Cases)
    assert (len(X_train), len(X_test)) == (len(y_train), len(y_test)) == (45, 15)


def test_metadata_reaches_fit_by_rows(data: tuple[Cases, np.ndarray]):
    X, y = data
    observed = Cases({"vitals": np.arange(N) % 7 != 1})
    with sklearn.config_context(enable_metadata_routing=True):
        model = small().set_fit_request(observed=True, groups=True)
        routed = cross_validate(
            model, X, y, cv=2, params={"observed": observed, "groups": np.arange(N)}, return_estimator=True
        )
    rates = [fitted.model_.experiment["presence"]["train"]["rates"]["vitals"] for fitted in routed["estimator"]]
    assert all(rate >= 0.1 for rate in rates)


def test_entries_of_dictionaries_are_set_one_by_one():
    model = small(options={"hidden": 4}).set_params(settings__learning_rate=1e-3, options__hidden=8, epochs=2)
    assert model.settings == {"device": "cpu", "learning_rate": 1e-3}
    assert model.options == {"hidden": 8}
    assert model.set_params(settings__epochs=1)._settings()["epochs"] == 1
    with pytest.raises(ValueError, match="Invalid parameter 'setting'"):
        model.set_params(setting__epochs=1)


def test_a_case_of_weight_two_counts_as_two():
    """Labels that contradict each other: the weights decide what is predicted, with a network and with trees."""
    rng = np.random.default_rng(0)
    X = {"a": rng.normal(size=(200, 2)), "b": rng.normal(size=(200, 2))}
    y = np.arange(200) % 2
    for method, options in (("fusion", None), ("boosting", {"steps": 30, "redraws": 2})):
        model = MissingModalityClassifier(
            method, options=options, epochs=8, width=8, missingness=None, settings={"device": "cpu"}
        )
        for share in (0.2, 0.8):
            weight = np.where(y == 1, share, 1 - share)
            mean = model.fit(X, y, sample_weight=weight).predict_proba(X)[:, 1].mean()
            assert mean == pytest.approx(share, abs=0.12)
        plain = model.fit(X, y).predict_proba(X)
        if method == "fusion":
            np.testing.assert_array_equal(model.fit(X, y, sample_weight=np.full(200, 3.0)).predict_proba(X), plain)
    with pytest.raises(ValueError, match="weight cannot be used .expected finite numbers, not negative"):
        model.fit(X, y, sample_weight=-np.ones(200))
    with pytest.raises(ValueError, match="weight has another number of rows"):
        model.fit(X, y, sample_weight=np.ones(3))


def test_balanced_classes_are_predicted_as_often_as_each_other():
    rng = np.random.default_rng(0)
    X = {"a": rng.normal(size=(300, 2))}
    y = np.where(rng.random(300) < 0.1, "ill", "well")
    options = {"epochs": 8, "missingness": None}
    plain, balanced = (
        small(class_weight=w, **options).fit(X, y).predict_proba(X)[:, 0].mean() for w in (None, "balanced")
    )
    assert plain < 0.2 < 0.38 < balanced < 0.62
    by_name = small(class_weight={"ill": 9.0, "well": 1.0}, **options).fit(X, y).predict_proba(X)[:, 0].mean()
    assert by_name == pytest.approx(balanced, abs=0.12)
    nothing = {"a": np.full((1, 2), np.nan)}
    with pytest.warns(UserWarning, match="get the training prior"):
        prior = small(class_weight="balanced", **options).fit(X, y).predict_proba(nothing)[0]
    np.testing.assert_allclose(prior, 0.5, atol=0.03)  # of the rows that were not held back
    with pytest.raises(ValueError, match="class_weight is for classes that exclude each other"):
        small(class_weight="balanced").fit(X, np.c_[y == "ill", np.arange(300) % 2 == 0])


# What these checks ask for and the estimators do not do, with the reason.
EXCEPTIONS = {
    "check_methods_sample_order_invariance": "networks compute in float32: another order of rows may move 1e-7",
    "check_methods_subset_invariance": "networks compute in float32: another batch may move 1e-7",
    "check_sample_weight_equivalence_on_dense_data": "batches are drawn: weights hold on average, not step by step",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MissingModalityClassifier, MissingModalityRegressor])
@pytest.mark.parametrize("modalities", [None, {"first": slice(0, 1), "rest": slice(1, None)}], ids=["one", "two"])
@pytest.mark.filterwarnings("ignore")
def test_checks_of_scikit_learn(kind: type, modalities: dict | None):
    model = kind("fusion", modalities=modalities, epochs=3, width=16, missingness=None, settings={"device": "cpu"})
    results = check_estimator(model, expected_failed_checks=EXCEPTIONS, on_fail=None, on_skip=None)
    failed = {found["check_name"]: found["exception"] for found in results if found["status"] == "failed"}
    assert not failed
    assert len(results) > 40


def test_one_table_is_divided_by_names_and_columns_are_taken_by_them():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(N, 4)), columns=["crp", "wbc", "hr", "rr"]).assign(id="p")
    y = pd.Series(np.where(frame["crp"] > 0, "high", "low"))
    model = small(epochs=20, modalities={"labs": ["crp", "wbc"], "vitals": ["hr", "rr"]}).fit(frame, y)
    assert model.schema_["labs"].features == ("crp", "wbc")
    assert model.feature_names_in_.tolist() == ["crp", "wbc", "hr", "rr"]
    assert model.n_features_in_ == 4
    expected = model.predict_proba(frame)
    np.testing.assert_array_equal(model.predict_proba(frame[frame.columns[::-1]]), expected)
    np.testing.assert_array_equal(
        model.predict_proba(frame[["wbc", "crp"]]), model.predict_proba({"labs": frame[["crp", "wbc"]]})
    )
    with pytest.raises(ValueError, match="'labs' has other features .expected crp, wbc, got without wbc"):
        model.predict(frame.drop(columns="wbc"))
    scores = cross_val_score(small(modalities={"labs": ["crp", "wbc"], "vitals": ["hr", "rr"]}), frame, y, cv=2)
    assert scores.shape == (2,)


def test_several_quantities_go_through_the_tool_for_them():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 3))
    model = MultiOutputRegressor(MissingModalityRegressor("fusion", epochs=1, width=8)).fit(X, X[:, :2])
    assert model.predict(X).shape == (N, 2)
