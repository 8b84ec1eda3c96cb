"""Late fusion: averages, joins and losses by hand, and the regression against scikit-learn."""

import numpy as np
import pytest
import torch
from contracts import cases
from scipy.special import expit, log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from amodal.errors import ConfigurationError
from amodal.fusion.late import JoinedPredictions
from amodal.methods.late_fusion import LateFusion


def case(task, **options):
    schema = cases.make_schema(task, "tables")
    torch.manual_seed(0)
    method = LateFusion(schema, cases.identities(schema), hidden=0, dropout=0.0, **options).eval()
    method.prepare([cases.make_batch(schema, cases.mixed_presence(schema, 2), seed=1)])
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
    method, batch, outputs = case("multiclass", join="average")
    expected = np.stack([softmax(row, axis=1).mean(0) for row in outputs])
    logits = np.stack([softmax(row.mean(0)) for row in outputs])
    np.testing.assert_allclose(method.predict(batch).detach(), expected, atol=1e-6)
    assert np.abs(expected - logits).max() > 1e-3


def test_labels_and_regression_are_averaged():
    method, batch, outputs = case("multilabel", join="average")
    np.testing.assert_allclose(method.predict(batch).detach(), [expit(row).mean(0) for row in outputs], atol=1e-6)
    method, batch, outputs = case("regression", join="average")
    np.testing.assert_allclose(method.predict(batch).detach(), [row.mean() for row in outputs], atol=1e-6)


@pytest.mark.parametrize("own_weight", [1.0, 0.25, 0.0])
def test_the_objective_by_hand(own_weight):
    """Every modality counts fully in every row that has it; both terms are means over all rows."""
    method, batch, outputs = case("multiclass", join="average", own_weight=own_weight)
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
        own = method.objective(batch, torch.Generator()).terms["task"]
        gradients.append(torch.autograd.grad(own, list(method.heads["a"].parameters())))
    for first, second in zip(*gradients):
        torch.testing.assert_close(first, second)


def test_a_negative_weight_is_an_error():
    with pytest.raises(ConfigurationError, match="own_weight of LateFusion is out of range.*0 or more, got -1"):
        LateFusion(cases.make_schema(), own_weight=-1.0)


# The join ------------------------------------------------------------------------------------------------------------


def test_before_the_regression_modalities_are_joined_as_independent_given_the_class():
    """p(y | x_1, x_2) is proportional to p(y | x_1) p(y | x_2) / p(y)."""
    method, batch, outputs = case("multiclass")
    log_rates = np.log((np.bincount(batch.target) + 0.5) / (len(batch) + 1.5))
    odds = [log_softmax(row, axis=1).sum(0) - (len(row) - 1) * log_rates for row in outputs]
    np.testing.assert_allclose(method.predict(batch).detach(), [softmax(row) for row in odds], atol=1e-6)
    method, batch, outputs = case("regression")
    np.testing.assert_allclose(method.predict(batch).detach(), [row.mean() for row in outputs], atol=1e-6)


def made_rows(n, seed=0):
    """Two modalities, the first twice too sure and the second noise that seems sure; half of the rows lack one."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 2, n)
    odds = rng.normal(size=n) * 1.5 + 2.25 * (target - 0.5)  # true log odds: of a unit shift of 1.5
    z = np.stack([2 * odds, 3 * rng.normal(size=n)], axis=1)
    outputs = np.stack([np.zeros_like(z), z], axis=2)
    observed = np.ones((n, 2), dtype=bool)
    observed[np.arange(n) % 4 == 0, 0] = False
    observed[np.arange(n) % 4 == 1, 1] = False
    return torch.from_numpy(outputs).float(), torch.from_numpy(observed), torch.from_numpy(target)


def test_the_regression_agrees_with_scikit_learn_and_calibrates():
    outputs, observed, target = made_rows(4000)
    join = JoinedPredictions(2, 2, "binary")
    join.learn(outputs, observed, target, torch.ones(4000), torch.arange(4000))
    assert (join.scale * join.worth[2]).tolist() == pytest.approx([0.5, 0.0], abs=0.05)
    both = observed.all(1)
    theirs = LogisticRegression(C=np.inf).fit(outputs[both, :, 1], target[both]).predict_proba(outputs[both, :, 1])
    ours = join(outputs, observed)[both].softmax(1)
    np.testing.assert_allclose(ours, theirs, atol=0.05)
    outputs[~observed] = torch.nan  # absent outputs are never read
    np.testing.assert_array_equal(join(outputs, observed)[both].softmax(1), ours)


def test_few_rows_move_the_join_little_and_a_case_counts_once():
    outputs, observed, target = made_rows(8)
    few, once = JoinedPredictions(2, 2, "binary"), JoinedPredictions(2, 2, "binary")
    few.learn(outputs, observed, target, torch.ones(8), torch.arange(8))
    assert (few.worth - 1).abs().max() < 0.5
    many = [part.repeat(4, *[1] * (part.ndim - 1)) for part in (outputs, observed, target)]
    once.learn(*many, torch.full((32,), 0.25), torch.arange(8).repeat(4))
    torch.testing.assert_close(once.scale, few.scale, atol=1e-3, rtol=0)


def test_a_regression_learns_whom_to_believe():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=2000)
    outputs = np.stack([truth + 0.1 * rng.normal(size=2000), rng.normal(size=2000)], axis=1)[..., None]
    join = JoinedPredictions(2, 1, "regression")
    seen = torch.ones(2000, 2, dtype=torch.bool)
    join.learn(
        torch.from_numpy(outputs).float(), seen, torch.from_numpy(truth).float(), torch.ones(2000), torch.arange(2000)
    )
    error = (join(torch.from_numpy(outputs).float(), seen)[:, 0] - torch.from_numpy(truth)).square().mean()
    assert error < 0.03  # the mean of the two has 0.25


def test_every_modality_keeps_its_best_weights_and_adjusting_stores_the_join():
    method, batch, _ = case("binary")
    losses = method.part_losses(batch)
    assert set(losses) == {f"models.modality_{name}." for name in "abc"}
    assert len(losses["models.modality_a."]) == int(batch.observed["a"].sum())
    before = method.state_dict()["joined.scale"].clone()
    with torch.no_grad():
        method.adjust(iter([(batch, torch.ones(len(batch)))]))
    assert not torch.equal(method.state_dict()["joined.scale"], before)
