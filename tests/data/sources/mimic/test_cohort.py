"""Cohorts of MIMIC: the open demos with made notes, images and events, by every task, and what is refused."""

import numpy as np
import pytest
from data.mimic_made import NOTES, add_images, add_mimic4_events, add_notes, link, read, write

from amodal.data.sources.mimic.cohort import prepare_mimic
from amodal.data.sources.mimic.splits import assign_splits, split_patients
from amodal.data.sources.mimic.variables import COLUMNS
from amodal.errors import ConfigurationError, DataError, UnknownNameError


@pytest.fixture(scope="module")
def mimic3(shared_data, tmp_path_factory):
    """The demo with seven made notes a stay."""
    folder = link(shared_data / "mimic3-demo", tmp_path_factory.mktemp("m3") / "t", without=["NOTEEVENTS.csv.gz"])
    stays = read(folder / "ICUSTAYS.csv.gz")
    add_notes(folder, [(int(s["hadm_id"]), int(s["subject_id"]), s["intime"]) for s in stays])
    return folder


def test_mimic3_with_notes_of_a_third(mimic3, tmp_path):
    form = {"preset": "cm2", "modalities": "ehr,notes"}
    cohort = prepare_mimic("mimic3", mimic3, tmp_path / "ihm", **form)
    assert cohort.schema.names == ("ehr", "notes")
    assert cohort.schema.modalities[0].shape == (24, 76)
    assert cohort.schema.modalities[0].features == COLUMNS
    assert cohort.observed[:, 0].all()
    for split in ("train", "valid", "test"):
        part = cohort.split(split)
        assert part.observed[:, 1].sum() == round(len(part) / 3)
    assert all(len(set(cohort.splits[cohort.groups == patient])) == 1 for patient in np.unique(cohort.groups))
    row = int(np.flatnonzero(cohort.observed[:, 1])[0])
    text = cohort.batch(np.array([row]))
    words = bytes(text.values["notes"][0].tolist()).decode().rstrip("\0").split("\n")
    assert words == [f"the lungs are clear {i}" for i in (6, 5, 4, 3, 2)]  # the latest first, without signatures
    again = prepare_mimic("mimic3", mimic3, tmp_path / "readm", task="readmission", **form)
    assert again.ids.tolist() == cohort.ids.tolist()
    assert (again.target >= cohort.target).all()
    assert again.target.sum() > cohort.target.sum()


def test_lists_of_patients(mimic3, tmp_path):
    patients = sorted({int(row["subject_id"]) for row in read(mimic3 / "ICUSTAYS.csv.gz")})
    (tmp_path / "test.csv").write_text("".join(f"{p},{int(i < 30)}\n" for i, p in enumerate(patients)))
    (tmp_path / "valid.csv").write_text("\n".join(str(p) for p in patients[30:50]))
    lists = {"test_patients": tmp_path / "test.csv", "valid_patients": tmp_path / "valid.csv"}
    cohort = prepare_mimic("mimic3", mimic3, tmp_path / "out", **lists)
    wanted = {str(p): "test" if i < 30 else "valid" if i < 50 else "train" for i, p in enumerate(patients)}
    assert cohort.splits.tolist() == [wanted[patient] for patient in cohort.groups]
    cohort = prepare_mimic("mimic3", mimic3, tmp_path / "one", test_patients=tmp_path / "test.csv")
    assert ((cohort.splits == "test") == np.isin(cohort.groups, [str(p) for p in patients[:30]])).all()
    assert set(cohort.splits) == {"train", "valid", "test"}
    with pytest.raises(ConfigurationError, match="validation patients needs one of test patients"):
        split_patients(np.arange(9), np.zeros(9), {}, valid=tmp_path / "valid.csv")


def test_bad_lists(tmp_path):
    (tmp_path / "a").write_text("1\n2,1\n")
    (tmp_path / "b").write_text("2\n")
    (tmp_path / "c").write_text("1\nseven\n")
    with pytest.raises(DataError, match="1 patients are in both"):
        assign_splits(np.array([1, 2]), tmp_path / "a", tmp_path / "b")
    with pytest.raises(DataError, match="line 2 of .* is no patient.*seven"):
        assign_splits(np.array([1]), tmp_path / "c", tmp_path / "b")
    with pytest.raises(DataError, match="the list of patients is missing"):
        assign_splits(np.array([1]), tmp_path / "none", tmp_path / "b")


