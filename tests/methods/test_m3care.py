"""M3Care: a transcription of the published batch graph, the bank's predictions in closed form, similarity."""

import math

import numpy as np
import pytest
import torch
from contracts import cases

import amodal
from amodal.encoders import encode_pooled
from amodal.errors import RunError
from amodal.losses.task import task_loss
from amodal.methods.m3care import M3Care


def new(schema=None, **options):
    schema = schema or cases.make_schema("multiclass", "tables")
    torch.manual_seed(0)
    given = {"dropout": 0.0, "hidden": 8, "layers": 1, "threshold": 0.2} | options
    return M3Care(schema, given.pop("encoders", None) or cases.identities(schema), **given).eval()


def batch_of(schema, observed, seed=1):
    batch = cases.make_batch(schema, observed, seed=seed)
    return type(batch)(batch.values, batch.observed, {}, {}, batch.target)


def encoded(method, batch):
    features, observed = encode_pooled(method.encoders, batch)
    rows = method.keys(features, method.project(features)), observed
    return features, observed, rows


# The original ----------------------------------------------------------------------------------------------------


def kernel(x, y, width):
    distance = ((x - y) ** 2).sum()
    return sum(torch.exp(-distance / (width * b)) for b in (0.5, 1.0, 2.0)) / 3


def published(method, batch, rows_too=False):
    """The batch's graph and loss, one pair at a time; `rows_too` plants the released blanking of rows and columns."""
    names, n = method.schema.names, len(batch)
    h = [batch.values[name] for name in names]
    p = [batch.observed[name] for name in names]
    there = [[i for i in range(n) if p[m][i]] for m in range(len(names))]
    total, shared = torch.zeros(n, n), torch.zeros(n, n)
    penalty = 0.0
    for m, name in enumerate(names):
        projected = method.projections[name](h[m])
        deep, plain = method.norm(projected.relu()), method.norm(h[m])
        penalty = penalty + (projected[there[m]].norm() - h[m][there[m]].norm()).abs()
        delta = method.mixing[m].sigmoid()
        pairs = [(i, j) for i in there[m] for j in there[m]]
        widths = [
            torch.stack([((x[i] - x[j]) ** 2).sum() for i, j in pairs if i != j]).mean().detach() for x in (deep, plain)
        ]
        for i, j in pairs:
            k = ((1 - delta) * kernel(deep[i], deep[j], widths[0]) + delta) * kernel(plain[i], plain[j], widths[1])
            total = total.index_put((torch.tensor(i), torch.tensor(j)), k, accumulate=True)
            shared[i, j] += 1
    similarity = total / shared.clamp_min(1)
    threshold = method.threshold.sigmoid()
    edges = (similarity - threshold).relu()
    edges = edges + (edges > 0) * threshold.detach()
    tokens = []
    for m in range(len(names)):
        a = edges * p[m] * (p[m][:, None] if rows_too else 1)
        if method.normalise:
            a = a / a.sum(1, keepdim=True).clamp_min(1e-6)
        state = h[m]
        for layer in (0, 1):
            state = (a @ state @ method.graph_weight[layer, m] + method.graph_bias[layer, m]).relu()
        gates = [(x @ method.gate_weight[g, m] + method.gate_bias[g, m]).sigmoid() for g, x in enumerate((state, h[m]))]
        mixed = (gates[0][:, None] * state + gates[1][:, None] * h[m]) / (gates[0] + gates[1])[:, None]
        tokens.append(torch.where(p[m][:, None], mixed, state))
    states = method.transformer(torch.stack(tokens, dim=1) + method.modality, torch.ones(n, len(names)).bool())
    loss = task_loss(method.head(states.flatten(1)), batch.target, "multiclass").mean()
    return loss + method.w_norm * penalty


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("rows_too", [False, True], ids=["as meant", "planted: rows blanked too"])
def test_the_original_case_is_the_original(normalise, rows_too):
    """Loss and gradients; blanking the rows that lack a modality, as released, makes what is imputed constant."""
    method = new(normalise=normalise, w_norm=0.1).train()
    batch = batch_of(method.schema, cases.mixed_presence(method.schema, 2))
    total, expected = method.objective(batch, torch.Generator()).total, published(method, batch, rows_too)
    parameters = list(method.parameters())
    ours, theirs = (torch.autograd.grad(loss, parameters) for loss in (total, expected))
    same = [torch.allclose(a, b, atol=1e-5, rtol=1e-3) for a, b in zip((total, *ours), (expected, *theirs))]
    assert all(same) == (not rows_too)


# Similarity and edges --------------------------------------------------------------------------------------------


def test_similarity_is_symmetric_and_one_with_oneself():
    method = new()
    _, observed, rows = encoded(method, batch_of(method.schema, cases.mixed_presence(method.schema, 2)))
    similarity, _ = method.similarity(rows, rows)
    torch.testing.assert_close(similarity, similarity.T)
    torch.testing.assert_close(similarity.diagonal(), torch.ones(len(similarity)))
    assert ((similarity >= 0) & (similarity <= 1 + 1e-6)).all()
    nothing = (observed.float() @ observed.float().T) == 0
    assert nothing.any()
    assert not similarity[nothing].any()


