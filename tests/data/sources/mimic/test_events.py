"""The benchmark's rules for MIMIC's tables: on the open demos, and on made tables with answers worked out by hand."""

import numpy as np
import pytest
from data.mimic_made import CHART, LABS, STAYS, link, read, write

from amodal.data.sources.mimic.events import read_events
from amodal.data.sources.mimic.images import choose_images
from amodal.data.sources.mimic.notes import Wanted
from amodal.data.sources.mimic.samples import select_samples
from amodal.data.sources.mimic.stays import read_stays
from amodal.data.sources.mimic.variables import VARIABLES
from amodal.errors import DataError

PLACE = {variable.name: place for place, variable in enumerate(VARIABLES)}
ADMISSIONS = ("subject_id", "hadm_id", "admittime", "dischtime", "deathtime", "admission_type")
PATIENTS = ("subject_id", "anchor_age", "dod", "gender")


def make(folder, stays, admissions, patients, chart=(), labs=()):
    """MIMIC-IV's layout; times are hours after 2150-01-01."""

    def at(hours):
        return (
            "" if hours == "" else str(np.datetime64("2150-01-01T00:00:00") + np.timedelta64(round(hours * 3600), "s"))
        )

    write(folder / "icu/icustays.csv.gz", STAYS, [(*s[:5], at(s[5]), at(s[6]), (s[6] - s[5]) / 24) for s in stays])
    write(folder / "hosp/admissions.csv.gz", ADMISSIONS, [(*a[:2], *map(at, a[2:]), "URGENT") for a in admissions])
    write(folder / "hosp/patients.csv.gz", PATIENTS, [(p[0], p[1], at(p[2]), "FM"[p[0] % 2]) for p in patients])
    write(folder / "icu/chartevents.csv.gz", CHART, [(*e[:3], at(e[3]), *e[4:]) for e in chart])
    write(folder / "hosp/labevents.csv.gz", LABS, [(*e[:2], at(e[2]), *e[3:]) for e in labs])
    return folder


# One patient a case: (stays, admissions, patients) and what is expected of the first stay.
def one(number, hours=60.0, age=50, unit="MICU", death="", dod=""):
    stay = (number, number, number, "MICU", unit, 0.0, hours)
    return stay, (number, number, 0.0, 100.0, death), (number, age, dod)


def test_who_is_a_sample(tmp_path):
    cases = [
        one(1), one(2, age=17), one(3, unit="SICU"), one(4, hours=47.9), one(5, death=50.0), one(6, dod=24.0),
        one(7, dod=120.0), one(8),
    ]  # fmt: skip
    stays, admissions, patients = (list(part) for part in zip(*cases, strict=True))
    stays.append((8, 8, 80, "MICU", "MICU", 70.0, 99.0))  # a second stay in the same admission
    source = make(
        tmp_path,
        stays,
        admissions,
        patients,
        chart=[(n, n, 220045, 5.0, 80, "") for n in (1, 4, 5, 6)] + [(7, 7, 220045, 49.0, 80, "")],
    )
    found = read_stays(source, "mimic4")
    assert found.stay.tolist() == [1, 4, 5, 6, 7]
    assert found.died.tolist() == [False, False, True, True, False]
    events = read_events(source, "mimic4")
    samples = select_samples(events, "mortality", hours=48, every=0)
    assert found.stay[samples.row].tolist() == [1, 5, 6]  # 4 is too short, 7 has no event in the window
    assert samples.target.tolist() == [0, 1, 1]
    assert events.reference.tolist() == events.first.tolist() == [5.0, 5.0, 5.0, 5.0, np.inf]
    assert found.static[0].tolist() == [50, 0, 0, 1, 0]  # the kind of admission is URGENT
    assert found.static[2, 1] == 0
    assert found.static[3, 1] == 1


def test_readmission_looks_at_the_patient_s_next_such_stay(tmp_path):
    """Discharged at hour 100; 29 days 23 hours later counts, 30 days do not; death in hospital counts always."""
    stays, admissions, patients = [], [], []
    for patient, gap, died in ((1, 719.0, ""), (2, 720.0, ""), (3, 9999.0, 50.0), (4, -1.0, "")):
        stays.append((patient, 10 * patient, 10 * patient, "A", "A", 0.0, 60.0))
        admissions.append((patient, 10 * patient, 0.0, 100.0, died))
        patients.append((patient, 40, ""))
        if gap >= 0:
            stays.append((patient, 10 * patient + 1, 10 * patient + 1, "A", "A", 100 + gap, 160 + gap))
            admissions.append((patient, 10 * patient + 1, 100 + gap, 200 + gap, ""))
    found = read_stays(make(tmp_path, stays[::-1], admissions, patients), "mimic4")
    label = dict(zip(found.stay.tolist(), found.readmitted.tolist(), strict=True))
    assert label == {10: True, 11: False, 20: False, 21: False, 30: True, 31: False, 40: False}
    assert not (found.died & ~found.readmitted).any()


