"""Recalibration: slopes that are known, its inverse, and that every use of a model has it."""

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, softmax

import amodal
from amodal.data.cohort import Cohort
from amodal.errors import RunError
from amodal.kinds import task_kind
from amodal.missingness import MCAR
from amodal.predictive_impact.predictor import predictions_of
from amodal.recalibration import MANY, Recalibration, fit_recalibration
from amodal.schema import Task

BINARY, CLASSES, LABELS = (task_kind(kind) for kind in ("binary", "multiclass", "multilabel"))


def stated(slopes, n, *, seed=0, base=-1.0):
    """Predictions that are too sure by 1 / slope for each number present, and outcomes of the true probabilities."""
    rng = np.random.default_rng(seed)
    present = rng.integers(0, len(slopes), n)
    true = base + 1.5 * rng.normal(size=n)
    said = base + (true - base) / np.asarray(slopes)[present]
    target = (rng.random(n) < expit(true)).astype(np.int64)
    return np.stack([expit(-said), expit(said)], axis=1), target, present


def fitted(predictions, target, present, traits=BINARY, m=2, weight=None, case=None):
    weight = np.ones(len(target)) if weight is None else weight
    return fit_recalibration(
        predictions, target, present, weight, traits, m, np.arange(len(target)) if case is None else case
    )


def nll(predictions, target):
    return -np.log(predictions[np.arange(len(target)), target]).mean()


def test_slopes_that_are_known_are_found():
    slopes = (1.0, 0.5, 1.8)
    found = fitted(*stated(slopes, 6000, base=0.0))
    np.testing.assert_allclose(found.slopes, slopes, rtol=0.15)
    assert sum(found.cases) == 6000


def test_few_rows_move_little_and_numbers_without_rows_get_the_common_slope():
    predictions, target, present = stated((1.0, 0.3, 0.3), 12)
    assert 0.6 < min(fitted(predictions, target, present).slopes) <= 1.3
    predictions, target, _ = stated((0.5, 0.5, 0.5), 3000)
    found = fitted(predictions, target, np.full(3000, 2))
    assert found.cases == (0, 0, 3000)
    assert found.slopes[0] == found.slopes[1] == pytest.approx(found.slopes[2], rel=0.1)


def test_weights_count_as_repetitions():
    predictions, target, present = stated((1.0, 0.5, 2.0), 400)
    weight = np.random.default_rng(1).integers(1, 4, 400)
    once = fitted(predictions, target, present, weight=weight.astype(float))
    rows = np.repeat(np.arange(400), weight)
    repeated = fitted(predictions[rows], target[rows], present[rows])
    np.testing.assert_allclose(once.slopes, repeated.slopes, rtol=1e-5)


def test_a_case_that_comes_with_several_numbers_counts_once_for_what_is_common():
    """Else a few validation cases under many removals would pass for many cases."""
    predictions, target, _ = stated((0.4,), 30)
    once = fitted(predictions, target, np.full(30, 1), m=9)
    rows, present = np.tile(np.arange(30), 9), np.repeat(np.arange(1, 10), 30)
    many = fitted(predictions[rows], target[rows], present, m=9, case=rows)
    assert many.slopes[0] == pytest.approx(once.slopes[0], rel=1e-5)  # of no row: the common one


def test_classes_and_labels():
    rng = np.random.default_rng(0)
    true = log_softmax(2 * rng.normal(size=(4000, 3)), axis=1)
    target = np.array([rng.choice(3, p=np.exp(row)) for row in true])
    found = fitted(softmax(true / 0.5, axis=1), target, np.ones(4000, int), CLASSES)
    assert found.slopes[1] == pytest.approx(0.5, rel=0.1)
    odds = rng.normal(size=(3000, 2))
    labels = (rng.random((3000, 2)) < expit(odds)).astype(np.float32)
    labels[::3, 0] = np.nan
    found = fitted(expit(odds / 0.5), labels, np.ones(3000, int), LABELS)
    assert found.slopes[1] == pytest.approx(0.5, rel=0.15)