def test_cases_alike_in_what_they_share_are_neighbours_under_any_threshold():
    method = new(threshold=0.999)
    batch = batch_of(method.schema, torch.ones(4, 3, dtype=torch.bool))
    values = {name: value.clone() for name, value in batch.values.items()}
    for name in "ab":
        values[name][1] = values[name][0]
    seen = {"a": batch.observed["a"], "b": batch.observed["b"], "c": torch.tensor([True, False, True, True])}
    _, _, rows = encoded(method, cases.Batch(values, seen))
    similarity, _ = method.similarity(rows, rows)
    assert similarity[0, 1].item() == 1.0
    assert (method.edges(similarity) > 0).sum() == 4 + 2


@pytest.mark.parametrize(("start", "share"), [(0.88, 0.10), (0.5, 0.42)])
def test_how_near_a_neighbour_must_be(start, share):
    """The share of the mean squared distance, in both kernels, up to which there is an edge at first."""
    method = new(threshold=start, mixing=0.88 if start == 0.88 else 0.43)
    delta, width = method.mixing[0].sigmoid(), torch.tensor(1.0)
    for factor, edge in ((0.95, True), (1.05, False)):
        k = kernel(torch.zeros(1), torch.tensor([math.sqrt(factor * share)]), width)
        assert bool(method.edges(((1 - delta) * k + delta) * k) > 0) == edge


def test_edges_keep_their_value_and_carry_the_gradient_of_the_difference():
    method = new(threshold=0.5)
    similarity = torch.tensor([[0.9, 0.4]], requires_grad=True)
    edges = method.edges(similarity)
    torch.testing.assert_close(edges, torch.tensor([[0.9, 0.0]]))
    slopes = torch.autograd.grad(edges.sum(), [similarity, method.threshold])
    assert slopes[0].tolist() == [[1.0, 0.0]]
    assert slopes[1].item() == pytest.approx(-0.25)  # of the sigmoid


def test_a_neighbour_gives_the_absent_feature_and_none_leaves_the_bias():
    method = new()
    batch = batch_of(method.schema, torch.tensor([[True, True, True], [True, True, False]]))
    values = {**batch.values, "a": batch.values["a"][:1].repeat(2, 1), "b": batch.values["b"][:1].repeat(2, 1)}
    auxiliary = []
    for c in (values["c"], values["c"] + 1.0):
        features, observed, rows = encoded(method, cases.Batch({**values, "c": c}, batch.observed))
        edges = method.edges(method.similarity(rows, rows)[0])
        auxiliary.append(method.among(features, observed, edges)[1][1, 2])
    assert not torch.allclose(*auxiliary)
    with torch.no_grad():
        method.threshold.fill_(50.0)  # the threshold is one: nobody is a neighbour, not even oneself
    features, observed, rows = encoded(method, batch)
    edges = method.edges(method.similarity(rows, rows)[0])
    bias = (method.graph_bias[0].relu() * 0 @ method.graph_weight[1] + method.graph_bias[1]).relu()[:, 0]
    torch.testing.assert_close(method.among(features, observed, edges)[1], bias.expand(2, 3, 4))


def test_a_projection_that_keeps_norms_costs_nothing():
    method = new()
    for _, phi in method.projections.items():
        for index in (0, 2, 4):
            torch.nn.init.eye_(phi[index].weight)
            torch.nn.init.zeros_(phi[index].bias)
    batch = batch_of(method.schema, cases.patterns(3))
    positive = cases.Batch({k: v.abs() for k, v in batch.values.items()}, batch.observed, target=batch.target)
    assert method.objective(positive, torch.Generator()).terms["norm"].item() == pytest.approx(0, abs=1e-5)


def test_identical_rows_have_a_width():
    method = new()
    batch = batch_of(method.schema, torch.ones(1, 3, dtype=torch.bool)).take(torch.zeros(3, dtype=torch.int64))
    total = method.train().objective(batch, torch.Generator()).total
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(total, list(method.parameters())))


# The bank --------------------------------------------------------------------------------------------------------


def with_bank(method, batch, *, scale_rows=0):
    method.batch_rows.fill_(scale_rows)
    with torch.no_grad():
        method.remember([batch])
    return method


