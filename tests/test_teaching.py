"""The teacher: what it sees, how it moves, when it is on, and that nothing of it is left behind."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from contracts import cases

import amodal
from amodal.errors import ConfigurationError, UnknownNameError
from amodal.method import Clock
from amodal.methods import METHODS
from amodal.missingness import Natural
from amodal.teaching import Teacher


def made(teacher: object = "complete", task: str = "binary", name: str = "modality_dropout", **options: object):
    schema = cases.make_method("modality_dropout", task, "tables").schema
    torch.manual_seed(0)
    options = {"dropout": 0.0, "teacher": teacher} | options
    method = METHODS[name](schema, cases.make_encoders(schema), **options).train()
    method.clock = Clock(step=500, steps=1000)
    batch = cases.make_batch(schema, torch.ones(12, len(schema.names), dtype=torch.bool), seed=1)
    return method, dataclasses.replace(batch, labelled=batch.labelled & (torch.arange(12) % 3 == 0))


def test_the_weight_rises_over_the_first_part_of_the_training():
    teacher = Teacher(weight=2.0, ramp=100)
    assert teacher.weight_at(0) == pytest.approx(2 * math.exp(-5))
    assert teacher.weight_at(50) == pytest.approx(2 * math.exp(-5 / 4))
    assert teacher.weight_at(100) == teacher.weight_at(1000) == 2.0
    assert Teacher(ramp=0).weight_at(0) == 1.0


@pytest.mark.parametrize("task", list(cases.TASKS))
@pytest.mark.parametrize("name", ["modality_dropout", "cepa"])
def test_the_average_sees_everything_and_teaches_what_remains(name: str, task: str):
    """One present modality at most remains of two; what is taught is the loss against the whole row's prediction."""
    method, batch = made(task=task, name=name)
    method.eval()
    with torch.no_grad():
        whole = method.predict(batch)
    method.train()
    torch.testing.assert_close(method.taught(batch), whole)
    terms = method.objective(batch, torch.Generator().manual_seed(0))
    assert set(terms.terms) >= {"task", "taught"}
    assert terms.weights["taught"] == 1.0
    terms.terms["taught"].backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in method.parameters())


@pytest.mark.parametrize("patterns", [1, 3])
def test_the_control_withholds_nothing(patterns: int):
    """Teacher and pupil are one network at first: their cross-entropy is the entropy of the whole rows' predictions."""
    entropies = {}
    for teacher in ("complete", "pseudo_labels"):
        method, batch = made(teacher, patterns=patterns)
        terms = method.objective(batch, torch.Generator().manual_seed(0)).terms
        p = method.taught(batch)
        entropies[teacher] = float(terms["taught"].detach()) - float(-(p * p.log()).sum(1).mean())
        task = terms["task"]
    assert entropies["pseudo_labels"] == pytest.approx(0.0, abs=1e-5)
    assert entropies["complete"] > 1e-4
    alone, batch = made("none", patterns=patterns)
    own = alone.objective(batch, torch.Generator().manual_seed(0)).terms["task"]
    assert float(own.detach()) == pytest.approx(float(task.detach()))


def test_nothing_is_taught_where_every_row_has_a_label():
    method, batch = made()
    whole = batch.take(batch.labelled)
    assert set(method.objective(whole, torch.Generator().manual_seed(0)).terms) == {"task"}
    assert len(method.average) == 0
    assert not made("none")[0].uses_unlabelled
    assert made("pseudo_labels")[0].uses_unlabelled


def test_the_average_follows_the_parameters_and_is_gone_after_training():
    method, batch = made({"name": "complete", "decay": 0.9})
    method.objective(batch, torch.Generator().manual_seed(0))
    before = method.average.clone()
    parameters = list(method.parameters())
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(1.0)
    method.clock = Clock(step=10_000, steps=20_000)
    method.after_step()
    torch.testing.assert_close(method.average, before + 0.1)
    own = [parameter.clone() for parameter in parameters]
    method.taught(batch)
    assert all(torch.equal(a, b) for a, b in zip(own, parameters)), "the parameters are put back"
    method.adjust([])
    assert len(method.average) == 0


@pytest.mark.parametrize(
    ("teacher", "error", "words"),
    [
        ("whole", UnknownNameError, "unknown teacher 'whole'.*complete"),
        ({"name": "complete", "decay": 1.0}, ConfigurationError, "decay.*less than 1"),
        ({"name": "none", "weight": 1.0}, UnknownNameError, "weight"),
    ],
)
def test_teachers_that_cannot_be(teacher: object, error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        made(teacher)


def test_a_resumed_run_is_taught_the_same(tmp_path, monkeypatch: pytest.MonkeyPatch):
    cohort = amodal.load_cohort("xor")
    train = cohort.split("train").take(np.arange(200))
    train = train.with_labelled(np.arange(200) % 5 == 0)
    common = {"epochs": 3, "width": 8, "seed": 0, "valid_missingness": Natural(), "device": "cpu"}
    whole = amodal.fit("modality_dropout", train, **common)
    from amodal.training.run import Run

    def stop(self: Run, *given: object):
        found = ended(self, *given)
        if len(self.state.history) == 2:
            raise KeyboardInterrupt
        return found

    ended = Run.end_epoch
    monkeypatch.setattr(Run, "end_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        amodal.fit("modality_dropout", train, out=tmp_path / "run", **common)
    monkeypatch.undo()
    resumed = amodal.fit("modality_dropout", train, out=tmp_path / "run", resume=True, **common)
    np.testing.assert_array_equal(resumed.predict(train), whole.predict(train))
    assert len(resumed.method.average) == 0
    assert amodal.load(tmp_path / "run").predict(train).shape == (200, 2)
