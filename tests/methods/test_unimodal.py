"""Unimodal: a logistic regression on one table, and the training prior where it is absent."""

import numpy as np
import pytest
import torch
from contracts import cases
from scipy.special import softmax

from amodal.errors import UnknownNameError
from amodal.methods.unimodal import Unimodal


def linear_method(task, **options):
    schema = cases.make_schema(task, "tables")
    torch.manual_seed(0)
    return Unimodal(schema, cases.identities(schema), hidden=0, dropout=0.0, **options).eval()


def test_predictions_by_hand():
    method = linear_method("multiclass", modality="b")
    batches = [cases.make_batch(method.schema, cases.mixed_presence(method.schema, 2), seed=seed) for seed in (1, 2)]
    method.prepare(batches)
    batch = batches[0]
    (linear,) = method.head.layers
    weight, bias = (t.detach().double().numpy() for t in (linear.weight, linear.bias))
    expected = softmax(batch.values["b"].double().numpy() @ weight.T + bias, axis=1)
    counts = 2 * np.bincount(batch.target, minlength=3)  # both batches have the same targets
    absent = ~batch.observed["b"].numpy()
    expected[absent] = (counts + 0.5) / (counts.sum() + 1.5)
    np.testing.assert_allclose(method.predict(batch).detach(), expected, atol=1e-6)
    loss = method.objective(batch, torch.Generator()).total.item()
    assert loss == pytest.approx(-np.log(expected[np.arange(14), batch.target]).mean(), rel=1e-5)


def test_the_prior_of_labels_leaves_unknown_ones_out():
    method = linear_method("multilabel")
    batch = cases.make_batch(method.schema, torch.tensor([[False, True, True]] * 20), seed=3)
    method.prepare([batch])
    positive, known = np.nansum(batch.target, axis=0), (~batch.target.isnan()).sum(0).numpy()
    np.testing.assert_allclose(method.predict(batch)[0].detach(), (positive + 0.5) / (known + 1), rtol=1e-5)


def test_the_prior_of_a_regression_is_the_mean():
    method = linear_method("regression")
    batch = cases.make_batch(method.schema, torch.tensor([[False, True, True]] * 20), seed=3)
    method.prepare([batch])
    np.testing.assert_allclose(method.predict(batch).detach(), np.full(20, batch.target.mean()), rtol=1e-5)


def test_other_modalities_are_not_there():
    method = linear_method("multiclass")
    assert method.modality == "a"
    assert list(method.encoders) == ["a"]
    batch = cases.make_batch(method.schema, torch.ones(5, 3, dtype=torch.bool))
    nobody = torch.zeros(5, dtype=torch.bool)
    assert torch.equal(method.predict(batch), method.predict(batch.restrict({"b": nobody, "c": nobody})))


def test_a_batch_without_the_modality_has_a_loss_and_teaches_nothing():
    method = linear_method("multiclass")
    batch = cases.make_batch(method.schema, torch.tensor([[False, True, True]] * 6))
    method.prepare([batch])
    loss = method.objective(batch, torch.Generator()).total
    assert loss.item() == pytest.approx(np.log(3), rel=1e-5)
    assert all(not g.any() for g in torch.autograd.grad(loss, list(method.parameters())))


def test_an_unknown_modality_is_an_error():
    with pytest.raises(UnknownNameError, match="unknown modality 'd' .expected one of a, b, c"):
        linear_method("multiclass", modality="d")
