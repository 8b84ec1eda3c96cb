"""The emergency department's part of an admission: which visit, what of it, and who has none."""

import numpy as np
import pytest
from data.mimic_made import link, read, write

from amodal.data.sources.mimic.cohort import prepare_mimic
from amodal.data.sources.mimic.emergency import read_emergency
from amodal.data.sources.mimic.made.tables import make
from amodal.data.sources.mimic.notes import Wanted
from amodal.errors import DataError

EDSTAYS = ("subject_id", "hadm_id", "stay_id", "intime")
MEASURED = ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp")
TRIAGE = ("stay_id", *MEASURED, "pain", "acuity", "chiefcomplaint")
VITALS = ("stay_id", "charttime", *MEASURED)


@pytest.fixture(scope="module")
def mimic4(tmp_path_factory):
    return make("mimic4", tmp_path_factory.mktemp("made") / "mimic4", patients=40, images=False)


def test_the_last_visit_before_the_stay_counts(tmp_path):
    start = np.array(["2150-01-10T12:00"] * 3, "datetime64[us]")
    wanted = Wanted(np.array([7, 8, 9]), np.array([1, 2, 3]), start, np.full(3, 48.0), np.zeros(3))
    visits = [
        (1, 7, 70, "2150-01-10 02:00:00"),
        (1, 7, 71, "2150-01-10 08:00:00"),
        (1, 7, 72, "2150-01-10 13:00:00"),  # begins after the stay
        (2, "", 80, "2150-01-10 08:00:00"),  # of no admission
        (3, 9, 90, "2150-01-10 08:00:00"),
    ]
    write(tmp_path / "ed" / "edstays.csv.gz", EDSTAYS, visits)
    triage = [
        (70, 98, 60, 10, 90, 100, 60, 1, 5, "earlier"),
        (71, 98.6, 80, 18, "", 120, 70, "unable", 2, " Chest pain "),
        (90, "", "", "", "", "", "", "", "", ""),
    ]
    write(tmp_path / "ed" / "triage.csv.gz", TRIAGE, triage)
    vitals = [
        (71, "2150-01-10 10:30:00", 37.0, 81, 18, 95, 120, 70),
        (71, "2150-01-10 09:00:00", 100.4, 90, 20, 93, 110, 60),
        (70, "2150-01-10 03:00:00", 98, 1, 1, 1, 1, 1),
        (71, "2150-01-14 09:00:00", 98, 1, 1, 1, 1, 1),  # after the sample's end
    ]
    write(tmp_path / "ed" / "vitalsign.csv.gz", VITALS, vitals)
    found = read_emergency(tmp_path, wanted)
    assert found.visited.tolist() == [True, False, False]  # a visit of which nothing was written is none
    assert found.complaints == ["Chest pain", None, None]
    nan = float("nan")
    expected = [37.0, 80, 18, nan, 120, 70, nan, 2]
    assert found.triage.values[0].tolist() == pytest.approx(expected, nan_ok=True)
    assert found.vitals.offsets.tolist() == [0, 2, 2, 2]
    assert found.vitals.flat[:, :3].tolist() == [[-3.0, 38.0, 90.0], [-1.5, 37.0, 81.0]]


def test_a_cohort_with_what_was_known_on_arrival(mimic4, tmp_path):
    names = "ehr,triage,complaint,ed_vitals"
    cohort = prepare_mimic("mimic4", mimic4, tmp_path / "c", modalities=names)
    truth = {row["stay"]: row for row in read(mimic4 / "truth.csv.gz")}
    severity = np.array([float(truth[number]["severity"]) for number in cohort.ids])
    has = cohort.observed[:, 1]
    assert 0.3 < has.mean() < 0.9
    assert (cohort.observed[:, 2:] == has[:, None]).all()
    batch = cohort.batch(np.flatnonzero(has))
    assert np.corrcoef(severity[has], batch.values["triage"][:, 1].numpy())[0, 1] > 0.5  # heart rate
    hours = batch.values["ed_vitals"][:, :, 0]
    assert float(hours.max()) <= 0
    assert float(hours.min()) == pytest.approx(-4.5)


def test_what_is_missing_is_said_before_the_tables_are_read(mimic4, tmp_path, monkeypatch):
    monkeypatch.setattr("amodal.data.sources.mimic.cohort.read_events", lambda *_, **__: pytest.fail("was read"))
    folder = tmp_path / "m4"
    for part in ("hosp", "icu"):
        link(mimic4 / part, folder / part)
    with pytest.raises(DataError, match=r"a table of MIMIC-IV-ED is missing: .*mimic-iv-ed/ed/edstays.*no folder"):
        prepare_mimic("mimic4", folder, tmp_path / "out", modalities="ehr,triage")
    link(mimic4 / "mimic-iv-ed" / "ed", tmp_path / "ed" / "ed", without=["triage.csv.gz"])
    write(tmp_path / "ed" / "ed" / "triage.csv.gz", ("stay_id", "acuity"), [])
    with pytest.raises(DataError, match=r"triage.csv.gz lacks the columns temperature, heartrate, .*chiefcomplaint"):
        prepare_mimic("mimic4", folder, tmp_path / "out", modalities="ehr,triage", ed=tmp_path / "ed")