CLEANED = [
    ("Systolic blood pressure", 455, "120/80", "", 120.0),
    ("Diastolic blood pressure", 8441, "120/80", "", 80.0),
    ("Fraction inspired oxygen", 223835, "40", "", 0.4),
    ("Fraction inspired oxygen", 223835, "0.4", "", 0.4, 0.004),
    ("Fraction inspired oxygen", 189, "90", "torr", 90.0),
    ("Oxygen saturation", 220277, "0.97", "", 97.0),
    ("Oxygen saturation", 646, "ERROR", "", None),
    ("Glucose", 220621, "GREATER THAN 500", "", None),
    ("Temperature", 223761, "98.6", "?F", 37.0),
    ("Temperature", 223761, "77", "?F", 25.0, 77.0),
    ("Temperature", 223762, "98.6", "", 37.0),  # 79 and more is Fahrenheit
    ("Temperature", 223762, "36.5", "?C", 36.5),
    ("Weight", 3581, "100", "", 45.3592),
    ("Weight", 3582, "1600", "", 45.3592),
    ("Weight", 224639, "70", "kg", 70.0),
    ("Height", 226707, "70", "Inch", 178.0),
    ("Height", 226730, "170", "cm", 170.0),
    ("Capillary refill rate", 3348, "Normal <3 secs", "", 0.0),
    ("Capillary refill rate", 3348, "Delayed", "", 1.0),
    ("Capillary refill rate", 3348, "Other/Remarks", "", None),
    ("GCS total", 198, "15", "", 4.0),
    ("GCS verbal response", 723, "1.0 ET/Trach", "", 8.0),
    ("GCS motor response", 223901, "never heard of", "", None),
    ("Heart rate", 220045, "nan", "", None),
]


@pytest.mark.parametrize("cleaning", ["units", "benchmark"])
def test_every_rule_of_cleaning(tmp_path, cleaning):
    """Where the benchmark's own code differs from what a unit says, its result is the last of the entry."""
    cases = [one(n) for n in range(len(CLEANED))]
    stays, admissions, patients = zip(*cases, strict=True)
    chart = [(n, n, item, 1.5, value, unit) for n, (_, item, value, unit, *_) in enumerate(CLEANED)]
    bins = read_events(make(tmp_path, stays, admissions, patients, chart), "mimic4", cleaning=cleaning).bins
    found = {row: (variable, value) for row, variable, value in zip(bins.row, bins.variable, bins.value, strict=True)}
    for n, (name, _, _, _, *wanted) in enumerate(CLEANED):
        value = wanted[-1] if cleaning == "benchmark" else wanted[0]
        if value is None:
            assert n not in found, name
        else:
            assert found[n][0] == PLACE[name]
            assert found[n][1] == pytest.approx(value, rel=1e-6), name


def test_bins_and_the_last_value_in_each(tmp_path):
    """Bins are closed to the right; of one time the last in order (heart rates: of text); other stays do not count."""
    stays, admissions, patients = zip(one(1), one(2), strict=True)
    times = [(0.0, "70"), (2.0, "71"), (2.1, "72"), (2.1, "9"), (47.9, "73"), (48.0, "74"), (48.1, "75"), (-0.5, "76")]
    chart = [(1, 1, 220045, hour, value, "") for hour, value in times]
    chart += [(1, 2, 220045, 30.0, "200", ""), ("", 1, 220045, 31.0, "201", ""), (1, "", 220045, 33.0, "90", "")]
    source = make(
        tmp_path, stays, admissions, patients, chart, labs=[(1, 50931, 10.0, "111", ""), ("", 50931, 10.0, "5", "")]
    )
    events = read_events(source, "mimic4", bin_hours=2)
    bins = events.bins
    assert set(events.stays.stay[bins.row].tolist()) == {1}
    heart = bins.variable == PLACE["Heart rate"]
    assert dict(zip(bins.time[heart].tolist(), bins.value[heart].tolist(), strict=True)) == {
        0: 71.0,
        1: 9.0,
        16: 90.0,
        23: 74.0,
    }
    assert bins.value[bins.variable == PLACE["Glucose"]].tolist() == [111.0]