@pytest.mark.parametrize("with_reports", [False, True])
def test_mimic4_with_images_and_reports(shared_data, tmp_path, with_reports):
    stays = add_mimic4_events(shared_data / "mimic4-demo", tmp_path / "m4")
    add_images(tmp_path / "cxr", tmp_path / "reports", stays)
    modalities = ["ehr", "cxr", "report"] if with_reports else ["ehr", "cxr"]
    folders = {"cxr": tmp_path / "cxr", "reports": tmp_path / "reports"}
    cohort = prepare_mimic("mimic4", tmp_path / "m4", tmp_path / "out", modalities=modalities, **folders)
    assert cohort.schema.names == tuple(modalities)
    has = cohort.observed[:, 1]
    assert 0 < has.sum() < len(cohort)
    if with_reports:
        assert cohort.observed[:, 2].tolist() == has.tolist()
    batch = cohort.batch(np.flatnonzero(has)[:3])
    assert batch.values["cxr"].shape == (3, 1, 224, 224)
    assert float(batch.values["cxr"].std(dim=(1, 2, 3)).max()) < 1  # each made image has one grey
    heart = batch.values["ehr"][:, :, COLUMNS.index("Heart rate")]
    assert bool((heart[:, 2:] == heart[:, 1:2]).all())
    assert bool((heart != 86).any())
    # capillary refill and the coma scale's total have no items in MIMIC-IV
    assert batch.values["ehr"][:, :, COLUMNS.index("GCS total: 15")].min() == 1
    matched = prepare_mimic(
        "mimic4", tmp_path / "m4", tmp_path / "matched", modalities=modalities, preset="cepa", **folders
    )
    assert matched.ids.tolist() == cohort.ids[has].tolist()
    assert matched.observed.all()


def test_mimic4_s_notes_are_those_known_by_then(shared_data, tmp_path):
    stays = add_mimic4_events(shared_data / "mimic4-demo", tmp_path / "m4")

    def after(stay, hours):
        return str(np.datetime64(stay["intime"].replace(" ", "T")) + np.timedelta64(hours, "h")).replace("T", " ")

    rows = []
    for stay in stays[:40]:
        one = (stay["subject_id"], stay["hadm_id"])
        rows += [("a", *one, "RR", 1, after(stay, 3), after(stay, 5), f"early {one[1]}")]
        rows += [("b", *one, "RR", 2, after(stay, 40), after(stay, 70), "written too late")]
        rows += [("c", one[0], "", "RR", 3, after(stay, -90), after(stay, -80), "of no admission, long before")]
    write(tmp_path / "notes" / "note" / "radiology.csv.gz", NOTES, rows)
    write(tmp_path / "notes" / "note" / "discharge.csv.gz", NOTES, [(*row[:7], "went home") for row in rows[::3]])
    modalities = "notes,ehr,discharge"
    cohort = prepare_mimic("mimic4", tmp_path / "m4", tmp_path / "out", modalities=modalities, notes=tmp_path / "notes")
    assert cohort.schema.names == ("notes", "ehr", "discharge")
    texts = [bytes(row.tolist()).decode().rstrip("\0") for row in cohort.batch(cohort.observed[:, 0]).values["notes"]]
    assert texts
    assert all(text.startswith("early") and "\n" not in text for text in texts)
    assert (cohort.observed[:, 0] <= cohort.observed[:, 2]).all()
    with pytest.raises(DataError, match="a table of MIMIC-IV-Note is missing: .*radiology"):
        prepare_mimic("mimic4", tmp_path / "m4", tmp_path / "no", modalities="notes", notes=tmp_path / "m4")
    with pytest.raises(DataError, match=r"the folder of MIMIC-IV-Note is missing: .*mimic-iv-note.*--notes"):
        prepare_mimic("mimic4", tmp_path / "m4", tmp_path / "no", modalities="notes")


def test_images_that_cannot_be_used_are_named_and_nothing_is_left(shared_data, tmp_path):
    stays = add_mimic4_events(shared_data / "mimic4-demo", tmp_path / "m4")
    add_images(tmp_path / "cxr", tmp_path / "reports", stays, every=1)
    given = {"modalities": "ehr,cxr", "cxr": tmp_path / "cxr"}
    images = sorted((tmp_path / "cxr").rglob("*.jpg"))
    for image in images:
        image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(DataError, match=r"d\d+\.jpg"):
        prepare_mimic("mimic4", tmp_path / "m4", tmp_path / "out", **given)
    for image in images:
        image.unlink()
    with pytest.raises(DataError, match=r"an image of MIMIC-CXR-JPG is missing: .*d\d+\.jpg"):
        prepare_mimic("mimic4", tmp_path / "m4", tmp_path / "out", **given)
    with pytest.raises(DataError, match=r"the folder of MIMIC-CXR-JPG is missing: .*--cxr"):
        prepare_mimic("mimic4", tmp_path / "m4", tmp_path / "out", modalities="cxr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cxr", "m4", "reports"]


