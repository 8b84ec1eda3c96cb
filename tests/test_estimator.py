"""The scikit-learn face: its conventions, its inputs, and what it gives back after saving."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import amodal
from amodal import MissingModalityClassifier, MissingModalityRegressor
from amodal.errors import ConfigurationError, DataError, RunError, SchemaError, ShapeError, UnknownNameError
from amodal.missingness import MCAR
from amodal.seal import seal

QUICK = {"method": "fusion", "epochs": 2, "width": 8, "settings": {"device": "cpu", "batch_size": 16}}


def made(n: int = 80, seed: int = 0) -> tuple[dict[str, object], np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    table = rng.normal(size=(n, 4)) + y[:, None]
    series = rng.normal(size=(n, 6, 2)) - y[:, None, None]
    image = rng.normal(size=(n, 1, 4, 4))
    table[::5] = np.nan
    series[1::7, 2:4] = np.nan
    notes = [f"stable patient {k}" if k else "" for k in y]
    return {"table": table, "series": series, "image": image, "notes": notes}, np.array(["low", "mid", "high"])[y]


def test_fit_predict_score_save_load_with_every_kind_of_modality(tmp_path: Path):
    X, y = made()
    clf = MissingModalityClassifier(**QUICK, missingness=MCAR(0.3)).fit(X, y)
    assert {m.name: m.kind for m in clf.schema_.modalities} == {
        "table": "tabular",
        "series": "series",
        "image": "image",
        "notes": "text",
    }
    assert clf.classes_.tolist() == ["high", "low", "mid"]
    probabilities = clf.predict_proba(X)
    assert probabilities.shape == (80, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    assert set(clf.predict(X)) <= set(clf.classes_)
    assert clf.score(X, y) == (clf.predict(X) == y).mean()
    clf.save(tmp_path / "run")
    again = amodal.load(tmp_path / "run")
    assert isinstance(again, MissingModalityClassifier)
    np.testing.assert_array_equal(again.predict_proba(X), probabilities)
    assert again.classes_.tolist() == clf.classes_.tolist()
    assert again.get_params() == clf.get_params()


def test_cases_may_lack_whole_modalities_and_rows_say_so_by_nan_or_by_observed():
    X, y = made()
    clf = MissingModalityClassifier(**QUICK).fit(X, y)
    only = clf.predict_proba({"table": X["table"][1:4]})
    whole = {name: value[1:4] for name, value in X.items()}
    hidden = {name: np.zeros(3, dtype=bool) for name in ("series", "image", "notes")}
    np.testing.assert_allclose(clf.predict_proba(whole, observed=hidden), only, atol=1e-6)
    as_nan = {"table": X["table"][1:4], "series": np.full((3, 6, 2), np.nan)}
    np.testing.assert_allclose(clf.predict_proba(as_nan), only, atol=1e-6)


def test_a_case_of_which_nothing_is_known_gets_the_training_prior_with_a_warning():
    X, y = made()
    clf = MissingModalityClassifier(**QUICK).fit(X, y)
    with pytest.warns(UserWarning, match="nothing observed get the training prior: 0 "):
        predicted = clf.predict_proba({"table": np.full((1, 4), np.nan)})
    # a tenth of the rows is held back for early stopping, so that the prior is that of the others
    np.testing.assert_allclose(predicted[0], [(y == c).mean() for c in clf.classes_], atol=0.06)


def test_series_of_another_length_are_welcome():
    X, y = made()
    clf = MissingModalityClassifier(**QUICK).fit({"series": X["series"]}, y)
    assert clf.predict_proba({"series": X["series"][:, :3]}).shape == (80, 3)


def test_labels_of_any_type_and_many_labels_at_once():
    X, y = made()
    table = {"table": np.nan_to_num(X["table"])}
    for labels in (y == "low", np.where(y == "low", 7, 3), np.where(y == "low", 1.0, 0.0)):
        clf = MissingModalityClassifier(**QUICK).fit(table, labels)
        assert clf.predict(table).dtype == labels.dtype
        assert set(clf.predict(table)) <= set(labels)
    many = np.stack([y == "low", y == "mid"], 1).astype(int)
    clf = MissingModalityClassifier(**QUICK).fit(table, many)
    assert clf.predict_proba(table).shape == (80, 2)
    assert set(np.unique(clf.predict(table))) <= {0, 1}


def test_regressor_learns_and_comes_back(tmp_path: Path):
    X, _ = made(200)
    table = np.nan_to_num(X["table"])
    y = 100 + 10 * table[:, 0]
    model = MissingModalityRegressor("fusion", epochs=30, width=16, missingness=None, settings={"device": "cpu"})
    model.fit({"table": table}, y)
    assert model.score({"table": table}, y) > 0.9
    model.save(tmp_path / "run")
    again = amodal.load(tmp_path / "run")
    np.testing.assert_array_equal(again.predict({"table": table}), model.predict({"table": table}))


def test_scikit_learn_conventions():
    clf = MissingModalityClassifier("late_fusion", epochs=5, seed=3)
    assert clone(clf).get_params() == clf.get_params()
    assert clf.set_params(epochs=7).epochs == 7
    with pytest.raises(NotFittedError, match="call fit first"):
        clf.predict_proba({"table": np.zeros((1, 2))})
    with pytest.raises(NotFittedError, match="call fit first"):
        clf.save("nowhere")


X_, Y_ = made()


@pytest.mark.parametrize(
    ("X", "y", "kind", "words"),
    [
        (np.zeros((80, 3, 2)), Y_, ShapeError, "Found array with dim 3.*{'x': X}"),
        ({}, Y_, SchemaError, "X has no modality"),
        ({"a": np.zeros(80)}, Y_, ShapeError, r"'a' has the wrong number of axes.*reshape"),
        ({"a": np.zeros((80, 2)), "b": np.zeros((79, 2))}, Y_, ShapeError, "'b'.*79"),
        ({"a": np.zeros((80, 2))}, Y_[:79], ShapeError, "79"),
        ({"a": np.full((80, 2), None)}, Y_, DataError, "never observed in training: a"),
        ({"a": np.ones((80, 2))}, np.repeat("x", 80), DataError, "one class only"),
        (
            {"a": np.ones((80, 2))},
            np.where(Y_ == "low", np.nan, 1.0),
            DataError,
            "there is one class only",
        ),
        ({"a": np.where(np.eye(80, 2) > 0, np.inf, 1.0)}, Y_, DataError, "'a'.*infinite"),
        ({"a b": np.ones((80, 2))}, Y_, SchemaError, "name is not usable.*'a b'"),
        ({1: np.ones((80, 2))}, Y_, SchemaError, "name is not usable.*got 1"),
        ({"a": "text"}, Y_, ShapeError, "'a' has no rows .expected an array, frame or list, got str"),
        ({"a": {"b": np.ones((80, 2))}}, Y_, ShapeError, "'a' has no rows.*got dict"),
        ({"a": scipy.sparse.csr_array(np.ones((80, 2)))}, Y_, ShapeError, "'a' is sparse.*toarray"),
        ([np.ones((80, 2)), np.ones((80, 3))], Y_, SchemaError, "X is not a dictionary.*got inputs without names"),
        (None, Y_, SchemaError, "X is not a dictionary of modalities.*got NoneType"),
        (pd.DataFrame(np.ones((80, 2)), columns=["a", "a"]), Y_, SchemaError, "X has columns of the same name .got a"),
        ({"a": pd.DataFrame(np.ones((80, 2)), columns=[7, "7"])}, Y_, SchemaError, "columns of the same name .got 7"),
        ({"a": pd.DataFrame({"v": ["x", np.ones(2)] * 40})}, Y_, DataError, "'a'|'v'"),
    ],
)
def test_bad_input_is_named(X: object, y: np.ndarray, kind: type, words: str):
    with pytest.raises(kind, match=words):
        MissingModalityClassifier(**QUICK).fit(X, y)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"seed": -1}, ConfigurationError, "the seed is out of range .expected a whole number, 0 or more, got -1"),
        ({"seed": "a"}, ConfigurationError, "the seed is out of range.*got 'a'"),
        ({"epochs": "3"}, ConfigurationError, "epochs is out of range .expected a whole number, got '3'"),
        ({"settings": {"batch_size": 2.5}}, ConfigurationError, "batch_size is out of range.*whole number or None"),
        ({"settings": {"weight_decay": np.nan}}, ConfigurationError, "weight_decay is out of range.*finite.*nan"),
        ({"settings": {"precision": "7"}}, UnknownNameError, "unknown precision '7'.*32-true"),
        ({"class_weight": "equal"}, ConfigurationError, "class_weight is out of range .expected .balanced. or {label"),
        ({"class_weight": {"hi": 2.0}}, UnknownNameError, "unknown class in class_weight 'hi'.*high"),
        ({"options": {"fil": "zero"}}, UnknownNameError, "unknown option of fusion 'fil'.*Did you mean 'fill'"),
    ],
)
def test_bad_settings_are_named(given: dict, kind: type, words: str):
    with pytest.raises(kind, match=words):
        MissingModalityClassifier(**{"method": "fusion", **QUICK, **given}).fit({"a": np.ones((80, 2))}, Y_)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (3, "columns of modality 'p' are neither names nor positions"),
        ({"a"}, "neither names nor positions"),
        (slice("a", "c"), "neither names nor positions"),
        ([], "needs distinct columns, one at least|has no such columns"),
        (["a", "a"], "'p' needs distinct columns"),
        ([0, 0], "'p' needs distinct columns"),
        (["zz"], "X lacks columns of modality 'p': zz"),
        ([-1], "'p' has no such columns"),
    ],
)
def test_bad_columns_of_a_modality_are_named(columns: object, words: str):
    frame = pd.DataFrame(np.nan_to_num(X_["table"]), columns=list("abcd"))
    with pytest.raises(SchemaError, match=words):
        MissingModalityClassifier(**QUICK, modalities={"p": columns}).fit(frame, Y_)
    with pytest.raises(ConfigurationError, match="`modalities` does not divide a table"):
        MissingModalityClassifier(**QUICK, modalities=[columns]).fit(frame, Y_)  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", [[220045, 211, 51, 8], [0, 1, 2, 3], ["a", 1, ("b", 2), 4.5]])
def test_numbers_that_name_columns_are_names(labels: list):
    """Items of a pivoted table in another order; the numbers 0 … D-1 are positions and have an order, too."""
    frame = pd.DataFrame(np.nan_to_num(X_["table"]))
    frame.columns = pd.Index(labels, dtype=object) if "a" in labels else labels
    other = frame.iloc[:, [2, 0, 3, 1]]
    by_name = MissingModalityClassifier(**QUICK).fit({"t": frame}, Y_)
    np.testing.assert_array_equal(by_name.predict_proba({"t": other}), by_name.predict_proba({"t": frame}))
    whole = MissingModalityClassifier(**QUICK).fit(frame, Y_)
    np.testing.assert_array_equal(whole.predict_proba(other), whole.predict_proba(frame))
    if labels[0] == 220045:
        parts = MissingModalityClassifier(**QUICK, modalities={"p": [211, 8], "q": [51]}).fit(frame, Y_)
        assert parts.schema_["p"].features == ("211", "8")
        np.testing.assert_array_equal(parts.predict_proba(other), parts.predict_proba(frame))
        with pytest.raises(SchemaError, match="'t' has other features .*without 220045; with 9"):
            by_name.predict({"t": frame.rename(columns={220045: 9})})


def test_parameters_of_a_search_are_saved(tmp_path: Path):
    """Numbers of NumPy, as searches try them, and labels that are numbers."""
    given = {"epochs": np.int64(1), "seed": np.int64(3), "class_weight": {0: 1.0, np.int64(1): np.float32(2.0)}}
    X, y = {"a": np.random.default_rng(0).normal(size=(60, 2))}, np.arange(60) % 2
    clf = MissingModalityClassifier(**{**QUICK, "settings": {"device": "cpu", "batch_size": np.int64(16)}, **given})
    clf.fit(X, y).save(tmp_path / "run")
    again = amodal.load(tmp_path / "run")
    assert isinstance(again, MissingModalityClassifier)
    assert again.get_params() == clf.get_params()
    np.testing.assert_array_equal(again.fit(X, y).predict_proba(X), clf.predict_proba(X))


@pytest.mark.parametrize(
    "edit",
    [
        {"columns": "x"},
        {"columns": {"p": ["zz"]}},
        {"features": None},
        {"features": ["a"]},
        {"inputs": 7},
        {"class_dtype": "V8"},
        {"class_dtype": "int64"},
        {"label_dtype": "nonsense"},
        {"params": None},
        {"class": "MissingModalityRegressor"},
    ],
    ids=str,
)
def test_an_edited_record_is_refused_though_its_seal_is_right(edit: dict, saved: Path, tmp_path: Path):
    shutil.copytree(saved, tmp_path / "run")
    file = tmp_path / "run" / "experiment.json"
    record = {k: v for k, v in json.loads(file.read_text()).items() if k not in ("checksum", "files")}
    record["estimator"] |= edit
    file.write_text(json.dumps(seal(record, tmp_path / "run", ["model.safetensors", "history.csv", "presence.npz"])))
    with pytest.raises(RunError, match="cannot be used"):
        amodal.load(tmp_path / "run")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An estimator of one table that two modalities divide."""
    frame = pd.DataFrame(np.nan_to_num(X_["table"]), columns=list("abcd"))
    clf = MissingModalityClassifier(**QUICK, modalities={"p": ["a", "b"], "q": ["c"]}).fit(frame, Y_)
    return clf.save(tmp_path_factory.mktemp("saved") / "run")