def test_the_mimic3_demo(shared_data):
    """Counted from the demo's tables with pandas, by other code."""
    pd = pytest.importorskip("pandas")
    folder = shared_data / "mimic3-demo"
    table = {name: pd.read_csv(folder / f"{name}.csv.gz") for name in ("ICUSTAYS", "ADMISSIONS", "PATIENTS")}
    icu = table["ICUSTAYS"]
    icu = icu[(icu.first_careunit == icu.last_careunit) & (icu.first_wardid == icu.last_wardid)]
    icu = icu[~icu.hadm_id.duplicated(keep=False)].merge(table["ADMISSIONS"], on=["subject_id", "hadm_id"])
    icu = icu.merge(table["PATIENTS"], on="subject_id").sort_values("icustay_id")
    years = [(np.datetime64(i[:10]) - np.datetime64(b[:10])).astype(int) / 365 for i, b in zip(icu.intime, icu.dob)]
    icu = icu[np.array(years) >= 18]
    found = read_stays(folder, "mimic3")
    assert found.stay.tolist() == icu.icustay_id.tolist()
    inside = [(icu.admittime <= icu[when]) & (icu[when] <= icu.dischtime) for when in ("deathtime", "dod")]
    assert found.died.tolist() == (inside[0] | inside[1]).tolist()  # the flag says otherwise of one, by its times
    assert (found.died != (icu.hospital_expire_flag == 1)).sum() == 1
    events = read_events(folder, "mimic3", bin_hours=2)
    samples, bins = select_samples(events, "mortality", hours=48, every=0), events.bins
    assert set(found.stay[samples.row]) <= set(icu.icustay_id[icu.los * 24 >= 48])
    assert len(samples.row) == 57
    assert bins.time.min() == 0
    assert bins.time.max() == 23
    heart = bins.value[bins.variable == PLACE["Heart rate"]]
    assert 80 < np.median(heart) < 95
    assert events.reference.min() > 1
    assert found.age.max() == 90  # shifted by three centuries upstream


def test_the_mimic4_demo_lacks_measurements(shared_data):
    folder = shared_data / "mimic4-demo"
    found = read_stays(folder, "mimic4")
    flags = {row["hadm_id"]: row["hospital_expire_flag"] for row in read(folder / "hosp" / "admissions.csv.gz")}
    assert found.died.tolist() == [flags[str(number)] == "1" for number in found.admission.tolist()]
    assert len(found.stay) > 100
    with pytest.raises(DataError, match=r"a table of MIMIC-IV is missing: .*icu/chartevents\.csv\(\.gz\)"):
        read_events(folder, "mimic4")


def test_a_truncated_table_is_named(shared_data, tmp_path):
    source = link(shared_data / "mimic3-demo", tmp_path / "cut", without=["CHARTEVENTS.csv.gz"])
    whole = (shared_data / "mimic3-demo" / "CHARTEVENTS.csv.gz").read_bytes()
    (source / "CHARTEVENTS.csv.gz").write_bytes(whole[:200_000])
    with pytest.raises(DataError, match=r"CHARTEVENTS\.csv\.gz cannot be read"):
        read_events(source, "mimic3")


def test_the_latest_frontal_image_within_two_days(tmp_path):
    stays, admissions, patients = zip(one(1), one(2), strict=True)
    source = make(tmp_path / "m4", stays, admissions, patients, [(n, n, 220045, 5.0, 80, "") for n in (1, 2)])
    images = [
        ("a", 1, 11, "AP", "21500101", "30000.25"), ("b", 1, 12, "AP", "21500102", "120000"),
        ("c", 1, 13, "LATERAL", "21500102", "130000"), ("d", 1, 14, "AP", "21500104", "0"),
        ("e", 2, 15, "AP", "21491231", "235959"),
    ]  # fmt: skip
    columns = ("dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime")
    write(tmp_path / "cxr" / "mimic-cxr-2.0.0-metadata.csv.gz", columns, images)
    stays = read_stays(source, "mimic4")
    wanted = Wanted(stays.admission, stays.patient, stays.start, np.full(2, 48.0), np.zeros(2))
    with pytest.raises(DataError, match=r"an image of MIMIC-CXR-JPG is missing: .*p1/s12/b.jpg"):
        choose_images(tmp_path / "cxr", None, wanted, with_report=False)
    for name in ("s12/b.jpg", "s11/a.jpg"):
        file = tmp_path / "cxr" / "files" / "p1" / "p1" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    found = choose_images(tmp_path / "cxr", None, wanted, with_report=False)
    assert [file and file.name for file in found.files] == ["b.jpg", None]
    early = choose_images(tmp_path / "cxr", None, wanted._replace(end=np.full(2, 30.0)), with_report=False)
    assert [file and file.name for file in early.files] == ["a.jpg", None]
    with pytest.raises(DataError, match="a table of MIMIC-CXR-JPG is missing: .*metadata"):
        choose_images(tmp_path, None, wanted, with_report=False)
