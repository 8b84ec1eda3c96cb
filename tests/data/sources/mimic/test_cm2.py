"""CM2's cohorts of MIMIC: the open demos with made notes, images and events."""

import numpy as np
import pytest
from data.mimic_cm2_made import add_images, add_mimic4_events, add_notes, link, read

from amodal.data.sources.mimic.cm2 import assign_splits, prepare_mimic3, prepare_mimic4
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
    cohort = prepare_mimic3(mimic3, tmp_path / "ihm")
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
    again = prepare_mimic3(mimic3, tmp_path / "readm", task="readm")
    assert again.ids.tolist() == cohort.ids.tolist()
    assert (again.target >= cohort.target).all()
    assert again.target.sum() > cohort.target.sum()


def test_lists_of_patients(mimic3, tmp_path):
    patients = sorted({int(row["subject_id"]) for row in read(mimic3 / "ICUSTAYS.csv.gz")})
    (tmp_path / "test.csv").write_text("".join(f"{p},{int(i < 30)}\n" for i, p in enumerate(patients)))
    (tmp_path / "valid.csv").write_text("\n".join(str(p) for p in patients[30:50]))
    lists = {"test_patients": tmp_path / "test.csv", "valid_patients": tmp_path / "valid.csv"}
    cohort = prepare_mimic3(mimic3, tmp_path / "out", **lists)
    wanted = {str(p): "test" if i < 30 else "valid" if i < 50 else "train" for i, p in enumerate(patients)}
    assert cohort.splits.tolist() == [wanted[patient] for patient in cohort.groups]
    with pytest.raises(ConfigurationError, match="belong together"):
        prepare_mimic3(mimic3, tmp_path / "no", test_patients=tmp_path / "test.csv")


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
    reports = tmp_path / "reports" if with_reports else None
    cohort = prepare_mimic4(tmp_path / "m4", tmp_path / "cxr", tmp_path / "out", reports=reports)
    assert cohort.schema.names == (("ehr", "cxr", "report") if with_reports else ("ehr", "cxr"))
    has = cohort.observed[:, 1]
    assert 0 < has.sum() < len(cohort)
    if with_reports:
        assert cohort.observed[:, 2].tolist() == has.tolist()
    batch = cohort.batch(np.flatnonzero(has)[:3])
    assert batch.values["cxr"].shape == (3, 1, 224, 224)
    assert float(batch.values["cxr"].std(dim=(1, 2, 3)).max()) < 1  # each made image has one grey
    heart = batch.values["ehr"][:, :, COLUMNS.index("Heart rate")]
    assert bool((heart[:, 1:] == heart[:, :1]).all())
    assert bool((heart != 86).any())
    # capillary refill and the coma scale's total have no items in MIMIC-IV
    assert batch.values["ehr"][:, :, COLUMNS.index("GCS total: 15")].min() == 1


def test_a_missing_image_is_named(shared_data, tmp_path):
    stays = add_mimic4_events(shared_data / "mimic4-demo", tmp_path / "m4")
    add_images(tmp_path / "cxr", tmp_path / "reports", stays, every=1)
    for image in (tmp_path / "cxr").rglob("*.jpg"):
        image.unlink()
    with pytest.raises(DataError, match=r"an image of MIMIC-CXR-JPG is missing: .*d\d+\.jpg"):
        prepare_mimic4(tmp_path / "m4", tmp_path / "cxr", tmp_path / "out")


def test_the_demo_itself_has_no_notes(shared_data, tmp_path):
    with pytest.raises(DataError, match="no stay has more than five notes in .*NOTEEVENTS"):
        prepare_mimic3(shared_data / "mimic3-demo", tmp_path / "out")


def test_bad_options(mimic3, tmp_path):
    with pytest.raises(UnknownNameError, match="ihm"):
        prepare_mimic3(mimic3, tmp_path / "out", task="ihn")
    with pytest.raises(ConfigurationError, match="notes_share is out of range"):
        prepare_mimic3(mimic3, tmp_path / "out", notes_share=0)
    with pytest.raises(DataError, match="a table of MIMIC-III is missing: .*ICUSTAYS"):
        prepare_mimic3(tmp_path, tmp_path / "out")
