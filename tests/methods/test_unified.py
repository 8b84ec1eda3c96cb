"""Unified: the additive form by hand, one bias for every pattern, and what each loss reaches."""

import torch
from contracts import cases
from torch.nn import functional

from amodal.methods.unified import Unified


def build(**options):
    schema = cases.make_schema("multilabel", "tables")
    torch.manual_seed(0)
    return Unified(schema, cases.identities(schema), dropout=0.0, **options).eval()


def rows(method, observed, seed=1):
    batch = cases.make_batch(method.schema, observed, seed=seed)
    return type(batch)(batch.values, batch.observed, target=torch.randint(0, 2, (len(batch), 2)).float())


@torch.no_grad()
def test_the_published_forward():
    """A linear map of all features side by side, nothing else."""
    method = build(form="concat")
    batch = rows(method, torch.ones(6, 3, dtype=torch.bool))
    side_by_side = torch.cat([batch.values[name] for name in method.schema.names], dim=1)
    expected = (side_by_side @ method.head.linear.weight.T + method.head.linear.bias).sigmoid()
    torch.testing.assert_close(method.predict(batch), expected)
    dynamic = build()
    dynamic.head.load_state_dict(method.head.state_dict())
    torch.testing.assert_close(dynamic.predict(batch), expected)  # complete rows: the same in the other form
    terms = method.objective(batch, torch.Generator()).terms
    assert list(terms) == ["task"]
    torch.testing.assert_close(terms["task"], functional.binary_cross_entropy(expected, batch.target))


@torch.no_grad()
def test_a_constant_stands_for_what_is_absent_in_the_published_form():
    method = build(form="concat")
    batch = rows(method, torch.tensor([[True, False, True]]))
    filled = torch.cat([batch.values["a"], method.fill.learned[1:2], batch.values["c"]], dim=1)
    expected = filled @ method.head.linear.weight.T + method.head.linear.bias
    torch.testing.assert_close(method.outputs(batch), expected)


@torch.no_grad()
def test_outputs_are_additive_and_share_one_bias():
    method = build()
    weight, bias = method.head.linear.weight.unflatten(1, (3, 4)), method.head.linear.bias
    for pattern in cases.patterns(3):
        batch = rows(method, pattern.repeat(4, 1))
        parts = [batch.values[n] @ weight[:, m].T for m, n in enumerate(method.schema.names) if pattern[m]]
        torch.testing.assert_close(method.outputs(batch), bias + sum(parts))


@torch.no_grad()
def test_losses_of_all_rows_and_of_each_modality_alone():
    """Rows of two modalities count in the joint loss; a modality's own is of what is predicted with it alone."""
    method = build()
    batch = rows(
        method, torch.tensor([[True, True, False], [False, True, True], [True, False, True], [True, False, False]])
    )
    weight, bias = method.head.linear.weight.unflatten(1, (3, 4)), method.head.linear.bias
    alone = [bias + batch.values[name] @ weight[:, m].T for m, name in enumerate(method.schema.names)]
    seen = batch.presence
    joint = bias + sum(torch.where(seen[:, m : m + 1], o - bias, 0.0) for m, o in enumerate(alone))
    bce = functional.binary_cross_entropy_with_logits
    terms = method.objective(batch, torch.Generator()).terms
    torch.testing.assert_close(terms["task"], bce(joint, batch.target))
    own = sum(bce(o[seen[:, m]], batch.target[seen[:, m]]) for m, o in enumerate(alone))
    torch.testing.assert_close(terms["own"], own)
    predicted = method.outputs(batch.restrict({"b": torch.zeros(4, dtype=torch.bool)}))
    torch.testing.assert_close(predicted[3], alone[0][3])


def encoders_reached(method, present: int) -> list[bool]:
    batch = cases.make_batch(method.schema, cases.patterns(3)[present].repeat(4, 1))
    total = method.objective(batch, torch.Generator()).total
    slopes = [
        torch.autograd.grad(total, list(e.parameters()), retain_graph=True, allow_unused=True)
        for _, e in method.encoders.items()
    ]
    return [any(g is not None and bool(g.any()) for g in parts) for parts in slopes]


def test_one_modality_present_teaches_its_encoder_alone(monkeypatch):
    schema = cases.make_schema("binary", "tables")
    method = Unified(schema, cases.make_encoders(schema), dropout=0.0)
    assert encoders_reached(method, 0) == [True, False, False]
    # Planted: every modality's own loss over all rows, its encoder's zeros read as features.
    plain = Unified.own_term
    monkeypatch.setattr(Unified, "own_term", lambda self, o, seen, b: plain(self, o, torch.ones_like(seen), b))
    batch = cases.make_batch(schema, torch.tensor([[True, False, False]] * 4))
    wrong = method.objective(batch, torch.Generator()).terms["own"]
    monkeypatch.undo()
    assert not torch.isclose(method.objective(batch, torch.Generator()).terms["own"], wrong)