def test_a_curve_is_learnt_where_cases_are_many_and_odds_are_bent():
    rng = np.random.default_rng(0)

    def drawn(n):
        odds = 2 * rng.normal(size=n)
        target = (rng.random(n) < expit(np.where(odds > 0, odds, 0.2 * odds))).astype(np.int64)
        return np.stack([expit(-odds), expit(odds)], axis=1), target, np.ones(n, int)

    found, few = fitted(*drawn(3 * MANY)), fitted(*drawn(MANY))
    assert len(found.curve) > 2
    assert not few.curve
    predictions, target, present = drawn(6000)
    better, straight = (
        part(torch.from_numpy(predictions), torch.from_numpy(present), BINARY).numpy() for part in (found, few)
    )
    assert nll(better, target) < nll(straight, target) < nll(predictions, target)
    order = np.argsort(predictions[:, 1])
    assert (np.diff(better[order, 1]) >= -1e-12).all()


@pytest.mark.parametrize("curve", [(), ((-1.0, -2.0), (0.5, 0.0), (2.0, 1.5))])
def test_what_is_done_can_be_undone(curve):
    found = Recalibration((1.0, 0.4, 2.5), (-0.3, -1.2), curve)
    predictions, _, present = (torch.from_numpy(part) for part in stated((1.0, 1.0, 1.0), 50))
    done = found(predictions, present, BINARY)
    torch.testing.assert_close(done.sum(1), torch.ones(50, dtype=torch.float64))
    torch.testing.assert_close(found.undo(done, present, BINARY), predictions)
    drawn = predictions.expand(3, 50, 2)  # draws of the same rows
    torch.testing.assert_close(found(drawn, present, BINARY), done.expand(3, 50, 2))
    again = Recalibration.from_json(found.to_json(), n_modalities=2, n_outputs=2)
    assert again == found


@pytest.mark.parametrize(
    "change",
    [
        {"slopes": [1.0]},
        {"slopes": [1.0, 0.0, 1.0]},
        {"centre": [float("nan"), 0.0]},
        {"curve": [[0, 1], [1, 0]]},
        {"curve": 3},
        {"cases": None},
    ],
)
def test_a_stored_recalibration_that_is_none_is_an_error(change):
    stored = Recalibration((1.0, 1.0, 1.0), (0.0, 0.0)).to_json() | change
    with pytest.raises(RunError, match="recalibration"):
        Recalibration.from_json(stored, n_modalities=2, n_outputs=2)


# In a model ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, 240)
    values = {name: rng.normal(size=(240, 3)) + target[:, None] for name in "ab"}
    return Cohort.from_arrays(values, task=Task("binary", classes=("no", "yes")), target=target)


def test_every_use_of_a_model_is_recalibrated(cohort, tmp_path):
    settings = {"epochs": 2, "width": 8, "device": "cpu", "seed": 0}
    model = amodal.fit("late_fusion", cohort.take(np.arange(160)), cohort.take(np.arange(160, 240)), **settings)
    assert model.recalibration is not None
    alone, together = model.recalibration.cases[1:]
    assert alone <= 80 == together
    test = cohort.with_observed(MCAR(0.5).draw(cohort.observed, ("a", "b"), np.random.default_rng(0)))
    predicted = model.predict(test)
    (batch,) = model.batches(test)
    raw = model.method.predict(batch)
    assert np.abs(predicted - raw.detach().numpy()).max() > 1e-3
    np.testing.assert_allclose(predictions_of(model, batch).detach(), predicted, atol=1e-6)
    again = amodal.load(model.save(tmp_path / "run"))
    np.testing.assert_array_equal(again.predict(test), predicted)
    assert again.recalibration == model.recalibration
    plain = amodal.fit(
        "late_fusion", cohort.take(np.arange(160)), cohort.take(np.arange(160, 240)), recalibrate=False, **settings
    )
    assert plain.recalibration is None
    np.testing.assert_allclose(plain.predict(test), raw.detach().numpy(), atol=1e-6)


def test_without_removal_only_the_rows_as_they_are_count(cohort):
    model = amodal.fit("fusion", cohort, missingness=None, epochs=1, width=4, device="cpu")
    assert model.recalibration is not None
    assert model.recalibration.cases == (0, 0, 24)


def test_a_regression_has_nothing_to_recalibrate(cohort):
    values = {"a": np.random.default_rng(0).normal(size=(60, 2))}
    numbers = Cohort.from_arrays(values, task=Task("regression"), target=values["a"][:, 0])
    assert amodal.fit("fusion", numbers, epochs=1, width=4, device="cpu").recalibration is None
