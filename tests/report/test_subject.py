"""From run folders to what a report is about, by function and by command."""

import re

import pytest

import amodal
from amodal.cli import main
from amodal.errors import RunError, UnknownNameError
from amodal.missingness import MCAR
from amodal.report.subject import Subject, subject_of


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two runs of one method, and one of another, on digits: as `amodal fit` and `amodal evaluate` leave them."""
    place = tmp_path_factory.mktemp("runs")
    cohort = amodal.load_cohort("digits")
    train, valid, test = (cohort.split(name) for name in ("train", "valid", "test"))
    for name, method, width in (("small", "unimodal", 4), ("large", "unimodal", 8), ("other", "late_fusion", 4)):
        model = amodal.fit(method, train, valid, out=place / name, epochs=1, width=width, seed=0)
        amodal.evaluate(model, test, MCAR(0.5), seed=1, resamples=50).save(place / name)
    return place


def test_runs_of_one_method_and_seed_are_told_apart_by_their_folders(folders):
    subject = subject_of([folders / "small", folders / "large", folders / "other"])
    assert subject.results.names == ("small", "large", "Predictor per modality")
    assert subject.title == "Digit: 3 methods compared"
    assert subject.test is not None
    assert subject.test.ids.tolist() == subject.first.ids.tolist()
    assert subject.commands[0].startswith("amodal report ")


def test_runs_that_differ_in_more_than_their_seeds_are_not_averaged(folders, tmp_path):
    """Two widths with one seed each; their folders have the same name, below others."""
    cohort = amodal.load_cohort("digits")
    train, valid, test = (cohort.split(name) for name in ("train", "valid", "test"))
    for place, width, seed in (("a", 4, 1), ("b", 5, 2), ("c", 4, 2)):
        model = amodal.fit("late_fusion", train, valid, epochs=1, width=width, seed=seed, out=tmp_path / place / "run")
        amodal.evaluate(model, test, MCAR(0.5), seed=1, resamples=50).save(tmp_path / place / "run")
    assert subject_of([tmp_path / "a" / "run", tmp_path / "b" / "run"]).results.names == ("a/run", "b/run")
    assert subject_of([tmp_path / "a" / "run", tmp_path / "c" / "run"]).results.seeds == (1, 2)
    assert subject_of([tmp_path / "a" / "run", tmp_path / "c" / "run"]).results.names == ("Predictor per modality",)


def test_the_command_takes_runs_one_after_the_other(folders, capsys):
    page = folders / "page.html"
    assert main(["report", str(folders / "small"), str(folders / "other"), "--title", "A < B", "--out", str(page)]) == 0
    assert f"The page is {page}" in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert "<h1>A &lt; B</h1>" in text
    assert re.findall(r'<(?:section|div) id="(\w+)"', text) == [
        "answer",
        "cases",
        "comparison",
        "patterns",
        "calibration",
        "decisions",
        "methods",
        "question",
        "presence",
        "training",
        "reproduce",
    ]
    assert main(["report", f"--out={page}", "--data", "digits", str(folders / "small")]) == 0


def test_a_run_that_is_not_there_is_told(folders, capsys):
    assert main(["report", str(folders / "none")]) == 2
    assert "there is no run at" in capsys.readouterr().err


def test_runs_under_another_presence_are_told(folders, tmp_path):
    cohort = amodal.load_cohort("digits")
    model = amodal.load(folders / "other")
    assert isinstance(model, amodal.TrainedModel)
    model.save(tmp_path / "again")
    amodal.evaluate(model, cohort.split("test"), MCAR(0.5), seed=2, resamples=50).save(tmp_path / "again")
    subject = subject_of([folders / "small", tmp_path / "again"])
    assert len(subject.results.settings) == 2
    with pytest.raises(RunError, match="cannot be opened|there is no run"):
        subject_of([tmp_path / "nowhere"])


def test_a_cohort_that_is_asked_for_must_be_there(folders):
    with pytest.raises(UnknownNameError, match="cohort"):
        subject_of([folders / "small"], data="digts")


def test_references_are_grey_and_dashed_and_the_best_other_is_looked_at(make_subject):
    subject: Subject = make_subject()
    assert subject.references == ("Network per pattern", "Boosted trees")
    assert subject.best == "Trained with gaps"
    assert subject.ranked[0] == "Trained with gaps"
    assert [subject.marks[name].dashed for name in subject.results.names] == [False, False, True, True]
    assert len({(mark.colour, mark.marker) for mark in subject.marks.values()}) == 4
    assert make_subject(focus="fusion").best == "Joint network"
    assert [key.label for key in subject.legend] == list(subject.ranked)


def test_names_are_for_people_and_tables_keep_their_own(make_subject):
    subject: Subject = make_subject(titles={"fusion": "Plain"})
    assert subject.results.names == ("Plain", "Trained with gaps", "Network per pattern", "Boosted trees")
    results, references = subject.stored
    assert results.names == ("fusion", "modality_dropout", "per_pattern", "boosting")
    assert references == ["per_pattern", "boosting"]
    named = make_subject(names=("mine", "modality_dropout", "per_pattern", "boosting"))
    assert named.results.names[0] == "mine", "a name that somebody gave stays"
    twice = make_subject(titles={"fusion": "same", "boosting": "same"})
    assert twice.results.names == ("fusion", "modality_dropout", "per_pattern", "boosting")
