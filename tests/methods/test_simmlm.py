"""SimMLM: the gated mixture and its ranking loss against a plain transcription, the draw of pairs, and gradients."""

import math

import numpy as np
import pytest
import torch
from contracts import cases
from scipy.stats import chisquare

from amodal.batch import Batch
from amodal.errors import ConfigurationError
from amodal.method import Clock
from amodal.methods.simmlm import SimMLM, draw_pair, gated


def case(task="multiclass", observed=None, **options):
    schema = cases.make_schema(task, "tables")
    torch.manual_seed(0)
    method = SimMLM(schema, cases.identities(schema), **{"hidden": 0, "gate_hidden": 8, "dropout": 0.0} | options)
    observed = cases.mixed_presence(schema, 2) if observed is None else observed
    return method, cases.make_batch(schema, observed, seed=1)


def prediction_of(method, batch, i, members):
    """Outputs of one row from the modalities in `members`, written out."""
    names = method.schema.names
    logits = method.gate(
        torch.cat(
            [batch.values[n][i] * (n in members) for n in names] + [torch.tensor([float(n in members) for n in names])]
        )
    ).view(len(names), -1)
    experts = {n: method.experts[n](batch.values[n][i]) for n in members}
    total = sum(logits[names.index(n)].exp() for n in members)
    return sum(logits[names.index(n)].exp() / total * experts[n] for n in members)


def losses_of(outputs, target, task):
    """The loss of every output whose target is known."""
    if task == "regression":
        return (outputs - target).square()
    if task == "multilabel":
        known = ~target.isnan()
        p = outputs[known].sigmoid()
        return -(target[known] * p.log() + (1 - target[known]) * (1 - p).log())
    return -outputs.log_softmax(0)[target][None]


@pytest.mark.parametrize("by_output", [None, True, False])
@pytest.mark.parametrize("task", list(cases.TASKS))
def test_objective_and_prediction_written_out(task, by_output):
    method, batch = case(task, by_output=by_output, w_rank=0.3)
    names = method.schema.names
    more, fewer = draw_pair(batch.presence, torch.Generator().manual_seed(7))
    found = method.objective(batch, torch.Generator().manual_seed(7))
    prediction = method.eval().predict(batch)
    task_terms, rank_terms = [], []
    for i in range(len(batch)):
        sets = [[n for n, r in zip(names, row[i]) if r] for row in (more, fewer)]
        losses = [losses_of(prediction_of(method, batch, i, s), batch.target[i], task) for s in sets if s]
        own = [part.mean() if len(part) else torch.zeros(()) for part in losses]
        task_terms.append(sum(own) / len(own))
        hinge = (losses[0] - losses[-1]).clamp(min=0)  # zero for a row with one set
        rank_terms.append(hinge.mean() if len(hinge) else torch.zeros(()))
        outputs = prediction_of(method, batch, i, [n for n in names if batch.observed[n][i]])
        torch.testing.assert_close(prediction[i], method.to_predictions(outputs[None])[0])
    torch.testing.assert_close(found.terms["task"], torch.stack(task_terms).sum() / batch.labelled.sum())
    torch.testing.assert_close(found.terms["rank"], torch.stack(rank_terms).sum() / batch.labelled.sum())
    torch.testing.assert_close(found.total, found.terms["task"] + 0.3 * found.terms["rank"])


def test_weights_add_up_and_are_zero_where_absent():
    method, batch = case("multilabel")
    weights = method.weights(torch.stack(list(batch.values.values()), 1), batch.presence)
    assert weights.shape == (len(batch), 3, 2)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(batch), 2))
    assert (weights[~batch.presence] == 0).all()


def test_one_modality_is_its_predictor_exactly_and_equal_predictors_are_their_mixture():
    method, batch = case(observed=torch.eye(3, dtype=torch.bool))
    features = torch.stack(list(batch.values.values()), 1)
    assert torch.equal(method.outputs(batch), method.expert_outputs(features)[torch.arange(3), torch.arange(3)])
    same = torch.randn(5, 1, 4).expand(5, 3, 4)
    torch.testing.assert_close(gated(same, torch.rand(5, 3, 1).softmax(1)), same[:, 0])