def test_presence_may_be_a_frame_and_series_a_column_of_one():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"v": rng.normal(size=80), "s": list(rng.normal(size=(80, 5, 2)))})
    seen = pd.DataFrame({"p": np.arange(80) % 3 > 0, "t": np.arange(80) % 3 < 2})
    clf = MissingModalityClassifier(**QUICK, modalities={"p": ["v"], "t": ["s"]}).fit(frame, Y_, observed=seen)
    assert clf.schema_["t"].shape == (5, 2)
    expected = clf.predict_proba(frame, {name: seen[name].to_numpy() for name in seen})
    np.testing.assert_array_equal(clf.predict_proba(frame, seen), expected)


def test_columns_may_be_named_by_whatever_holds_names():
    frame = pd.DataFrame(np.nan_to_num(X_["table"]), columns=list("abcd"))
    for columns in (["a", "b"], ("a", "b"), np.array(["a", "b"]), frame.columns[:2], [True, True, False, False]):
        clf = MissingModalityClassifier(**{**QUICK, "epochs": 1}, modalities={"p": columns}).fit(frame, Y_)
        assert clf.schema_["p"].features == ("a", "b")


def test_labels_of_further_cases_go_by_name():
    """Columns of several labels in another order, and labels that are missing in a list of texts."""
    rng = np.random.default_rng(0)
    X = {"a": rng.normal(size=(60, 2))}
    y = pd.DataFrame({"u": X["a"][:, 0] > 0, "v": X["a"][:, 0] < 0.4}).astype(int)
    clf = MissingModalityClassifier(**QUICK).fit(X, y, eval_set=(X, y[["v", "u"]]))
    plain = MissingModalityClassifier(**QUICK).fit(X, y, eval_set=(X, y.astype("boolean")))
    np.testing.assert_array_equal(clf.predict_proba(X), plain.predict_proba(X))
    assert clf.score(X, y[["v", "u"]]) == clf.score(X, y) != clf.score(X, y[["v", "u"]].to_numpy())
    with pytest.raises(SchemaError, match="y has other labels .expected u, v, got without v; with w"):
        clf.score(X, y.rename(columns={"v": "w"}))
    words = np.where(y["u"], "yes", "no")
    MissingModalityClassifier(**QUICK).fit(X, words, eval_set=(X, [*words[:50], *[np.nan] * 10]))
    column = pd.DataFrame({"y": [*words[:50], *[None] * 10]})
    with pytest.warns(UserWarning, match="10 of 60 training rows have no label"):
        clf = MissingModalityClassifier(**QUICK).fit(X, column["y"])
    assert clf.score(X, column) == (clf.predict(X)[:50] == words[:50]).mean()
    with pytest.raises(DataError, match="sample_weight is not numeric"):
        clf.fit(X, words, sample_weight=["a"] * 60)


