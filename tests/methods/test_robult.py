"""Robult-style: the objective against a plain transcription, the weights of the contrast, and the two branches."""

import math

import pytest
import torch
from contracts import cases
from torch.nn import functional

from amodal.batch import Batch
from amodal.encoders import encode_pooled
from amodal.losses.contrast import soft_contrast
from amodal.methods.robult import Robult, agreement_of_beliefs

close = torch.testing.assert_close


def case(task="multiclass", seed=1, **options):
    schema = cases.make_schema(task, "tables")
    torch.manual_seed(0)
    method = Robult(schema, cases.identities(schema), hidden=8, dropout=0.0, **options)
    return method, cases.make_batch(schema, cases.mixed_presence(schema, 2), seed=seed)


def agreement(a, b, task):
    if task == "regression":
        return math.exp(-((a - b) ** 2) / 2)
    if task == "multilabel":
        both = ~a.isnan() & ~b.isnan()
        union = ((a[both] == 1) | (b[both] == 1)).sum().item()
        return ((a[both] == 1) & (b[both] == 1)).sum().item() / union if union else 1.0
    return float(a == b)


@pytest.mark.parametrize("task", list(cases.TASKS))
def test_terms_written_out(task):
    """One row, one candidate and one modality at a time; rows whose labels are all known."""
    method, batch = case(task)
    if task == "multilabel":
        batch = batch.take(~batch.target.isnan().all(1))
    features, observed = encode_pooled(method.encoders, batch)
    names, n = method.schema.names, len(batch)
    fused = functional.normalize(method.fused_pooling(features, observed), dim=1)
    z = {(j, m): method.redundant[names[m]](features[j, m]) for j in range(n) for m in range(3) if observed[j, m]}
    u = {(j, m): method.unique[names[m]](features[j, m]) for j, m in z}
    nats, missed = [], []
    for i in range(n):
        scores = {key: fused[i] @ functional.normalize(code, dim=0) / 0.1 for key, code in z.items()}
        total = torch.stack(list(scores.values())).logsumexp(0)
        w = {(j, m): 1.0 if j == i else agreement(batch.target[i], batch.target[j], task) for j, m in z}
        nats.append(-sum(w[key] * (scores[key] - total) for key in z) / sum(w.values()))
    for (j, m), code in z.items():
        decoded = method.decoders[names[m]](torch.cat([code, u[j, m]]))
        missed.append((decoded - features[j, m]).square().mean())
    found = method.objective(batch, torch.Generator())
    close(found.terms["contrast"], torch.stack(nats).mean())
    close(found.terms["reconstruction"], torch.stack(missed).mean())
    assert found.terms["contrast_unlabelled"] == 0
    close(found.terms["fused"], method.task_term(method.fused_head(method.fused_pooling(features, observed)), batch))
    close(found.terms["task"], method.task_term(method.outputs(batch), batch))
    weights = {"contrast": 0.1, "contrast_unlabelled": 0.1, "reconstruction": 0.1}
    assert found.weights == weights


def test_contrast_of_what_cannot_be_told_apart_and_of_rows_alone():
    """The logarithm of the number of present entries; with the row's own entries alone, the loss of instances."""
    observed = cases.patterns(3)
    same = torch.ones(7, 4)
    counted = observed.flatten().expand(7, -1)
    own = torch.eye(7).repeat_interleave(3, dim=1)
    values, some = soft_contrast(same, same.repeat_interleave(3, 0), own, temperature=0.1, counted=counted)
    assert some.all()
    close(values, torch.full((7,), math.log(int(observed.sum()))))
    draw = torch.Generator().manual_seed(0)
    anchors, codes = torch.randn(7, 4, generator=draw), torch.randn(21, 4, generator=draw)
    values, _ = soft_contrast(anchors, codes, own, temperature=0.5, counted=counted)
    shares = (anchors @ codes.T / 0.5).masked_fill(~counted, -math.inf).log_softmax(1)
    expected = [-shares[i, 3 * i : 3 * i + 3][observed[i]].mean() for i in range(7)]
    close(values, torch.stack(expected))


@pytest.mark.parametrize("task", list(cases.TASKS))
def test_predictions_count_only_where_labels_are_unknown(task):
    method, batch = case(task)
    if task == "multilabel":
        batch = batch.take(~batch.target.isnan().all(1))
    kind, draw = method.schema.task.kind, torch.Generator().manual_seed(0)
    shape = method.predict(batch).shape
    one, other = (torch.rand(shape, generator=draw) for _ in range(2))
    assert torch.equal(agreement_of_beliefs(batch, one, kind)[0], agreement_of_beliefs(batch, other, kind)[0])