@pytest.mark.parametrize("normalise", [True, False])
def test_a_bank_of_the_other_rows_is_the_batch_without_what_the_others_hear_of_the_row(normalise):
    method = new(normalise=normalise)
    batch = batch_of(method.schema, cases.mixed_presence(method.schema, 2))
    features, observed, rows = encoded(method, batch)
    similarity, widths = method.similarity(rows, rows)
    edges = method.edges(similarity)
    for i in range(len(batch)):
        others = torch.arange(len(batch)) != i
        with_bank(method, batch.take(others))
        method.widths.copy_(widths)  # of the whole batch
        bank = encoded(method, batch.take(others))
        method.bank_first = method.among(bank[0], bank[1], edges[others][:, others])[0].detach()
        deaf = edges.clone()
        deaf[others, i] = 0.0
        expected = method.read(features, observed, method.among(features, observed, deaf)[1])[i]
        torch.testing.assert_close(method.outputs(batch.take(~others))[0], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("normalise", [True, False])
def test_a_bank_twice_as_large_changes_nothing(normalise):
    """Edges to it count as many as a training batch has; without that factor sums would double."""
    method = new(normalise=normalise)
    batch = batch_of(method.schema, cases.mixed_presence(method.schema, 2))
    queries = batch_of(method.schema, cases.patterns(3), seed=2)
    with_bank(method, batch, scale_rows=9)
    one, first, widths = method._scale(), method.bank_first, method.widths.clone()
    expected = method.outputs(queries)
    for part in ("bank_features", "bank_observed", "bank_keys"):
        setattr(method, part, getattr(method, part).repeat(2, *[1] * (getattr(method, part).ndim - 1)))
    method.bank_first, method.widths = first.repeat(2, 1, 1), widths
    assert method._scale() == one / 2
    torch.testing.assert_close(method.outputs(queries), expected, atol=1e-5, rtol=1e-4)
    method.batch_rows.fill_(17)  # 2 (B - 1): the factor of before, for twice the rows
    assert (method.outputs(queries) - expected).abs().max() > 1e-4


def test_a_prediction_is_a_function_of_its_row():
    method = with_bank(new(), batch_of(cases.make_schema(modalities="tables"), cases.patterns(3).repeat(4, 1)))
    queries = batch_of(method.schema, cases.mixed_presence(method.schema, 3), seed=5)
    whole = method.predict(queries)
    for size in (1, 7):
        parts = torch.cat([method.predict(queries.take(rows)) for rows in torch.arange(21).split(size)])
        torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-5)


def test_without_a_bank_it_says_so():
    method = new()
    with pytest.raises(RunError, match=r"m3care has no bank.*amodal\.fit stores it"):
        method.predict(batch_of(method.schema, cases.patterns(3)))


def test_the_bank_is_a_random_choice_that_does_not_depend_on_batches():
    schema = cases.make_schema(modalities="tables")
    batch = batch_of(schema, cases.patterns(3).repeat(8, 1))
    chosen = []
    for size in (56, 10):
        method = new(schema, bank=20)
        with torch.no_grad():
            method.remember([batch.take(rows) for rows in torch.arange(56).split(size)])
        chosen.append(method.bank_features)
    assert torch.equal(*chosen)
    assert len(chosen[0]) == 20
    everything = with_bank(new(schema, bank=100), batch)
    assert torch.equal(everything.bank_features, encode_pooled(everything.encoders, batch)[0])


def test_validation_is_by_the_bank_of_the_present_weights():
    """Without one the first validation would fail; the last weights' bank is in the model."""
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(60, 3)).astype(np.float32), "b": rng.normal(size=(60, 3)).astype(np.float32)}
    cohort = amodal.Cohort.from_arrays(x, task=cases.TASKS["binary"], target=np.arange(60) % 2)
    train, valid = cohort.take(np.arange(40)), cohort.take(np.arange(40, 60))
    model = amodal.fit("m3care", train, valid, epochs=2, seed=0, options={"bank": 16})
    assert len(model.method.bank_features) == 16
    assert int(model.method.batch_rows) == 16
    assert model.history.valid_loss.notna().all()


def clusters(n, groups, seed):
    """Two modalities: a says which of many groups, b (one coordinate) carries the label of the group."""
    centres = 3 * torch.randn(groups, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.rand(groups, generator=torch.Generator().manual_seed(1)) < 0.5
    draw = torch.Generator().manual_seed(seed)
    group = torch.arange(n) % groups
    a = centres[group] + 0.3 * torch.randn(n, 8, generator=draw)
    b = torch.randn(n, 8, generator=draw)
    b[:, 0] = 4.0 * (labels[group].float() * 2 - 1)
    return {"a": a, "b": b}, labels[group].long()


@pytest.mark.slow
@pytest.mark.parametrize("connected", [True, False], ids=["graph", "no neighbours"])
def test_the_graph_brings_what_the_absent_modality_would_have_said(connected):
    """Trained on complete rows, asked about rows that lack the modality with the label; without edges it is lost."""
    schema = cases.Schema(tuple(cases.Modality(name, "tabular", (8,)) for name in "ab"), cases.TASKS["binary"])
    method = new(schema, threshold=0.5 if connected else 1 - 1e-7)
    values, target = clusters(120, 30, 2)
    batch = cases.Batch(values, dict.fromkeys("ab", torch.ones(120, dtype=torch.bool)), target=target)
    cases.train(method, batch, steps=60, learning_rate=0.01)
    values, target = clusters(300, 30, 3)
    seen = {"a": torch.ones(300, dtype=torch.bool), "b": torch.zeros(300, dtype=torch.bool)}
    accuracy = float((method.predict(cases.Batch(values, seen)).argmax(1) == target).double().mean())
    assert (accuracy > 0.9) == connected
    assert math.isfinite(accuracy)