def test_bad_targets_of_a_regression_are_named():
    target = np.where(np.arange(80) == 4, np.inf, 1.0)
    with pytest.raises(DataError, match="targets are infinite in rows: 4 .*finite numbers, or NaN where"):
        MissingModalityRegressor(**QUICK).fit({"a": np.ones((80, 2))}, target)


@pytest.mark.parametrize("container", [list, pd.Series], ids=["list", "pandas"])
def test_texts_may_lack_entries(container: type):
    """None is absence, at prediction even where every text is absent and nothing shows that it is text."""
    notes = [None if i % 3 == 0 else "ill" if label == "low" else "well" for i, label in enumerate(Y_)]
    clf = MissingModalityClassifier(**QUICK).fit(
        {"note": container(notes), "a": np.random.default_rng(1).normal(size=(80, 2))}, Y_
    )
    assert clf.model_.experiment["data"]["rows"] == {"train": 72, "valid": 8}
    without = clf.predict_proba({"a": np.ones((4, 2))})
    np.testing.assert_array_equal(clf.predict_proba({"note": container([None] * 4), "a": np.ones((4, 2))}), without)
    with pytest.raises(DataError, match="'note' has texts that are no text in rows: 0, 1.*int"):
        clf.predict_proba({"note": container([3, 4])})


