"""Inputs that people who do this job had trouble with, each read from the shared folder, and what is right for it."""

from __future__ import annotations

import csv
import json
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from amodal.data.cohort import Cohort
from amodal.errors import SchemaError

from .scripts import amodal_command, run_script

PREPARE = ("data", "prepare", "table", "--manifest", "m.csv", "--schema")


@pytest.fixture
def play(field_cases, monkeypatch, tmp_path):
    """Runs the script of a case, by its number, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(number, file="run.py", **options):
        (path,) = field_cases.glob(f"{number}_*/{file}")
        return run_script(path, monkeypatch, **options)

    return run


def table(folder="c", name="d"):
    """Values of a table of a cohort, (N, D)."""
    cohort = Cohort.open(folder)
    return cohort.batch(np.arange(len(cohort))).values[name].numpy()


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def succeeds(*words):
    result = amodal_command(*words)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_01_models_learn_and_are_evaluated_where_some_labels_are_unknown(play):
    play("01", "make.py")
    succeeds(*PREPARE, "s.yaml", "--out", "c")
    succeeds("run", "fusion", "boosting", "--data", "c", "--out", "cmp", "--epochs", "1", "--resamples", "50")
    found = [json.loads(path.read_text()) for path in Path("cmp").glob("*/metrics.json")]
    assert len(found) == 2
    for record in found:
        overall = next(row for row in record["patterns"] if row["pattern"] == "overall")
        for metric in ("auroc", "auprc", "accuracy", "nll"):
            assert overall["metrics"][metric]["value"] is not None
    rows = rows_of("m.csv")
    known = {label: [row[label] for row in rows if row[label]] for label in ("edema", "fracture")}
    described = succeeds("data", "describe", "c")
    for label, cells in known.items():
        assert f"{label} {cells.count('1')} of {len(cells)} known" in described


def test_02_labels_spelled_with_decimals_are_read_and_each_label_says_its_unknowns(play):
    script = play("02")
    assert script.line("one 0") == "The cohort is c_one"
    assert "(expected a target for every case)" in script.line("multi 2")
    assert "`without_target: leave_out`" in script.line("multi 2")
    columns = (
        "{Edema: {column: Edema, yes: ['1.0', '-1.0'], no: ['0.0'], empty: 'no'}, "
        "Effusion: {column: Effusion, yes: ['1'], no: ['0']}}"
    )
    Path("u.yaml").write_text(
        script.names["H"] + f"task: {{kind: multilabel, columns: {columns}}}\n" + script.names["M"]
    )
    succeeds(*PREPARE, "u.yaml", "--out", "u")
    rows = rows_of("m.csv")
    edema = [{"1.0": 1, "-1.0": 1, "0.0": 0, "": 0}[row["Edema"]] for row in rows]
    effusion = [{"1.0": 1, "0.0": 0, "": np.nan}[row["Effusion"]] for row in rows]
    np.testing.assert_array_equal(Cohort.open("u").target, np.column_stack([edema, effusion]))


def test_03_the_tools_of_scikit_learn_run_on_cases(play):
    def with_cases(text):
        return "from amodal import Cases\n" + text.replace("\nc=C(", "\nX=Cases(X)\nc=C(")

    lines = play("03", edit=with_cases).output.splitlines()
    assert len(lines) == 8
    assert [line for line in lines if not line.endswith(" ok")] == []


def test_04_series_of_different_length_are_taken_by_both_faces(play):
    script = play("04")
    lines = [line for line in script.output.splitlines() if "estimator" in line or "from_arrays" in line]
    assert len(lines) == 10
    assert [line for line in lines if not line.endswith(" ok")] == []
    assert script.line("equal lengths by chance:").startswith("(4, 2)")


def test_05_columns_are_taken_by_name(play):
    script = play("05")
    assert isinstance(script.error, SchemaError)
    assert "expected crp, wbc, plt, hb, got without crp; with xyz" in str(script.error)
    m, D, V = (script.names[name] for name in ("m", "D", "V"))
    np.testing.assert_array_equal(
        m.predict_proba({"labs": D[D.columns[::-1]], "v": V}), m.predict_proba({"labs": D, "v": V})
    )
    assert m.schema_["labs"].features == tuple(m.feature_names_in_["labs"]) == ("crp", "wbc", "plt", "hb")


def test_07_images_get_their_channel_and_another_scale_is_told(play):
    script = play("07")
    for start in ("grey (N,H,W)", "grey, kinds=image"):
        assert script.line(start) == "taken as image of shape (1, 32, 32)"
    said = script.line("colour (N,H,W,3)")
    assert "channels of modality 'x' seem to come last (expected (N, C, H, W), got (60, 32, 32, 3))" in said
    assert "kinds={'x': 'image'}" in said
    (told,) = [text for text in script.warned if "beyond all of training's" in text]
    assert "60 of 60 images" in told
    assert "mean level 0.0392 … 0.98, in training 10 … 250" in told
    assert "bring them to that of training" in told
    said = script.call(
        "m = C('fusion', epochs=1, kinds={'x': 'image'}).fit({'x': rgb}, y).schema_['x']; print(m.kind, m.shape)"
    )
    assert said == "image (3, 32, 32)"


def test_08_no_event_is_lost_without_a_count_and_no_sum_doubles(play):
    output = play("08").output
    assert "59  e.csv: the same event again, left out (`duplicates: keep` takes it as another)" in output
    assert "8  e.csv: 'intime' is empty, no date to count times from (30000006" in output
    assert "1  e.csv: outside the window (30000007)" in output
    assert "1 of 60 stays have no heart rate any more: " in output
    assert "stay 30000006 (no admission time): observed False - said anywhere: True" in output
    assert output.strip().endswith("of one event of 100 mL written twice: 100.0")


def test_10_every_qualified_number_gets_the_advice_that_helps(play):
    script = play("10")
    for limit in ("<0.5", ">1000"):
        assert f"a limit, not a number: '{limit}' in row 31" in script.line(limit)
        assert "`censored: limit` (the limit itself), `half` (half of it, below one) or `missing`" in script.line(limit)
    assert "`thousands: ','`" in script.line("1,234")
    assert "`decimal: ','`" in script.line("1,234")
    assert "map it with `values` ({'5-10': …})" in script.line("5-10")
    assert "`flags: ['*']`" in script.line("12.5*")
    assert "`other_units: {'mg/dL': {scale: …, offset: …}}`" in script.line("12.5 mg/dL")
    assert script.line("'<0.5' with values: {'<0.5': 0.25}") == "The cohort is c"
    assert "`censored: limit`" in script.line("20 different limits")


@pytest.mark.parametrize(
    ("cell", "key", "value"),
    [
        ("<0.5", "censored: half", 0.25),
        ("<0.5", "censored: limit", 0.5),
        (">1000", "censored: limit", 1000),
        ("1,234", "thousands: ','", 1234),
        ("1,234", "decimal: ','", 1.234),
        ("12.5*", "flags: ['*']", 12.5),
        ("12.5 mg/dL", "other_units: {'mg/dL': {scale: 10}}", 125),
    ],
)
def test_10_the_advice_makes_the_number_right(play, cell, key, value):
    script = play("10", edit=lambda text: text.split("for o in odd")[0])
    assert script.call(f"go('x', [{cell!r}], {', ' + key!r})").endswith("The cohort is c")
    crp = table()[:, 0]
    np.testing.assert_allclose(crp[:31], np.arange(31))
    np.testing.assert_allclose(crp[31:], value)


def test_11_images_of_16_bits_keep_their_level_by_one_mapping(play):
    names = play("11").names
    decoded = {
        file: names["decode_image"](Path(file), names["Src"]("x", column="f", size=(64, 64))).astype(float)
        for file in names["files"]
    }
    for file, array in names["files"].items():
        top = np.iinfo(array.dtype).max
        assert np.abs(decoded[file] - array * (255 / top)).max() <= 1, file  # one mapping, whatever the extremes are
    assert decoded["flat_50000.png"].mean() > decoded["flat_30000.png"].mean()


def test_14_targets_that_cannot_be_meant_are_refused_or_told(play):
    script = play("14")
    said = script.line("continuous y, classifier")
    assert "y is taken for a quantity (expected classes: strings, whole numbers or booleans" in said
    said = script.line("one-hot (N,3), classifier")
    assert "is taken for 3 labels that may be true at once, and exactly one is true in every row" in said
    assert "pass y.argmax(axis=1)" in said
    assert "(expected one number a case, shape (N,), got (120, 2))" in script.line("(N,2) regression")
    assert "MultiOutputRegressor" in script.line("(N,2) regression")
    assert "a time with an event cannot be learned yet" in script.line("event and time (right-censored)")
    assert "labels never known in training: 1. Leave their columns out" in script.line("label never known")


def test_15_the_types_of_pandas_are_numbers_and_a_text_is_named(play):
    script = play("15")
    for start in ("float+bool", "Int64 with NA", "convert_dtypes()", "categorical", "Decimal"):
        assert script.line(start) == "ok", start
    said = script.line("float+str")
    assert "column 'sex' of modality 't' is not numeric (expected numbers or booleans, got text, 'F')" in said
    assert "astype('category')" in said


def test_16_files_are_read_as_they_are_handed_out(play):
    script = play("16")
    for start in ("manifest .csv.gz", "other case", "tif", "webp", "bmp"):
        assert script.line(start + " ").startswith("rc 0"), start
    for start, advice in {
        "several images (a;b)": 'The cell names 2 files: write `separator: ";"`',
        "backslashes": "There is no folder 'sub'",
        "no ending": "Did you mean 'x0.png'? Then write `ending: .png`",
        "nii.gz": "it is a NIfTI volume. Write `depth: 32`",
        "150 categories": "(expected 1 to 100). Write `other: true`",
    }.items():
        assert script.line(start).startswith("rc 2"), start
        assert advice in script.line(start), start


def test_17_a_date_and_its_origin_may_have_two_formats(play):
    script = play("17")
    (first,) = (line for line in script.output.splitlines() if line.startswith("born, format"))
    assert "| rc 0 | odd said: False" in first
    (second,) = (line for line in script.output.splitlines() if line.startswith("admitted (ISO)"))
    assert "| rc 0 | odd said: False" in second
    assert script.output.count("measured share by feature: {'hr': 1, ") == 2
    admitted = date(2024, 1, 31)
    days = [(admitted - date(1940 + i, 3, 1 + i % 28)).days for i in range(script.names["n"])]
    np.testing.assert_array_equal(table()[:, 1], days)


def test_18_columns_without_a_value_stop_no_method(play):
    lines = play("18").output.splitlines()
    assert len(lines) == 10
    assert [line for line in lines if not line.endswith("ok, finite True")] == []
