"""MIMIC-III in MultiBench's form: gaps as pandas fills them, tables made by hand, the open demo, MultiBench's file."""

import gzip
import pickle
import random

import numpy as np
import pandas as pd
import pytest

from amodal.cli import main
from amodal.data.cohort import Cohort
from amodal.data.sources.mimic.multibench import (
    SERIES,
    STATIC,
    TASKS,
    fill_series,
    mortality_classes,
    multibench_splits,
    prepare,
    read_tables,
)
from amodal.data.sources.mimic.multibench_tables import RAW, Events, icd9_group
from amodal.errors import DataError, UnknownNameError

NAMES = [name for name, _ in SERIES]


def test_gaps_as_pandas_fills_them():
    draw = np.random.default_rng(0)
    n, hours = 400, 50
    minute = np.sort(draw.integers(0, 60 * hours, n)) + 12_345
    variable = draw.choice([0, 1, 2, 4, 5, 6, 7, 9], n)  # temperature and others are never measured
    value = draw.uniform(1, 9, n)
    found = fill_series(Events(np.zeros(n, np.int64), minute, variable, value))

    frame = pd.DataFrame({"hour": (minute - minute[0]) // 60, "variable": variable, "value": value})
    grid = frame.groupby(["hour", "variable"])["value"].mean().unstack()
    grid = grid.reindex(index=range(frame["hour"].max() + 1), columns=range(13))
    carried = grid.ffill().bfill()
    carried[6] = grid[6].fillna(grid[6].mean())
    ratio = (carried[4] / carried[5]).rename(4)
    expected = pd.concat([carried[[0, 1, 2, 3]], ratio, carried[[6, 7, 8, 9, 10, 11, 12]]], axis=1)[:24]
    np.testing.assert_allclose(found, expected.to_numpy(), rtol=1e-5)
    assert np.isnan(found).all(0).tolist() == [name in ("Temp", "WBC", "Na", "K", "Bilirubin") for name in NAMES]


def test_a_ratio_by_zero_is_filled_like_a_gap():
    minute = np.array([0, 0, 60, 60, 1500])
    events = Events(np.zeros(5, np.int64), minute, np.array([4, 5, 4, 5, 2]), np.array([90.0, 0.0, 80.0, 0.5, 70.0]))
    ratio = fill_series(events)[:, NAMES.index("PaO2/FiO2")]
    assert (ratio == 160).all()  # backwards from the second hour, and forwards


def test_classes_of_mortality():
    flags = np.zeros((7, 6), bool)
    flags[0, 0] = True  # in hospital only
    for row in range(1, 6):
        flags[row, row:] = True
    before = flags.copy()
    assert mortality_classes(flags).tolist() == [0, 1, 2, 3, 4, 5, 0]
    assert mortality_classes(flags).tolist() == [0, 1, 2, 3, 4, 5, 0]  # a second time, too
    np.testing.assert_array_equal(flags, before)


@pytest.mark.parametrize("n", [100, 57, 11])
def test_splits_of_multibench(n):
    rows = list(range(n))
    random.seed(10)
    random.shuffle(rows)
    splits = multibench_splits(n)
    assert np.flatnonzero(splits == "valid").tolist() == sorted(rows[: n // 10])
    assert np.flatnonzero(splits == "test").tolist() == sorted(rows[n // 10 : n // 5])
    assert (splits == "train").sum() == n - n // 5


def test_groups_of_diagnoses():
    codes = {"0010": 0, "1400": 1, "23990": 1, "4280": 6, "486": 7, "9999": 18, "V3001": 19, "E8788": 20, "7955": 16}
    assert {code: icd9_group(code) for code in codes} == codes
    assert icd9_group("64891") == 10
    assert icd9_group("") is None


# Tables made by hand -------------------------------------------------------------------------------------------------

HEADERS = {
    "PATIENTS": "subject_id,dob,dod",
    "ADMISSIONS": "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,hospital_expire_flag",
    "ICUSTAYS": "hadm_id,intime",
    "SERVICES": "hadm_id,transfertime,curr_service",
    "DIAGNOSES_ICD": "hadm_id,icd9_code",
    "CHARTEVENTS": "hadm_id,itemid,charttime,valuenum,error",
    "LABEVENTS": "hadm_id,itemid,charttime,valuenum",
    "OUTPUTEVENTS": "hadm_id,itemid,charttime,value,iserror",
}


def _rows():
    rows = {table: [] for table in HEADERS}
    # patient: born, died, [(admission, kind, service, death in hospital)]
    people = {
        1: ("2040-01-01", "", [(10, "EMERGENCY", "MED", ""), (11, "EMERGENCY", "MED", "")]),
        2: ("2050-06-01", "2100-01-03 20:00:00", [(20, "ELECTIVE", "CSURG", "2100-01-03 20:00:00")]),
        3: ("1800-01-01", "2100-03-01", [(30, "URGENT", "ORTHO", "")]),
        4: ("2090-01-01", "", [(40, "EMERGENCY", "MED", "")]),  # a child
        5: ("2040-01-01", "", [(50, "EMERGENCY", "MED", "")]),  # measured for a day only
    }
    for patient, (born, died, admissions) in people.items():
        rows["PATIENTS"].append(f"{patient},{born} 00:00:00,{died}")
        for i, (number, kind, service, death) in enumerate(admissions):
            year = 2100 + i
            rows["ADMISSIONS"].append(
                f"{patient},{number},{year}-01-01 00:00:00,{year}-01-10 00:00:00,{death},{kind},{int(bool(death))}"
            )
            rows["ICUSTAYS"].append(f"{number},{year}-01-01 06:00:00")
            rows["SERVICES"] += [f"{number},{year}-01-01 01:00:00,{service}", f"{number},{year}-01-05 01:00:00,PSURG"]
            last = "2100-01-02 06:00:00" if number == 50 else f"{year}-01-02 06:30:00"
            rows["CHARTEVENTS"] += [f"{number},211,{year}-01-01 06:00:00,80,", f"{number},220045,{last},90,0"]
    at = "2100-01-01 06:10:00"
    rows["CHARTEVENTS"] += [
        f"10,211,{at},100,", f"10,211,{at},50,1", f"10,211,{at},999,",  # an error and an impossible value
        f"10,678,{at},98.6,", f"10,190,{at},50,", f"10,184,{at},4,", f"10,723,{at},5,", f"10,454,{at},6,",
        "10,184,2100-01-01 09:00:00,1,",  # one part of the coma scale alone says nothing
    ]  # fmt: skip
    rows["LABEVENTS"] += [f"10,50821,{at},100", f"10,50983,{at},140", f"10,50824,{at},150", f",50983,{at},99"]
    rows["OUTPUTEVENTS"] += [f"10,40055,{at},200,", f"10,227488,{at},50,", f"10,40055,{at},999,1"]
    rows["DIAGNOSES_ICD"] += ["10,486", "10,042", "20,20400", "30,1970", "30,V3001", "11,4280"]
    return rows


@pytest.fixture
def tables(tmp_path):
    folder = tmp_path / "mimic"
    folder.mkdir()
    for table, rows in _rows().items():
        text = "\n".join([HEADERS[table].upper() if table == "PATIENTS" else HEADERS[table], *rows]) + "\n"
        if table == "CHARTEVENTS":
            (folder / f"{table}.csv.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / f"{table}.csv").write_text(text)
    return folder


def test_who_is_taken(tables):
    """First admissions to intensive care, of adults, with measurements over more than a day."""
    found = read_tables(tables)
    assert found.ids.tolist() == ["10", "20", "30"]
    age = found.static[:, 0]
    assert age[0] == pytest.approx(21915, abs=1)
    assert age[2] == pytest.approx(91.4 * 365.242, abs=1)  # shifted on purpose, beyond 200 years
    assert found.static[:, 1:].tolist() == [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 2]]
    assert found.flags.tolist() == [
        [False] * 6,
        [True, False, False, True, True, True],  # 2.6 days after coming, in hospital
        [False, False, False, False, False, True],  # 50 days after leaving
    ]
    assert mortality_classes(found.flags).tolist() == [0, 3, 5]
    assert np.flatnonzero(found.groups[0]).tolist() == [0, 7]
    assert np.flatnonzero(found.groups[2]).tolist() == [1, 19]


def test_what_was_measured(tables):
    first = dict(zip(NAMES, read_tables(tables).series[0, 0]))
    expected = {"GCS": 15, "HR": 90, "Temp": 37, "PaO2/FiO2": 200, "Urine": 75, "Na": 145}
    for name, value in first.items():
        assert value == pytest.approx(expected[name], abs=1e-4) if name in expected else np.isnan(value)


def test_cohorts_of_the_tables(tables, tmp_path, capsys):
    words = ["data", "prepare", "mimic3", f"--source={tables}", f"--out={tmp_path / 'out'}", "--preset=multibench"]
    words += ["--split=multibench"]
    assert main([*words, "--task=icd9_7"]) == 0
    assert "3 cases" in capsys.readouterr().out
    cohort = Cohort.open(tmp_path / "out")
    assert cohort.target.tolist() == [1, 0, 0]
    assert cohort.schema["static"].features == tuple(name for name, _ in STATIC)
    batch = cohort.batch(np.arange(3))
    assert not batch.measured["series"][0, :, NAMES.index("K")].any()
    zeros = prepare(tables, tmp_path / "zeros", split="multibench", zero_unmeasured=True).batch(np.arange(3))
    assert "series" not in zeros.measured
    assert (zeros.values["series"][0, :, NAMES.index("K")] == 0).all()


def test_damage_is_named(tables, tmp_path):
    with pytest.raises(UnknownNameError, match="task of mimic3 'icd9_21'"):
        prepare(tables, tmp_path / "x", task="icd9_21")
    column = tables / "SERVICES.csv"
    column.write_text(column.read_text().replace("curr_service", "service"))
    with pytest.raises(DataError, match=r"SERVICES\.csv lacks the column curr_service"):
        prepare(tables, tmp_path / "x")
    column.write_text(column.read_text().replace("service", "curr_service"))
    path = tables / "CHARTEVENTS.csv.gz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"CHARTEVENTS\.csv\.gz cannot be read"):
        prepare(tables, tmp_path / "x")
    path.unlink()
    with pytest.raises(DataError, match=r"a table of MIMIC-III is missing: .*CHARTEVENTS\.csv"):
        prepare(tables, tmp_path / "x")


def test_the_open_demo(shared_data, tmp_path):
    source = shared_data / "mimic3-demo"
    cohort = prepare(source, tmp_path / "demo")
    assert len(cohort) == 94
    heart = pd.read_csv(source / "CHARTEVENTS.csv.gz", usecols=["hadm_id", "itemid", "charttime", "valuenum", "error"])
    heart = heart[heart["itemid"].isin([211, 220045]) & heart["valuenum"].between(1, 300) & (heart["error"] != 1)]
    lowest, highest = heart.groupby("hadm_id")["valuenum"].agg(["min", "max"]).T.to_numpy()
    batch = cohort.batch(np.arange(94))
    rate = batch.values["series"][:, :, NAMES.index("HR")].numpy()
    known = {number: i for i, number in enumerate(heart.groupby("hadm_id").size().index)}
    charted = [i for i, number in enumerate(cohort.ids) if int(number) in known]
    place = [known[int(cohort.ids[i])] for i in charted]
    assert len(charted) == 93  # one admission has laboratory values only
    assert (rate[charted].min(1) >= lowest[place] - 1e-3).all()
    assert (rate[charted].max(1) <= highest[place] + 1e-3).all()
    typical = dict(zip(NAMES, batch.values["series"].numpy().mean((0, 1))))
    assert typical["Na"] == pytest.approx(138, abs=3)
    assert typical["Temp"] == pytest.approx(36.8, abs=0.5)
    assert typical["SysBP"] == pytest.approx(122, abs=10)
    assert np.bincount(cohort.target).tolist() == [27, 3, 1, 8, 27, 28]  # all of the demo's patients die some day


# MultiBench's file ---------------------------------------------------------------------------------------------------


def _file(path, **changes):
    draw = np.random.default_rng(0)
    arrays = {
        "ep_tdata": draw.normal(size=(30, 24, 12)),
        "adm_features_all": draw.normal(size=(30, 5)),
        "adm_labels_all": draw.random((30, 6)) < 0.3,
        "y_icd9": (draw.random((30, 20)) < 0.4).astype(float),
    }
    arrays["ep_tdata"][3, :, 9], arrays["ep_tdata"][4, 2, 1] = np.nan, np.inf
    arrays |= changes
    path.write_bytes(pickle.dumps({name: value for name, value in arrays.items() if value is not None}, 2))
    return arrays


def test_the_file_of_multibench(tmp_path):
    arrays = _file(tmp_path / "im.pk", names=["x"])
    cohort = prepare(tmp_path / "im.pk", tmp_path / "out", split="multibench")
    assert cohort.target.tolist() == mortality_classes(arrays["adm_labels_all"]).tolist()
    batch = cohort.batch(np.arange(30))
    np.testing.assert_allclose(batch.values["series"][0].numpy(), arrays["ep_tdata"][0], rtol=1e-6)
    gaps = ~batch.measured["series"].numpy()
    assert gaps[3, :, 9].all()
    assert gaps[4, 2, 1]
    assert gaps.sum() == 25
    assert len(cohort.split("valid")) == len(cohort.split("test")) == 3


def test_files_that_do_not_fit(tmp_path):
    _file(tmp_path / "im.pk", y_icd9=None)
    with pytest.raises(DataError, match="lacks the array 'y_icd9'"):
        prepare(tmp_path / "im.pk", tmp_path / "out")
    _file(tmp_path / "im.pk", adm_labels_all=np.zeros((29, 6)))
    with pytest.raises(DataError, match=r"'adm_labels_all'.*does not fit \(expected \(30, 6\), got \(29, 6\)\)"):
        prepare(tmp_path / "im.pk", tmp_path / "out")
    _file(tmp_path / "im.pk")
    with pytest.raises(DataError, match=r"no labels of icd9_20.*up to icd9_19"):
        prepare(tmp_path / "im.pk", tmp_path / "out", task="icd9_20")


def test_tasks():
    assert TASKS["icd9_1"].name == "icd9_140-239"
    assert TASKS["icd9_19"].name == "icd9_V"
    assert len(TASKS["mortality"].classes) == 6
    assert len(RAW) == 13