def test_bad_input_at_prediction_is_named():
    clf = MissingModalityClassifier(**QUICK).fit({"table": np.nan_to_num(X_["table"])}, Y_)
    with pytest.raises(UnknownNameError, match="unknown modality 'tabel'.*Did you mean 'table'"):
        clf.predict_proba({"tabel": np.zeros((2, 4))})
    with pytest.raises(SchemaError, match=r"'table' is not the one the model was trained on.*\(4,\).*\(5,\)"):
        clf.predict_proba({"table": np.zeros((2, 5))})
    with pytest.raises(ConfigurationError, match=r"observed\['table'\] must be bool"):
        clf.predict_proba({"table": np.zeros((2, 4))}, observed={"table": np.ones(2)})


@pytest.mark.parametrize("method", ["fusion", "primo"])
def test_impact_of_new_cases(tmp_path: Path, method: str):
    X, y = made()
    clf = MissingModalityClassifier(**(QUICK | {"method": method}), keep_training=True).fit(X, y)
    new = {"table": X["table"][:6], "notes": X["notes"][:6]}
    result = clf.impact(new, draws=20)
    assert result.variability.shape == (6,)
    assert result.variability.max() > 0
    assert not np.isnan(result.per_modality["image"]).any()
    assert np.isnan(result.per_modality["notes"]).all()
    assert set(result.table()["predicted"]) <= set(clf.classes_)
    with pytest.raises(ConfigurationError, match="number of draws"):
        clf.impact(new, draws=0)
    clf.save(tmp_path / "run")
    again = amodal.load(tmp_path / "run")
    if method == "primo":
        np.testing.assert_array_equal(again.impact(new, draws=20).variability, result.variability)
    else:
        with pytest.raises(ConfigurationError, match="no training cases to take them from.*keep_training=True"):
            again.impact(new, draws=20)
        unlabelled = again.impact(new, draws=20, train=X).variability  # donors without labels are weighed otherwise
        np.testing.assert_allclose(unlabelled, result.variability, atol=0.02)
    with pytest.raises(NotFittedError):
        MissingModalityClassifier().impact(new)