@pytest.mark.parametrize("active", [True, False])
def test_gradient_of_either_prediction(active):
    """(½ + α)/B for the larger set and (½ − α)/B for the smaller where the hinge is active, ½/B each elsewhere."""
    alpha, n = 0.2, 5
    schema = cases.Schema(cases.MODALITIES["tables"][:2], cases.TASKS["regression"])
    method = SimMLM(schema, cases.identities(schema), w_rank=alpha, hidden=0, gate_hidden=0, dropout=0.0)
    given = torch.zeros(n, requires_grad=True), torch.zeros(n, requires_grad=True)
    losses = [torch.full((n,), 2.0 if active else 1.0) + given[0], torch.full((n,), 1.5) + given[1]]
    calls = iter([losses[0], losses[1]])
    batch = cases.make_batch(schema, torch.ones(n, 2, dtype=torch.bool))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("amodal.methods.simmlm.task_loss", lambda *_: next(calls))
        method.objective(batch, torch.Generator().manual_seed(0)).total.backward()
    slopes = (0.5 + alpha, 0.5 - alpha) if active else (0.5, 0.5)
    for part, slope in zip(given, slopes):
        torch.testing.assert_close(part.grad, torch.full((n,), slope / n))


def test_pairs_are_nested_and_uniform_in_their_sizes():
    observed = torch.tensor([[True, True, True, True], [True, False, True, True], [False, False, True, False]])
    observed = observed.repeat_interleave(6000, 0)
    more, fewer = draw_pair(observed, torch.Generator().manual_seed(0))
    assert not (more & ~observed).any()
    assert not (fewer & ~more).any()
    single = observed.sum(1) == 1
    assert torch.equal(more[single], observed[single])
    assert not fewer[single].any()
    paired = ~single
    assert (fewer.sum(1)[paired] >= 1).all()
    assert (fewer.sum(1)[paired] < more.sum(1)[paired]).all()
    for n in (3, 4):
        sizes = more.sum(1)[observed.sum(1) == n].numpy()
        assert chisquare(np.bincount(sizes, minlength=n + 1)[2:]).pvalue > 1e-3
        for size in range(3, n + 1):
            smaller = fewer.sum(1)[(observed.sum(1) == n) & (more.sum(1) == size)].numpy()
            assert chisquare(np.bincount(smaller, minlength=size)[1:size]).pvalue > 1e-3
    times = fewer[observed.sum(1) == 4].sum(0).numpy()
    assert chisquare(times).pvalue > 1e-3


def leak(method, batch):
    """Whether a modality outside of a drawn set changes that set's prediction, the gate's part included."""
    more, fewer = draw_pair(batch.presence, torch.Generator().manual_seed(3))
    features = torch.stack(list(batch.values.values()), 1)
    for seen in (more, fewer):
        other = torch.where(seen[..., None], features, features + 9)
        if not torch.equal(method.weights(features, seen), method.weights(other, seen)):
            return True
    return False


class LeakyGate(SimMLM):
    """A planted fault: the gate of the smaller set reads the features of the larger one."""

    def weights(self, features, observed):
        logits = self.gate(torch.cat([features.flatten(1), observed.to(features.dtype)], dim=1))
        logits = logits.unflatten(1, (observed.shape[1], -1))
        return logits.masked_fill(~observed[..., None], -math.inf).softmax(1)


def test_a_gate_that_reads_what_was_removed_is_caught():
    method, batch = case(observed=torch.ones(6, 3, dtype=torch.bool))
    assert not leak(method, batch)
    schema = method.schema
    assert leak(LeakyGate(schema, cases.identities(schema), hidden=0, dropout=0.0), batch)


def test_a_batch_without_labels_has_a_loss_of_zero_on_the_graph():
    method, batch = case("multilabel")
    blank = Batch(batch.values, batch.observed, target=torch.full((len(batch), 2), torch.nan))
    total = method.objective(blank, torch.Generator().manual_seed(0)).total
    assert total.item() == 0
    total.backward()
    assert all(p.grad is None or not p.grad.any() for p in method.parameters())


def test_the_first_stage_trains_every_predictor_by_itself():
    method, batch = case(alone=0.5)
    features = torch.stack(list(batch.values.values()), 1)
    log_p = method.expert_outputs(features).log_softmax(-1)
    own = -log_p.gather(2, batch.target.view(-1, 1, 1).expand(-1, 3, 1))[..., 0]
    expected = torch.where(batch.presence, own, 0.0).sum(1).mean()
    terms = method.objective(batch, torch.Generator()).terms
    assert list(terms) == ["own"]
    torch.testing.assert_close(terms["own"], expected)
    method.clock = Clock(step=5, steps=10)
    assert list(method.objective(batch, torch.Generator().manual_seed(0)).terms) == ["task", "rank"]


def test_a_weight_at_which_worse_predictions_would_pay_is_refused():
    schema = cases.make_schema()
    with pytest.raises(ConfigurationError, match=r"w_rank of SimMLM is out of range.*less than 0.5"):
        SimMLM(schema, w_rank=0.5)
