"""The benchmark's rules for five tasks, transcribed line by line with pandas, against the cohorts of the open demo.

Written from the published description of mimic3-benchmarks' scripts (extract_subjects, validate_events,
extract_episodes_from_subjects, create_*), and not from this library: which stays are kept, which events count, where
samples end and what their labels are.
"""

from __future__ import annotations

import numpy as np
import pytest

from amodal.data.sources.mimic.cohort import prepare_mimic
from amodal.data.sources.mimic.phenotypes import packaged_phenotypes
from amodal.data.sources.mimic.variables import VARIABLES

pd = pytest.importorskip("pandas")
pytestmark = pytest.mark.slow
EPS = 1e-6
TEXTS = ("GCS eye opening", "GCS motor response", "GCS total", "GCS verbal response", "Capillary refill rate")


def table(folder, name, **more):
    frame = pd.read_csv(folder / f"{name}.csv.gz", dtype=str, keep_default_na=False, **more)
    frame.columns = [column.upper() for column in frame.columns]
    return frame


@pytest.fixture(scope="module")
def stays(shared_data):
    """Kept stays: no transfer, one stay an admission, adults; with what decides labels."""
    folder = shared_data / "mimic3-demo"
    icu, admissions, patients = (table(folder, name) for name in ("ICUSTAYS", "ADMISSIONS", "PATIENTS"))
    icu = icu[(icu.FIRST_WARDID == icu.LAST_WARDID) & (icu.FIRST_CAREUNIT == icu.LAST_CAREUNIT)]
    columns = ["SUBJECT_ID", "HADM_ID", "ADMITTIME", "DISCHTIME", "DEATHTIME"]
    icu = icu.merge(admissions[columns], on=["SUBJECT_ID", "HADM_ID"])
    icu = icu.merge(patients[["SUBJECT_ID", "DOB", "DOD"]], on="SUBJECT_ID")
    counts = icu.groupby("HADM_ID").ICUSTAY_ID.transform("count")
    icu = icu[counts == 1].copy()
    for name in ("INTIME", "OUTTIME", "ADMITTIME", "DISCHTIME", "DEATHTIME", "DOB", "DOD"):
        icu[name] = pd.to_datetime(icu[name].replace("", None))
    age = icu.INTIME.dt.year - icu.DOB.dt.year - 1  # a year at most too small: no patient of the demo is near 18
    icu = icu[(age < 0) | (age >= 18)].copy()
    inside = [icu[name].between(icu.ADMITTIME, icu.DISCHTIME) for name in ("DOD", "DEATHTIME")]
    icu["DIED"] = (icu.DOD.notna() & inside[0]) | (icu.DEATHTIME.notna() & inside[1])
    icu["LOS_HOURS"] = 24.0 * icu.LOS.astype(float)
    lived = (icu.DEATHTIME - icu.INTIME).dt.total_seconds() / 3600.0
    icu["LIVED"] = lived.where(icu.DEATHTIME.notna(), 1e18)
    return icu.set_index("ICUSTAY_ID", drop=False)


@pytest.fixture(scope="module")
def events(shared_data, stays):
    """Hours of the valid events of each kept stay, sorted."""
    folder, item_of = shared_data / "mimic3-demo", {str(i): v for v in VARIABLES for i in v.items}
    columns = ("hadm_id", "icustay_id", "itemid", "charttime", "value")
    charted, labs = (
        table(folder, name, usecols=lambda c: c.lower() in columns) for name in ("CHARTEVENTS", "LABEVENTS")
    )
    both = pd.concat([charted[charted.ITEMID.isin(item_of)], labs[labs.ITEMID.isin(item_of)].assign(ICUSTAY_ID="")])
    both = both[both.HADM_ID != ""]
    both = both.assign(HADM_ID=both.HADM_ID.str.replace(".0", ""), ICUSTAY_ID=both.ICUSTAY_ID.str.replace(".0", ""))
    stay_of = dict(zip(stays.HADM_ID, stays.index, strict=True))
    both = both[both.HADM_ID.isin(stay_of)]
    both["STAY"] = both.HADM_ID.map(stay_of)
    both = both[(both.ICUSTAY_ID == "") | (both.ICUSTAY_ID == both.STAY)]
    kept = []
    for stay, item, value, time in zip(both.STAY, both.ITEMID, both.VALUE, both.CHARTTIME, strict=True):
        variable = item_of[item]
        number = pd.to_numeric(value, errors="coerce") if variable.name not in TEXTS else 0.0
        if "/" in value and "blood pressure" in variable.name:
            number = 0.0
        if value.strip() and not np.isnan(number):
            kept.append((stay, time))
    frame = pd.DataFrame(kept, columns=["STAY", "TIME"])
    start = frame.STAY.map(stays.INTIME)
    frame["HOUR"] = (pd.to_datetime(frame.TIME) - start).dt.total_seconds() / 3600.0
    return {stay: np.sort(part.HOUR.to_numpy()) for stay, part in frame.groupby("STAY")}


