import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from amodal.data.cohort import Cohort
from amodal.data.sources.cinc2012.cohort import HOURS, TASKS, cinc2012_cohort, prepare, read_stays
from amodal.data.sources.cinc2012.variables import DESCRIPTORS, VARIABLES
from amodal.errors import DataError, UnknownNameError

# the row on admission; measurements; length of stay and death
STAYS = {
    11: (
        "64,1,-1,3,-1",
        ["00:07,HR,70", "00:59,HR,80", "01:00,HR,90", "48:00,HR,60", "02:10,Urine,30", "02:50,Urine,12"],
        (5, 0),
    ),
    12: ("81,0,431.8,1,80", ["00:30,Temp,98.6", "01:30,Temp,2.3", "02:30,Temp,-17.8", "03:30,Temp,37.1"], (-1, 1)),
    13: (
        "44,-1,17.8,2,0.6",
        ["05:00,pH,735", "05:30,pH,7.25", "06:00,pH,100", "07:00,FiO2,40", "08:00,FiO2,0.5"],
        (2, 0),
    ),
    14: ("65,0,170,4,70.5", [], (9, 1)),
    15: (
        "79,1,180,3,90",
        ["10:00,TroponinI,0.3", "10:00,MechVent,1", "12:00,Weight,92", "12:30,Weight,-1", "13:00,SysABP,0"],
        (3, 0),
    ),
}
NAMES = ["Age", "Gender", "Height", "ICUType", "Weight"]


