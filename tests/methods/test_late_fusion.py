"""Late fusion: averages and losses by hand."""

import numpy as np
import pytest
import torch
from contracts import cases
from scipy.special import expit, softmax

from amodal.errors import ConfigurationError
from amodal.methods.late_fusion import LateFusion


def case(task, **options):
    schema = cases.make_schema(task, "tables")
    torch.manual_seed(0)
    method = LateFusion(schema, cases.identities(schema), hidden=0, dropout=0.0, **options).eval()
    batch = cases.make_batch(schema, cases.mixed_presence(schema, 2), seed=1)
    return method, batch, one_at_a_time(method, batch)


def one_at_a_time(method, batch):
    """Outputs of each row's observed modalities, in double precision."""
    rows = []
    for i in range(len(batch)):
        outputs = []
        for name, head in method.heads.items():
            if batch.observed[name][i]:
                (linear,) = head.layers
                weight, bias = (t.detach().double().numpy() for t in (linear.weight, linear.bias))
                outputs.append(weight @ batch.values[name][i].double().numpy() + bias)
        rows.append(np.stack(outputs))
    return rows


def test_probabilities_are_averaged_not_logits():
    method, batch, outputs = case("multiclass")
    expected = np.stack([softmax(row, axis=1).mean(0) for row in outputs])
    logits = np.stack([softmax(row.mean(0)) for row in outputs])
    np.testing.assert_allclose(method.predict(batch).detach(), expected, atol=1e-6)
    assert np.abs(expected - logits).max() > 1e-3


def test_labels_and_regression_are_averaged():
    method, batch, outputs = case("multilabel")
    np.testing.assert_allclose(method.predict(batch).detach(), [expit(row).mean(0) for row in outputs], atol=1e-6)
    method, batch, outputs = case("regression")
    np.testing.assert_allclose(method.predict(batch).detach(), [row.mean() for row in outputs], atol=1e-6)


@pytest.mark.parametrize("own_weight", [1.0, 0.25, 0.0])
def test_the_objective_by_hand(own_weight):
    """Every modality counts fully in every row that has it; both terms are means over all rows."""
    method, batch, outputs = case("multiclass", own_weight=own_weight)
    target = batch.target.numpy()
    fused = np.mean([-np.log(softmax(row, axis=1).mean(0)[y]) for row, y in zip(outputs, target)])
    own = np.mean([-np.log(softmax(row, axis=1)[:, y]).sum() for row, y in zip(outputs, target)])
    terms = method.objective(batch, torch.Generator())
    assert terms.terms["task"].item() == pytest.approx(fused, rel=1e-5)
    assert terms.terms["own"].item() == pytest.approx(own, rel=1e-5)
    assert terms.total.item() == pytest.approx(fused + own_weight * own, rel=1e-5)


def test_a_modality_learns_alone_as_much_from_rows_where_others_are_present():
    """Without the average's loss, its gradient does not depend on who else is there."""
    schema = cases.make_schema("multiclass", "tables")
    method = LateFusion(schema, cases.identities(schema), hidden=0)
    full = cases.make_batch(schema, torch.ones(6, 3, dtype=torch.bool))
    nobody = torch.zeros(6, dtype=torch.bool)
    gradients = []
    for batch in (full, full.restrict({"b": nobody, "c": nobody})):
        own = method.objective(batch, torch.Generator()).terms["own"]
        gradients.append(torch.autograd.grad(own, list(method.heads["a"].parameters())))
    for first, second in zip(*gradients):
        torch.testing.assert_close(first, second)


def test_a_negative_weight_is_an_error():
    with pytest.raises(ConfigurationError, match="own_weight of LateFusion is out of range.*0 or more, got -1"):
        LateFusion(cases.make_schema(), own_weight=-1.0)