def test_the_demo_itself_has_no_notes_but_a_series(shared_data, tmp_path):
    with pytest.raises(DataError, match="no stay has more than five notes in .*NOTEEVENTS"):
        prepare_mimic("mimic3", shared_data / "mimic3-demo", tmp_path / "out", modalities="ehr,notes", preset="cm2")
    cohort = prepare_mimic(
        "mimic3", shared_data / "mimic3-demo", tmp_path / "out", modalities="static,ehr", bin_hours=2
    )
    assert [m.shape for m in cohort.schema.modalities] == [(5,), (24, 76)]


# Samples and positive labels on the open demo. Those of decompensation are upstream's own; 113 is the number of stays
# that it uses for several tasks.
COUNTS = {
    "mortality": (57, 17),
    "readmission": (57, 21),
    "phenotyping": (113, 586),
    "length_of_stay": (10_941, None),
    "decompensation": (10_863, 456),
}


@pytest.mark.parametrize(
    "task", [pytest.param(task, marks=pytest.mark.slow) if task == "length_of_stay" else task for task in COUNTS]
)
def test_every_task_on_the_open_demo(shared_data, tmp_path, task):
    cohort = prepare_mimic("mimic3", shared_data / "mimic3-demo", tmp_path / "out", task=task)
    n, positive = COUNTS[task]
    assert len(cohort) == n
    if positive is not None:
        assert int(cohort.target.sum()) == positive
    batch = cohort.batch(np.array([0, n - 1]))
    assert bool(batch.values["ehr"].isfinite().all())
    if task == "length_of_stay":
        hour, hours = cohort.extras["hour"], cohort.extras["hours"]
        assert hour.min() == 5
        assert cohort.target == pytest.approx(hours - hour, abs=1e-3)
        assert batch.lengths["ehr"].tolist() == np.minimum(hour[[0, -1]], 48).tolist()


@pytest.mark.slow
def test_a_later_sample_has_the_last_hours_of_its_stay(shared_data, tmp_path):
    """Of two samples of a stay an hour apart, the later one's bins are the earlier one's, moved by one."""
    source = shared_data / "mimic3-demo"
    cohort = prepare_mimic("mimic3", source, tmp_path / "los", task="length_of_stay", hours=24)
    stay, hour = cohort.extras["stay"], cohort.extras["hour"]
    row = int(np.flatnonzero((hour == 60) & (np.roll(hour, -1) == 61) & (np.roll(stay, -1) == stay))[0])
    earlier, later = cohort.batch(np.array([row, row + 1])).values["ehr"].numpy()
    assert (earlier[1:] == later[:-1]).all()
    whole = prepare_mimic("mimic3", source, tmp_path / "all", task="phenotyping")
    full = whole.batch(np.flatnonzero(whole.ids == str(stay[row]))).values["ehr"].numpy()[0]
    assert (full[36:60] == earlier).all()


def test_raw_events_have_their_times(shared_data, tmp_path):
    cohort = prepare_mimic("mimic3", shared_data / "mimic3-demo", tmp_path / "raw", raw=True)
    binned = prepare_mimic("mimic3", shared_data / "mimic3-demo", tmp_path / "bins")
    assert cohort.ids.tolist() == binned.ids.tolist()
    batch, heart = cohort.batch(np.arange(5)), COLUMNS.index("Heart rate")
    for row, length in enumerate(batch.lengths["ehr"].tolist()):
        hours, rate = batch.values["ehr"][row, :length, 0], batch.values["ehr"][row, :length, 9]
        seen = batch.measured["ehr"][row, :length, 9]
        assert bool((hours[1:] > hours[:-1]).all())
        last = binned.batch(np.array([row])).values["ehr"][0, -1, heart]
        assert float(rate[seen][-1]) == float(last)


