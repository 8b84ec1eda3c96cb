"""Made MIMIC: the upstream layout, its truth found again by every command; the seed alone decides it."""

import gzip
import hashlib

import numpy as np
import pytest
from data.mimic_made import read

from amodal.cli import main
from amodal.data.sources.mimic.cohort import prepare_mimic
from amodal.data.sources.mimic.made.tables import make
from amodal.data.sources.mimic.made.truth import make_stays
from amodal.data.sources.mimic.multibench import prepare as prepare_multibench
from amodal.data.sources.mimic.variables import COLUMNS
from amodal.errors import ConfigurationError, DataError, UnknownNameError


def tables_of(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()
        for path in sorted(folder.rglob("*.csv.gz"))
    }


@pytest.fixture(scope="module")
def mimic3(tmp_path_factory):
    return make("mimic3", tmp_path_factory.mktemp("made") / "mimic3", patients=300)


@pytest.fixture(scope="module")
def mimic4(tmp_path_factory):
    return make("mimic4", tmp_path_factory.mktemp("made") / "mimic4", patients=60)


def test_the_seed_decides_everything_and_more_patients_begin_with_the_same(tmp_path):
    folders = [make("mimic3", tmp_path / str(i), patients=20, seed=seed) for i, seed in enumerate((1, 1, 2))]
    first, again, other = (tables_of(folder) for folder in folders)
    assert first == again
    assert first["ADMISSIONS.csv.gz"] != other["ADMISSIONS.csv.gz"]
    few, many = (next(make_stays(n, seed=3)) for n in (10, 40))
    alike = np.isin(many.stay, few.stay)
    assert (many.severity[alike] == few.severity).all()


def test_every_task_of_mimic3_and_its_truth(mimic3, tmp_path):
    truth = {int(row["stay"]): row for row in read(mimic3 / "truth.csv.gz")}
    cohort = prepare_mimic("mimic3", mimic3, tmp_path / "m", modalities="ehr,static,notes")
    rows = [truth[int(number)] for number in cohort.ids]
    assert cohort.target.tolist() == [int(row["died"] == "true") for row in rows]
    severity = np.array([float(row["severity"]) for row in rows])
    heart = cohort.batch(np.arange(len(cohort))).values["ehr"][:, :, COLUMNS.index("Heart rate")].mean(1).numpy()
    assert np.corrcoef(severity, heart)[0, 1] > 0.7
    assert cohort.observed[:, 2].tolist() == [row["has_notes"] == "true" for row in rows]
    cm2 = prepare_mimic("mimic3", mimic3, tmp_path / "cm2", modalities="ehr,notes", preset="cm2", task="readmission")
    assert cm2.observed[:, 1].sum() < cohort.observed[:, 2].sum()
    every = prepare_mimic("mimic3", mimic3, tmp_path / "p", task="phenotyping", hours=48)
    assert every.ids.tolist() == cohort.ids.tolist()
    assert 0.05 < every.target.mean() < 0.5
    decline = prepare_mimic("mimic3", mimic3, tmp_path / "d", task="decompensation", every=12)
    assert set(np.unique(decline.target)) == {0, 1}
    form = prepare_multibench(mimic3, tmp_path / "mb", task="icd9_7")
    assert form.schema.names == ("static", "series")
    assert len(form) > 200


def test_mimic4_has_images_reports_and_notes(mimic4, tmp_path):
    cohort = prepare_mimic("mimic4", mimic4, tmp_path / "c", modalities="ehr,cxr,report,notes", preset="cepa")
    assert cohort.schema.names == ("ehr", "cxr", "report", "notes")
    assert cohort.observed.all()
    truth = {row["stay"]: float(row["chest"]) for row in read(mimic4 / "truth.csv.gz")}
    chest = np.array([truth[number] for number in cohort.ids])
    bright = cohort.batch(np.arange(len(cohort))).values["cxr"][:, 0, 100:200].mean((1, 2)).numpy()
    assert np.corrcoef(chest, bright)[0, 1] > 0.7


@pytest.mark.parametrize(("absence", "of_age", "of_chest"), [("mcar", 0, 0), ("mar", -1, 0), ("mnar", 0, 1)])
def test_absence_depends_on_what_it_says(absence, of_age, of_chest):
    stays = next(make_stays(500, absence=absence))
    for what, sign in ((stays.age, of_age), (stays.chest, of_chest)):
        gap = what[stays.has_image].mean() - what[~stays.has_image].mean()
        assert np.sign(round(gap / what.std() / 2.2 / 0.2)) == sign


def test_bad_input(tmp_path, capsys):
    with pytest.raises(UnknownNameError, match="database"):
        make("mimic5", tmp_path / "a")
    with pytest.raises(UnknownNameError, match="mechanism of absence"):
        make("mimic3", tmp_path / "a", absence="none")
    with pytest.raises(ConfigurationError, match="patients 1 or more"):
        make("mimic3", tmp_path / "a", patients=0)
    assert main(["data", "make", "mimic3", "--out", str(tmp_path / "b"), "--patients", "3", "--quiet"]) == 0
    assert "truth.csv.gz" in capsys.readouterr().out
    with pytest.raises(DataError, match="there is something in"):
        make("mimic3", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