def test_the_score_of_several_labels_is_over_those_that_are_known():
    rng = np.random.default_rng(0)
    X, Y = {"table": rng.normal(size=(60, 4))}, rng.integers(0, 2, (60, 3)).astype(float)
    clf = MissingModalityClassifier("fusion", epochs=1, width=8).fit(X, np.where(rng.random((60, 3)) < 0.3, np.nan, Y))
    right = clf.predict(X) == Y
    assert clf.score(X, Y) == pytest.approx(right.all(1).mean())
    first = np.where([True, False, False], Y, np.nan)
    first[:5] = np.nan  # cases without a known label are left out
    weight = np.arange(60.0)
    assert clf.score(X, first) == pytest.approx(right[5:, 0].mean())
    assert clf.score(X, pd.DataFrame(first).convert_dtypes()) == pytest.approx(right[5:, 0].mean())
    assert clf.score(X, first, weight) == pytest.approx(np.average(right[5:, 0], weights=weight[5:]))
    with pytest.raises(DataError, match="no label is known in y"):
        clf.score(X, np.full((60, 3), np.nan))


def test_images_on_another_scale_than_trainings_are_told_also_of_one_case_and_of_a_loaded_model(tmp_path):
    rng = np.random.default_rng(0)
    images, labs = rng.integers(0, 255, (60, 1, 8, 8)).astype(np.uint8), rng.normal(size=(60, 2))
    clf = MissingModalityClassifier("modality_dropout", epochs=1, width=8)
    clf.fit({"x": images, "labs": labs}, rng.integers(0, 2, 60))
    loaded = amodal.estimator.load(clf.save(tmp_path / "model"))
    clf.predict({"x": images, "labs": labs})  # no warning, which would be an error
    clf.predict({"labs": labs})
    train, without = {"x": images, "labs": labs}, np.full((1, 2), np.nan)
    for task in (
        lambda: clf.predict({"x": images[:1] / 255}),
        lambda: loaded.predict({"x": images / 255.0, "labs": labs}),
        lambda: loaded.predict({"x": [None, images[0] / 255.0], "labs": labs[:2]}),
        lambda: clf.impact({"x": images[:1] / 255, "labs": without}, train=train, draws=2),
        lambda: clf.advise({"x": images[:1] / 255, "labs": without}, train=train, draws=2),
    ):
        with pytest.warns(UserWarning, match="modality 'x': .* images lie beyond all of training's"):
            task()