def test_unlabelled_rows_agree_by_their_predictions():
    schema = cases.make_schema("multilabel", "tables")
    method = Robult(schema, cases.identities(schema), hidden=8)
    batch = cases.make_batch(schema, torch.ones(4, 3, dtype=torch.bool))
    target = torch.tensor([[1.0, 0.0], [1.0, 1.0], [torch.nan] * 2, [torch.nan] * 2])
    batch = Batch(batch.values, batch.observed, target=target)
    p = torch.tensor([[0.9, 0.9], [0.9, 0.9], [0.5, 0.25], [1.0, 0.0]])
    weights, labelled = agreement_of_beliefs(batch, p, "multilabel")
    assert labelled.tolist() == [True, True, False, False]
    close(weights[0], torch.tensor([1.0, 0.5, 0.5 / 1.25, 1.0]))
    close(weights[2, 3], torch.tensor(0.5 / 1.25))
    assert (weights.diagonal() == 1).all()
    terms = method.objective(batch, torch.Generator()).terms
    assert terms["contrast"] > 0
    assert terms["contrast_unlabelled"] > 0


def test_the_fused_branch_is_for_training_only():
    method, batch = case()
    method.predict(batch).sum().backward()
    fused = [p for name, p in method.named_parameters() if name.startswith("fused")]
    assert fused
    assert all(p.grad is None for p in fused)
    before = method.predict(batch)
    for parameter in fused:
        parameter.data.add_(1.0)
    assert torch.equal(method.predict(batch), before)


def test_a_decoder_that_inverts_has_no_reconstruction_loss():
    method, batch = case()
    for name in method.schema.names:
        for networks in (method.unique, method.decoders):
            networks._modules[f"modality_{name}"] = torch.nn.Identity()
        method.decoders._modules[f"modality_{name}"] = Half()
    assert method.objective(batch, torch.Generator()).terms["reconstruction"] == 0


class Half(torch.nn.Module):
    """The unique code, which is the feature itself."""

    def forward(self, codes):
        return codes[..., codes.shape[-1] // 2 :]


def counts_absent_entries(build):
    """Whether what stands in an absent entry, or that it is one more candidate, moves the contrast."""
    _, batch = case()
    schema = cases.make_schema("multiclass", "tables")
    torch.manual_seed(0)
    method = build(schema, cases.identities(schema), hidden=8, dropout=0.0)
    features, observed = encode_pooled(method.encoders, batch)
    fused, weights = method.fused_pooling(features, observed), torch.eye(len(batch))
    codes = method.codes(features)[0]
    moved = torch.where(observed[..., None], codes, codes + 3)
    return not torch.equal(*(method._contrast(fused, z, observed, weights) for z in (codes, moved)))


class CountsAbsent(Robult):
    """A planted fault: absent entries are candidates, too."""

    def _contrast(self, fused, redundant, observed, weights):
        return super()._contrast(fused, redundant, torch.ones_like(observed), weights)


def test_a_contrast_that_counts_absent_entries_is_caught():
    assert not counts_absent_entries(Robult)
    assert counts_absent_entries(CountsAbsent)


@pytest.mark.slow
def test_with_its_weight_the_contrast_falls_below_chance():
    """Chance is the logarithm of the number of candidates; without its weight nothing brings the codes there."""
    draw = torch.Generator().manual_seed(0)
    schema = cases.make_schema("binary", "tables")
    target = torch.arange(48) % 2
    values = {
        name: torch.randn(48, 4, generator=draw) + 1.5 * (2 * target[:, None] - 1) * torch.eye(4)[m]
        for m, name in enumerate(schema.names)
    }
    present = {name: torch.ones(48, dtype=torch.bool) for name in schema.names}
    batch = Batch(values, present, target=target)

    def contrast_after_training(weight):
        torch.manual_seed(0)
        method = Robult(schema, cases.identities(schema), hidden=8, dropout=0.0, w_contrast=weight)
        cases.train(method, batch, steps=80)
        return method.objective(batch, torch.Generator()).terms["contrast"].item()

    assert contrast_after_training(1.0) < math.log(3 * 48) - 0.1 < contrast_after_training(0.0)
