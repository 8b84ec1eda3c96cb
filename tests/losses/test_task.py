"""Task losses against scikit-learn, SciPy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special
from sklearn import metrics

from amodal.errors import ConfigurationError, ShapeError, UnknownNameError
from amodal.losses.task import logits_to_predictions, prediction_error, prediction_loss, task_loss

NAN = float("nan")


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("kind", "classes"), [("binary", 2), ("multiclass", 5)])
def test_cross_entropy_is_scikit_learns(kind, classes, generator):
    logits = torch.randn(40, classes, generator=generator, dtype=torch.float64) * 3
    target = torch.randint(classes, (40,), generator=generator)
    loss = task_loss(logits, target, kind)
    assert loss.shape == (40,)
    expected = metrics.log_loss(target.numpy(), special.softmax(logits.numpy(), 1), labels=range(classes))
    assert loss.mean().item() == pytest.approx(expected, rel=1e-12)


def test_soft_labels_contain_hard_ones_and_are_linear(generator):
    logits = torch.randn(7, 4, generator=generator)
    target = torch.randint(4, (7,), generator=generator)
    one_hot = torch.nn.functional.one_hot(target, 4).float()
    torch.testing.assert_close(task_loss(logits, one_hot, "multiclass"), task_loss(logits, target, "multiclass"))
    uniform = task_loss(logits, torch.full((7, 4), 0.25), "multiclass")
    torch.testing.assert_close(uniform, -logits.log_softmax(1).mean(1))


def test_multilabel_averages_or_adds_the_known_labels():
    logits = torch.tensor([[2.0, -1.0, 5.0], [0.0, 0.0, 0.0]])
    target = torch.tensor([[1.0, 1.0, NAN], [NAN, NAN, NAN]])
    row = -(math.log(special.expit(2.0)) + math.log(special.expit(-1.0)))
    torch.testing.assert_close(task_loss(logits, target, "multilabel"), torch.tensor([row / 2, 0.0]))
    summed = task_loss(logits, target, "multilabel", over_labels="sum")
    torch.testing.assert_close(summed, torch.tensor([row, 0.0]))


def test_unknown_labels_send_no_gradient():
    logits = torch.randn(3, 2, requires_grad=True)
    target = torch.tensor([[1.0, NAN], [NAN, NAN], [0.0, 1.0]])
    task_loss(logits, target, "multilabel").sum().backward()
    assert torch.equal(logits.grad != 0, ~target.isnan())
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_regression_losses(shape, generator):
    mean = torch.randn(6, generator=generator, dtype=torch.float64) * 3
    target = torch.randn(6, generator=generator, dtype=torch.float64)
    error = (mean - target).numpy()
    np.testing.assert_allclose(task_loss(mean.view(shape), target, "regression"), error**2)


@pytest.mark.parametrize(("kind", "classes"), [("binary", 2), ("multiclass", 4), ("multilabel", 3), ("regression", 1)])
def test_the_loss_of_predictions_is_the_loss_of_their_logits(kind, classes, generator):
    logits = torch.randn(9, classes, generator=generator)
    if kind == "multilabel":
        target = torch.randint(2, (9, classes), generator=generator).float()
        target[0, 0] = NAN
    elif kind == "regression":
        target = torch.randn(9, generator=generator)
    else:
        target = torch.randint(classes, (9,), generator=generator)
    prediction = logits_to_predictions(logits, kind)
    assert prediction.shape == ((9,) if kind == "regression" else (9, classes))
    torch.testing.assert_close(prediction_loss(prediction, target, kind), task_loss(logits, target, kind))


def test_the_loss_of_a_prediction_that_excludes_the_truth_is_large_but_finite():
    loss = prediction_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([1]), "binary")
    assert 80 < loss.item() < 100
    multilabel = prediction_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]), "multilabel")
    assert 40 < multilabel.item() < 50
    soft = prediction_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), "binary")
    assert soft.item() == 0


def test_low_precision_outputs_are_computed_in_float32(generator):
    logits = torch.randn(5, 3, generator=generator, dtype=torch.bfloat16)
    target = torch.randint(3, (5,), generator=generator)
    loss = task_loss(logits, target, "multiclass")
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, task_loss(logits.float(), target, "multiclass"))


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_gradients_are_finite_differences(kind):
    logits = torch.randn(4, {"binary": 2, "regression": 1}.get(kind, 3), dtype=torch.float64, requires_grad=True)
    target = {
        "multilabel": torch.tensor([[1.0, 0, NAN]] * 4, dtype=torch.float64),
        "regression": torch.randn(4, dtype=torch.float64),
    }.get(kind, torch.tensor([0, 1, 1, 0]))
    assert torch.autograd.gradcheck(lambda x: task_loss(x, target, kind), logits)


def test_an_empty_batch_has_no_losses():
    assert task_loss(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), "multiclass").shape == (0,)


@pytest.mark.parametrize(
    ("kind", "outputs", "target", "words"),
    [
        ("binary", torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), r"binary task \(expected \(B, 2\)"),
        ("multiclass", torch.zeros(2, 3), torch.zeros(2), r"expected \(B, C\) with int64 \(B,\).*got \(2, 3\)"),
        ("multiclass", torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), r"torch.int64 \(3,\)"),
        ("multilabel", torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64), r"floating targets of the same"),
        ("regression", torch.zeros(2, 2), torch.zeros(2), r"expected \(B, 1\) or \(B,\) with targets \(B,\)"),
    ],
)
def test_shapes_that_do_not_fit_the_task(kind, outputs, target, words):
    for function in (task_loss, prediction_loss):
        with pytest.raises(ShapeError, match=words):
            function(outputs, target, kind)


def test_unknown_options_are_named():
    with pytest.raises(UnknownNameError, match="unknown kind of task 'multi-label'.*Did you mean 'multilabel'"):
        task_loss(torch.zeros(1, 2), torch.zeros(1, 2), "multi-label")
    with pytest.raises(UnknownNameError, match="unknown kind of task 'rank'"):
        logits_to_predictions(torch.zeros(1, 2), "rank")
    with pytest.raises(ConfigurationError, match="'mean' or 'sum', got 'max'"):
        task_loss(torch.zeros(1, 2), torch.zeros(1, 2), "multilabel", over_labels="max")


def test_error_of_classes_is_scikit_learn_s_zero_one_loss():
    rng = np.random.default_rng(0)
    predicted, target = rng.dirichlet(np.ones(4), 50), rng.integers(0, 4, 50)
    rows = prediction_error(torch.tensor(predicted), torch.tensor(target), "multiclass")
    assert rows.mean().item() == pytest.approx(metrics.zero_one_loss(target, predicted.argmax(1)))
    soft = torch.nn.functional.one_hot(torch.tensor(target), 4).double()
    assert torch.equal(prediction_error(torch.tensor(predicted), soft, "multiclass"), rows)


def test_error_of_labels_counts_the_known_ones():
    predicted = torch.tensor([[0.9, 0.2, 0.7], [0.1, 0.5, 0.4], [0.9, 0.9, 0.9]])
    target = torch.tensor([[1.0, 1.0, math.nan], [0.0, 1.0, 1.0], [math.nan] * 3])
    torch.testing.assert_close(prediction_error(predicted, target, "multilabel"), torch.tensor([1 / 2, 1 / 3, 0.0]))
    with pytest.raises(UnknownNameError, match="regression"):
        prediction_error(torch.zeros(2), torch.zeros(2), "regression")