def in_window(events, stay, end):
    hours = events.get(stay, np.zeros(0))
    return hours[(hours > -EPS) & (hours < end + EPS)]


@pytest.mark.parametrize("task", ["mortality", "readmission"])
def test_stays_of_two_days(shared_data, stays, events, tmp_path, task):
    ordered = stays.sort_values(["SUBJECT_ID", "ADMITTIME", "DISCHTIME"])
    back = ordered.groupby("SUBJECT_ID").ADMITTIME.shift(-1)
    soon = ((back - ordered.DISCHTIME).dt.days < 30) & back.notna()
    label = {"mortality": ordered.DIED, "readmission": ordered.DIED | soon}[task]
    wanted = {
        stay: int(label[stay])
        for stay, los in stays.LOS_HOURS.items()
        if los >= 48 - EPS and len(in_window(events, stay, 48))
    }
    cohort = prepare_mimic("mimic3", shared_data / "mimic3-demo", tmp_path / "c", task=task)
    assert dict(zip(cohort.ids.tolist(), cohort.target.tolist(), strict=True)) == wanted


def test_phenotypes_of_whole_stays(shared_data, stays, events, tmp_path):
    folder = shared_data / "mimic3-demo"
    described = set(table(folder, "D_ICD_DIAGNOSES").ICD9_CODE)
    diagnoses = table(folder, "DIAGNOSES_ICD")
    diagnoses = diagnoses[diagnoses.ICD9_CODE.isin(described)]  # an inner join upstream
    wanted = {}
    for stay, row in stays.iterrows():
        if len(in_window(events, stay, row.LOS_HOURS)):
            codes = set(diagnoses[diagnoses.HADM_ID == row.HADM_ID].ICD9_CODE)
            wanted[stay] = [float(bool(codes & phenotype.icd9)) for phenotype in packaged_phenotypes()]
    cohort = prepare_mimic("mimic3", folder, tmp_path / "c", task="phenotyping")
    assert dict(zip(cohort.ids.tolist(), cohort.target.tolist(), strict=True)) == wanted
    assert list(cohort.schema.task.classes) == sorted(cohort.schema.task.classes)
    # a series as long as the stay: int(hours + 1 - eps) bins
    lengths = cohort.batch(np.arange(len(cohort))).lengths["ehr"].tolist()
    assert lengths == [int(stays.LOS_HOURS[stay] + 1 - EPS) for stay in cohort.ids.tolist()]


@pytest.mark.parametrize("task", ["length_of_stay", "decompensation"])
def test_a_sample_every_hour(shared_data, stays, events, tmp_path, task):
    wanted = {}
    for stay, row in stays.iterrows():
        inside = in_window(events, stay, row.LOS_HOURS)
        if not len(inside):
            continue
        last = row.LOS_HOURS if task == "length_of_stay" else min(row.LOS_HOURS, row.LIVED)
        for hour in np.arange(0.0, last + EPS, 1.0):
            if hour > 4.0 and hour > inside[0]:
                ahead = row.LOS_HOURS - hour if task == "length_of_stay" else int(row.DIED and row.LIVED - hour < 24.0)
                wanted[f"{stay}@{int(hour)}"] = ahead
    cohort = prepare_mimic("mimic3", shared_data / "mimic3-demo", tmp_path / "c", task=task, hours=0, bin_hours=1)
    found = dict(zip(cohort.ids.tolist(), cohort.target.tolist(), strict=True))
    assert found.keys() == wanted.keys()
    assert [found[key] for key in wanted] == pytest.approx(list(wanted.values()), abs=1e-3)
    some = np.array([0, 40, len(cohort) - 1])
    assert cohort.batch(some).lengths["ehr"].tolist() == cohort.extras["hour"][some].tolist()  # all since the start