def _write(folder, letter="a", stays=STAYS, extra=""):
    target = folder / f"set-{letter}"
    target.mkdir(parents=True)
    lines = ["RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death"]
    for number, (admission, rows, (days, death)) in stays.items():
        admitted = [f"00:00,{name},{value}" for name, value in zip(NAMES, admission.split(","))]
        text = "\n".join(["Time,Parameter,Value", f"00:00,RecordID,{number}", *admitted, *rows])
        (target / f"{number}.txt").write_text(text + "\n" + extra)
        lines.append(f"{number},6,1,{days},-1,{death}")
    (folder / f"Outcomes-{letter}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def source(tmp_path):
    return _write(tmp_path / "source")


def _cells(stays, modality, variable, number):
    """Measured hours of one variable of one stay."""
    column = [v.name for v in VARIABLES[modality]].index(variable)
    series = stays.series[modality][stays.ids.tolist().index(str(number)), :, column]
    return {hour: pytest.approx(float(series[hour]), abs=1e-4) for hour in np.flatnonzero(~np.isnan(series))}


def test_hours_are_averaged_and_urine_added_up(source):
    stays = read_stays(source)
    assert _cells(stays, "vitals", "HR", 11) == {0: 75.0, 1: 90.0, 47: 60.0}
    assert _cells(stays, "urine", "Urine", 11) == {2: 42.0}
    assert _cells(stays, "blood_gas", "MechVent", 15) == {10: 1.0}
    assert _cells(stays, "cardiac", "TroponinI", 15) == {10: 0.3}


def test_values_in_another_unit_are_repaired_and_impossible_ones_dropped(source):
    stays = read_stays(source)
    assert _cells(stays, "vitals", "Temp", 12) == {0: 37.0, 1: 36.14, 3: 37.1}
    assert _cells(stays, "blood_gas", "pH", 13) == {5: (7.35 + 7.25) / 2}
    assert _cells(stays, "blood_gas", "FiO2", 13) == {7: 0.4, 8: 0.5}
    assert _cells(stays, "vitals", "SysABP", 15) == {}
    assert stays.tally.repaired == {"Height": 1, "Temp": 2, "pH": 1, "FiO2": 1}
    assert stays.tally.out_of_range == {"Height": 1, "Weight": 1, "Temp": 1, "SysABP": 1, "pH": 1}


def test_descriptors_with_unknown_ones(source):
    stays = read_stays(source)
    expected = [
        [64, 1, np.nan, 3, np.nan],
        [81, 0, 170, 1, 80],
        [44, np.nan, np.nan, 2, np.nan],
        [65, 0, 170, 4, 70.5],
        [79, 1, 180, 3, 90],
    ]
    np.testing.assert_allclose(stays.descriptors, expected, rtol=1e-6)
    assert [variable.name for variable in DESCRIPTORS] == NAMES


def test_weight_on_admission_is_a_descriptor_and_later_a_vital(source):
    assert _cells(read_stays(source), "vitals", "Weight", 15) == {12: 92.0}
    assert _cells(read_stays(source), "vitals", "Weight", 14) == {}


def test_absence_is_what_was_never_measured(source):
    cohort = cinc2012_cohort(source, fractions={"train": 1.0})
    assert cohort.schema.names == ("descriptors", *VARIABLES)
    present = [[name for name, there in zip(cohort.schema.names, row) if there] for row in cohort.observed]
    assert present == [
        ["descriptors", "vitals", "urine"],
        ["descriptors", "vitals"],
        ["descriptors", "blood_gas"],
        ["descriptors"],  # no series at all
        ["descriptors", "vitals", "blood_gas", "cardiac"],  # vitals by its weight
    ]


def test_the_cohort_of_deaths(source):
    cohort = cinc2012_cohort(source, fractions={"train": 1.0})
    assert cohort.ids.tolist() == cohort.groups.tolist() == ["11", "12", "13", "14", "15"]
    assert cohort.target.tolist() == [0, 1, 0, 1, 0]
    assert cohort.schema.task == TASKS["death"]
    assert cohort.schema["vitals"].shape == (HOURS, 11)
    assert cohort.schema["descriptors"].features[3:5] == ("Weight", "ICUType coronary care")
    table = cohort.batch(np.arange(5)).values["descriptors"]
    assert table[:, 4:].tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert {name: column.tolist() for name, column in cohort.extras.items()} == {
        "set": ["a"] * 5,
        "age_group": ["45-64", "80 and over", "under 45", "65-79", "65-79"],
        "gender": ["male", "female", "unknown", "female", "male"],
        "icu_type": ["medical", "coronary care", "cardiac surgery recovery", "surgical", "medical"],
    }


def test_the_cohort_of_lengths_leaves_unknown_ones_out_and_says_so(source):
    cohort = cinc2012_cohort(source, task="length_of_stay", fractions={"train": 1.0})
    assert cohort.ids.tolist() == ["11", "13", "14", "15"]
    assert cohort.target.tolist() == [5.0, 2.0, 9.0, 3.0]
    assert cohort.target.dtype == np.float32
    assert cohort.schema.task.bins == (1, 2, 3, 4, 5, 6, 7, 8, 14)
    assert "1 stays without length_of_stay left out" in cohort.description


def test_what_was_skipped_is_counted_and_described(tmp_path):
    source = _write(tmp_path, "c", extra="01:00,,5\n01:00,HR,\n48:01,HR,70\n01:00,Mood,3\n")
    (tmp_path / "set-c" / "14.txt").unlink()
    tally = read_stays(source).tally
    assert (tally.nameless, tally.empty, tally.late, tally.unknown) == (4, 4, 4, {"Mood": 4})
    assert (tally.stays, tally.without_record) == ({"c": 4}, 1)
    text = cinc2012_cohort(source, fractions={"train": 1.0}).description
    for part in (
        "4 stays (set c: 4)",
        "4 rows without a parameter's name skipped",
        "4 rows after 48 hours skipped",
        "4 rows of unknown parameters skipped",
        "1 outcomes without a record",
    ):
        assert part in text


@pytest.mark.parametrize("kind", ["gztar", "xztar", "zip"])
def test_folders_and_archives_give_the_same(source, tmp_path, kind):
    archive = shutil.make_archive(str(tmp_path / "all"), kind, source)
    one, other = read_stays(source), read_stays(archive)
    np.testing.assert_array_equal(one.descriptors, other.descriptors)
    for name in VARIABLES:
        np.testing.assert_array_equal(one.series[name], other.series[name])
    assert one.tally == other.tally


def test_sets_can_be_combined(tmp_path):
    _write(tmp_path, "a")
    _write(tmp_path, "b", {number + 100: stay for number, stay in STAYS.items()})
    cohort = cinc2012_cohort(tmp_path, fractions={"train": 1.0})
    assert cohort.extras["set"].tolist() == ["a"] * 5 + ["b"] * 5
    assert cohort.target.tolist() == [0, 1, 0, 1, 0] * 2


def test_prepare_writes_a_folder_that_opens_again(source, tmp_path):
    cohort = prepare(source, tmp_path / "out", fractions={"train": 1.0})
    again = Cohort.open(tmp_path / "out")
    direct = cinc2012_cohort(source, fractions={"train": 1.0})
    for other in (cohort, again):
        assert other.name == "cinc2012"
        assert other.description == direct.description
        np.testing.assert_array_equal(other.observed, direct.observed)
        one, two = other.batch(np.arange(5)), direct.batch(np.arange(5))
        for name in VARIABLES:
            assert torch.equal(one.values[name], two.values[name])
        assert one.measured.keys() == two.measured.keys()
        for name, measured in one.measured.items():
            assert torch.equal(measured, two.measured[name])


def test_nothing_is_written_when_the_source_is_bad(source, tmp_path):
    (source / "set-a" / "13.txt").write_text("Time,Parameter\n")
    with pytest.raises(DataError, match=r"source/set-a/13\.txt lacks the column 'Value'"):
        prepare(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UnknownNameError, match="unknown task of cinc2012 'mortality' .*death, length_of_stay"):
        prepare(source, tmp_path / "out", task="mortality")


def test_no_known_length_of_stay(tmp_path):
    stays = {number: (admission, rows, (-1, 0)) for number, (admission, rows, _) in STAYS.items()}
    with pytest.raises(DataError, match="no stay in .* has a known length_of_stay"):
        cinc2012_cohort(_write(tmp_path, stays=stays), task="length_of_stay")


# ---- the real set a ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def set_a(shared_data):
    path = shared_data / "cinc2012" / "set-a.tar.xz"
    if not path.is_file():
        pytest.skip(f"the upstream data are not at {path}")
    return path


@pytest.fixture(scope="module")
def stays_a(set_a):
    return read_stays(set_a)


def test_set_a_has_the_published_counts(stays_a):
    assert stays_a.tally.stays == {"a": 4000}
    assert stays_a.tally.rows == 1_757_980
    assert stays_a.outcomes.death.sum() == 554
    assert stays_a.tally.unknown == {}
    assert (stays_a.tally.nameless, stays_a.tally.without_record, stays_a.tally.late) == (0, 0, 0)
    nothing = np.all([np.isnan(x).all((1, 2)) for x in stays_a.series.values()], axis=0)
    assert {"140501", "140936", "141264"} <= set(stays_a.ids[nothing])


def test_set_a_equals_a_plain_reading_of_some_files(set_a, stays_a):
    """An independent reading, stay by stay with pandas, of every variable that needs no cleaning there."""
    import tarfile

    with tarfile.open(set_a) as archive:
        for number in ("132539", "139060", "142673"):
            frame = pd.read_csv(archive.extractfile(f"set-a/{number}.txt"))
            frame["hour"] = frame["Time"].str.split(":").str[0].astype(int).clip(upper=47)
            row = stays_a.ids.tolist().index(number)
            for modality, variables in VARIABLES.items():
                for column, variable in enumerate(variables):
                    rows = frame[(frame["Parameter"] == variable.name) & (frame["Value"] >= variable.low)]
                    rows = rows[rows["Time"] != "00:00"] if variable.name == "Weight" else rows
                    grouped = rows.groupby("hour")["Value"]
                    hourly = (grouped.sum() if variable.name == "Urine" else grouped.mean()).reindex(range(48))
                    np.testing.assert_allclose(stays_a.series[modality][row, :, column], hourly, rtol=1e-6)


def test_set_a_as_a_cohort_is_naturally_incomplete_and_stratified(set_a):
    cohort = cinc2012_cohort(set_a, seed=1)
    rates = dict(zip(cohort.schema.names, cohort.observed.mean(0)))
    assert rates["descriptors"] == 1.0
    assert 0.5 < rates["liver"] < 0.55
    assert 0.25 < rates["cardiac"] < 0.28
    shares = {name: len(cohort.split(name)) / 4000 for name in ("train", "valid", "test")}
    assert shares == pytest.approx({"train": 0.7, "valid": 0.1, "test": 0.2}, abs=0.002)
    for name in shares:
        assert cohort.split(name).target.mean() == pytest.approx(554 / 4000, abs=0.003)
    assert np.isfinite(cohort.batch(np.arange(4000)).values["vitals"].numpy()).all()


def test_set_a_lengths_of_stay(stays_a):
    days = stays_a.outcomes.length_of_stay
    assert np.isnan(days).sum() == 60
    assert np.nanmin(days) == 1
