"""The section on impact: its numbers are the model's, its cases follow its rules, and it knows when to be silent."""

from __future__ import annotations

import re

import numpy as np
import pytest

from amodal.benchmark import Experiment, run_all
from amodal.checkpoint import TrainedModel
from amodal.data import load_cohort
from amodal.missingness import MCAR
from amodal.predictive_impact.model import impact as impact_of
from amodal.report import impact as module
from amodal.report.impact import impact
from amodal.report.subject import Subject


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """PRIMO on few digits, trained for an epoch, of which half are missing."""
    out = tmp_path_factory.mktemp("runs")
    cohort = load_cohort("digits")
    rows = [np.flatnonzero(cohort.splits == name)[:n] for name, n in (("train", 200), ("valid", 20), ("test", 50))]
    small = cohort.take(np.concatenate(rows))
    common = {"test_missingness": MCAR(0.5), "patterns": "met", "resamples": 20, "width": 8}
    experiments = [Experiment(name, settings={"epochs": 2}, **common) for name in ("fusion", "primo")]  # type: ignore[arg-type]
    return Subject(run_all(experiments, out, cohort=small), title="Digits", cohort=small)


@pytest.fixture(scope="module")
def looks(subject: Subject) -> module._Looks:
    run, test = module._drawing_run(subject), subject.test
    assert run is not None
    assert test is not None
    return module._look(run, TrainedModel.load(run.folder), test, module._lenders(subject, run))


def test_the_section_says_what_the_model_says(subject: Subject):
    made = impact(subject)
    assert made is not None
    (run,) = subject.results.runs_of("PRIMO: latent draws")
    test = subject.test
    assert test is not None
    rows = np.flatnonzero((test.observed & ~run.test.observed).any(axis=1))
    withheld = test.take(rows).with_observed(run.test.observed[rows])
    model = TrainedModel.load(run.folder)
    assert subject.cohort is not None
    result = impact_of(model, withheld, seed=0, train=subject.cohort.split("train"))
    assert f"completes each of {len(rows)} test cases that lack something" in " ".join(made.body.split())
    most = int(result.variability.argmax())
    assert f"V {result.variability[most]:.3f}, of at most" in made.body
    assert f"<b>{result.ids[most]}</b>" in made.body
    right = float((model.predict(test.take(rows)).argmax(1) == run.target[rows]).mean())
    assert re.search(rf"with everything</th>\s*<td[^>]*>{right:.3f} ", made.body)
    assert made.body.count("look next") == len(re.findall("<article", made.body))


def test_what_happened_is_what_the_model_predicts_when_it_is_revealed(subject: Subject, looks: module._Looks):
    test = subject.test
    assert test is not None
    run = subject.results.runs_of("PRIMO: latent draws")[0]
    model = TrainedModel.load(run.folder)
    for i in (0, 7):
        m = int(looks.advised[i])
        assert looks.open[i, m]
        seen = looks.seen[i] | (np.arange(4) == m)
        one = model.predict(test.take(looks.rows[i : i + 1]).with_observed(seen[None]))[0]
        np.testing.assert_allclose(looks.after(looks.advised)[i], one, atol=1e-6)
        moved = 0.5 * np.abs(one - looks.result.prediction[i]).sum()
        assert looks.moved[i, m] == pytest.approx(moved, abs=1e-6)
        assert looks.advice.gain[i, m] == np.nanmax(np.where(looks.open[i], looks.advice.gain[i], np.nan))
    assert (np.isnan(looks.moved) == ~looks.open).all()


def test_a_random_look_is_the_mean_over_those_that_can_be_had(looks: module._Looks):
    expected = [
        np.mean([looks.one[m, i].argmax() == looks.target[i] for m in np.flatnonzero(can)])
        for i, can in enumerate(looks.open)
    ]
    np.testing.assert_allclose(module._random_right(looks), expected)
    sure = [max(range(4), key=lambda m: _surety(looks, m, i)) for i in range(len(looks.rows))]
    np.testing.assert_array_equal(looks.settling, sure)


def _surety(looks: module._Looks, m: int, i: int) -> float:
    p = looks.one[m, i]
    return float((p * np.log(p)).sum()) if looks.open[i, m] else -np.inf


def test_cases_follow_their_rules(looks: module._Looks):
    rules = {title: (rows, found) for title, _, rows, found in module._choose(looks, "modality")}
    rows, found = rules["Most is open"]
    assert found == len(looks.rows)
    assert looks.result.variability[rows[0]] == looks.result.variability.max()
    rows, found = rules["Little was seen, little is open"]
    single = looks.seen.sum(1) == 1
    assert found == single.sum()
    assert looks.result.variability[rows[0]] == looks.result.variability[single].min()
    for i in rules.get("The look changed the answer", ([], 0))[0]:
        assert looks.after(looks.advised)[i].argmax() != looks.result.prediction[i].argmax()


def test_silent_where_nothing_can_be_said(subject: Subject, make_subject):
    assert impact(make_subject("multiclass")) is None  # no method draws
    assert impact(make_subject("regression")) is None
    assert impact(Subject(subject.results, title="", cohort=None)) is None  # no data