def test_bad_options(mimic3, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UnknownNameError, match="task of mimic3.*mortalty.*mortality"):
        prepare_mimic("mimic3", mimic3, out, task="mortalty")
    with pytest.raises(UnknownNameError, match="modality of mimic3.*cxr"):
        prepare_mimic("mimic3", mimic3, out, modalities="ehr,cxr")
    with pytest.raises(UnknownNameError, match="preset of mimic3"):
        prepare_mimic("mimic3", mimic3, out, preset="paper")
    with pytest.raises(ConfigurationError, match="notes_share is out of range"):
        prepare_mimic("mimic3", mimic3, out, notes_share=0)
    with pytest.raises(ConfigurationError, match="hours is out of range.*multiple of bin_hours = 2.*got 47"):
        prepare_mimic("mimic3", mimic3, out, hours=47, bin_hours=2)
    with pytest.raises(ConfigurationError, match="bin_hours or every is out of range"):
        prepare_mimic("mimic3", mimic3, out, task="length_of_stay", every=3, bin_hours=2)
    with pytest.raises(DataError, match="a table of MIMIC-III is missing: .*ICUSTAYS"):
        prepare_mimic("mimic3", tmp_path, out)
    with pytest.raises(DataError, match="no stay in .* lasts 4000 hours"):
        prepare_mimic("mimic3", mimic3, out, hours=4000)
    assert not out.exists()


def test_a_missing_column_and_a_place_in_use_are_said_before_the_work(mimic3, shared_data, tmp_path):
    source = link(shared_data / "mimic3-demo", tmp_path / "m3", without=["ICUSTAYS.csv.gz"])
    rows = read(shared_data / "mimic3-demo" / "ICUSTAYS.csv.gz")
    names = [name for name in rows[0] if name != "los"]
    write(source / "ICUSTAYS.csv.gz", names, [[row[name] for name in names] for row in rows])
    with pytest.raises(DataError, match=r"ICUSTAYS.csv.gz lacks the column los"):
        prepare_mimic("mimic3", source, tmp_path / "out")
    prepare_mimic("mimic3", mimic3, tmp_path / "there")
    with pytest.raises(DataError, match=r"there is a cohort in .*there already"):
        prepare_mimic("mimic3", tmp_path / "nowhere", tmp_path / "there")


def test_parquet_and_plain_csv_give_the_same_cohort(shared_data, tmp_path):
    pd = pytest.importorskip("pandas")
    source = link(shared_data / "mimic3-demo", tmp_path / "m3", without=["LABEVENTS.csv.gz", "PATIENTS.csv.gz"])
    labs = pd.read_csv(shared_data / "mimic3-demo" / "LABEVENTS.csv.gz")
    labs.to_parquet(source / "LABEVENTS.parquet")
    (source / "patients.csv").write_text(
        pd.read_csv(shared_data / "mimic3-demo" / "PATIENTS.csv.gz").rename(columns=str.upper).to_csv(index=False)
    )
    cohorts = [prepare_mimic("mimic3", folder, tmp_path / name) for name, folder in
               (("a", shared_data / "mimic3-demo"), ("b", source))]  # fmt: skip
    assert cohorts[0].fingerprint == cohorts[1].fingerprint


def test_phenotypes_of_the_published_file(shared_data, tmp_path):
    file = tmp_path / "definitions.yaml"
    file.write_text("Shock:\n  use_in_benchmark: true\n  codes: ['78552', R6521]\n"
                    "Gout:\n  use_in_benchmark: false\n  codes: ['2749']\n")  # fmt: skip
    cohort = prepare_mimic("mimic3", shared_data / "mimic3-demo", tmp_path / "out", task="phenotyping", phenotypes=file)
    rows = {
        (r["hadm_id"]) for r in read(shared_data / "mimic3-demo" / "DIAGNOSES_ICD.csv.gz") if r["icd9_code"] == "78552"
    }
    stays = {r["icustay_id"]: r["hadm_id"] for r in read(shared_data / "mimic3-demo" / "ICUSTAYS.csv.gz")}
    assert cohort.schema.task.classes == ("Shock",)
    assert cohort.target[:, 0].tolist() == [float(stays[stay] in rows) for stay in cohort.ids]
    file.write_text("Shock: [1, 2]\n")
    with pytest.raises(DataError, match=r"definitions.yaml has no definitions of phenotypes"):
        prepare_mimic("mimic3", shared_data / "mimic3-demo", tmp_path / "no", task="phenotyping", phenotypes=file)
