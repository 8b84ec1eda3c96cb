"""DiCMoR: likelihood, recovery and objective against a plain transcription; what learns from what; hidden truth."""

import math

import pytest
import torch
from contracts import cases
from scipy.stats import norm
from torch import nn

from amodal.batch import Batch
from amodal.encoders import encode_pooled
from amodal.methods.dicmor import DiCMoR, Latents, Refinement, class_shares
from amodal.patterns import draw_removal
from amodal.schema import Task

close = torch.testing.assert_close
SMALL = {"steps": 2, "flow_hidden": 8, "blocks": 1, "hidden": 8, "dropout": 0.0}


def case(task="multiclass", seed=1, observed=None, build=DiCMoR, **options):
    """A method whose flows and prior are away from their start."""
    schema = cases.make_schema(task, "tables")
    torch.manual_seed(0)
    method = build(schema, cases.identities(schema), **SMALL | options)
    for name, parameter in method.named_parameters():
        if name.startswith(("flows", "prior")):
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    observed = cases.mixed_presence(schema, 2) if observed is None else observed
    return method, cases.make_batch(schema, observed, seed=seed)


# From the sheet of the method, one row and one modality at a time ----------------------------------------------------


def bits_of(method, m, h, target, task):
    """Negative log-likelihood of one feature in bits a dimension."""
    z, log_det = method.flows[method.schema.names[m]]().call_and_ladj(h[None])
    if task == "regression":
        law = method.prior[round(min(max(target.item(), -3), 3)) + 3]
    elif task == "multilabel":
        true = (target == 1).nonzero()[:, 0].tolist()
        law = method.prior_base + sum((method.prior[k] for k in true), torch.zeros_like(method.prior_base)) / max(
            1, len(true)
        )
    else:
        law = method.prior[int(target)]
    mean, scale = law[0].detach().numpy(), law[1].exp().detach().numpy()
    log_density = norm.logpdf(z[0].detach().numpy(), mean, scale).sum()
    return -(log_density + log_det.item()) / (math.log(2) * len(h))


def recovery_of(method, t, given):
    """An absent feature from present ones {s: h}: by each one's flow, back by the other's, merged, refined."""
    flows = [method.flows[name]() for name in method.schema.names]
    mapped = {s: flows[t].inv(flows[s](h[None]))[0].detach() for s, h in given.items()}
    merged = sum(mapped.values()) / len(mapped)
    if method.merges is not None and len(mapped) > 1:
        slots = [mapped[s] for s in range(3) if s != t]
        merged = method.merges[method.schema.names[t]](torch.cat(slots))
    return method.refinements[method.schema.names[t]](merged)


@pytest.mark.parametrize("options", [{}, {"literal": True, "merge": "linear"}], ids=["default", "published"])
@pytest.mark.parametrize("task", list(cases.TASKS))
def test_objective_written_out(task, options):
    method, batch = case(task, **options)
    features, observed = encode_pooled(method.encoders, batch)
    remaining = draw_removal(observed, torch.Generator().manual_seed(4))
    found = method.objective(batch, torch.Generator().manual_seed(4))
    bits, missed, filled = [], [], torch.zeros_like(features)
    for i in range(len(batch)):
        given = {m: features[i, m] for m in range(3) if remaining[i, m]}
        for m in range(3):
            filled[i, m] = features[i, m] if m in given else recovery_of(method, m, given)
        gone = [m for m in range(3) if observed[i, m] and not remaining[i, m]]
        errors = [(filled[i, m] - features[i, m]).square().mean() for m in gone]
        missed.append(sum(errors) / max(1, len(errors)))
        if batch.labelled[i]:
            bits.append(
                sum(bits_of(method, m, features[i, m], batch.target[i], task) for m in range(3) if observed[i, m])
            )
    assert found.terms["flow"].item() == pytest.approx(sum(bits) / int(batch.labelled.sum()), rel=1e-4)
    close(found.terms["recovery"], torch.stack([torch.as_tensor(e) for e in missed]).mean(), rtol=1e-4, atol=1e-6)
    outputs = method.head(method.fusion(filled, torch.ones_like(observed)))
    close(found.terms["task"], method.task_term(outputs, batch), rtol=1e-4, atol=1e-6)
    assert found.weights == {"flow": 0.1, "recovery": 0.1}


def test_refinement_written_out():
    torch.manual_seed(0)
    net = Refinement(4, 2)
    x = torch.randn(3, 4)
    start = inner = net.widen(x)
    for (first, _, second), (down, _, up, _) in zip(net.blocks, net.channels):
        change = second(first(inner).relu())
        inner = inner + change * up(down(change).relu()).sigmoid()
    close(net(x), net.narrow(start + net.last(inner)))


def test_equal_flows_give_the_source_back():
    method, batch = case(observed=torch.tensor([[True, False, False], [True, False, True]]))
    state = method.flows["a"].state_dict()
    for name in ("b", "c"):
        method.flows[name].load_state_dict(state)
    features, observed = encode_pooled(method.encoders, batch)
    latents = method.latents(features, observed)
    rows, raw = method.recovered(latents, observed, 1)
    assert rows.tolist() == [0, 1]
    close(raw[0], features[0, 0], atol=1e-4, rtol=0)
    close(raw[1], features[1, [0, 2]].mean(0), atol=1e-4, rtol=0)


def test_the_prior_is_standard_normal_at_first():
    schema = cases.make_schema("multilabel", "tables")
    method = DiCMoR(schema, cases.identities(schema), **SMALL)
    z = torch.randn(5, 3, 4)
    bits = method.bits(Latents(z, torch.zeros(5, 3), ()), torch.tensor([[1.0, 0.0]] * 5))
    close(bits, torch.from_numpy(-norm.logpdf(z.numpy()).sum(2) / (4 * math.log(2))).float())


def test_classes_of_the_prior():
    assert class_shares(torch.tensor([-9.0, -0.6, 0.4]), Task("regression")).argmax(1).tolist() == [0, 2, 3]
    shares = class_shares(torch.tensor([[1.0, 1.0], [0.0, torch.nan], [torch.nan] * 2]), cases.TASKS["multilabel"])
    assert shares.tolist() == [[0.5, 0.5], [0.0, 0.0], [0.0, 0.0]]


# What learns from what -----------------------------------------------------------------------------------------------


def moves(method, batch, term):
    """First parts of the names of parameters that get a gradient from a term."""
    method.zero_grad()
    method.objective(batch, torch.Generator().manual_seed(2)).terms[term].backward()
    return {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}


def test_flows_learn_from_the_likelihood_only_and_encoders_never():
    schema = cases.make_schema("multiclass", "tables")
    method = DiCMoR(schema, cases.make_encoders(schema), **SMALL)
    batch = cases.make_batch(schema, torch.ones(12, 3, dtype=torch.bool))
    assert moves(method, batch, "flow") == {"flows", "prior"}
    assert moves(method, batch, "recovery") == {"refinements"}
    assert moves(method, batch, "task") == {"encoders", "refinements", "fusion", "head"}


def test_predictions_do_not_know_the_target():
    method, batch = case()
    other = Batch(batch.values, batch.observed, batch.measured, target=batch.target.flip(0))
    assert torch.equal(method.predict(batch), method.predict(other))


class ReadsTheTruth(DiCMoR):
    """A planted fault: a removed modality is its own source, so that recovery is perfect where it is learnt."""

    def filled(self, features, latents, available):
        return super().filled(features, latents, available | (latents.values != 0).any(2))


def sees_removed_content(build):
    """Whether content that the objective itself removes moves the task's term."""
    results, direction = [], torch.tensor([1.0, -1.0, 2.0, 0.0])
    for shift in (0.0, 5.0):
        method, batch = case(observed=torch.ones(16, 3, dtype=torch.bool), build=build)
        remaining = draw_removal(batch.presence, torch.Generator().manual_seed(4))
        values = {
            n: torch.where(remaining[:, [m]], v, v + shift * direction) for m, (n, v) in enumerate(batch.values.items())
        }
        moved = Batch(values, batch.observed, target=batch.target)
        results.append(method.objective(moved, torch.Generator().manual_seed(4)).terms["task"].item())
    return results[0] != results[1]


def test_a_recovery_that_reads_the_hidden_truth_is_caught():
    assert not sees_removed_content(DiCMoR)
    assert sees_removed_content(ReadsTheTruth)


@pytest.mark.slow
def test_flows_learn_a_shift_and_scale_that_the_modalities_differ_by():
    """Two modalities are one normal variable in other units: the recovery through the flows is a linear regression."""
    draw = torch.Generator().manual_seed(0)
    schema = cases.Schema(cases.MODALITIES["tables"][:2], cases.TASKS["binary"])
    x = torch.randn(256, 4, generator=draw)
    values = {"a": x, "b": 0.3 * x + 2.0}
    both = torch.ones(256, dtype=torch.bool)
    batch = Batch(values, {"a": both, "b": both}, target=torch.arange(256) % 2)
    torch.manual_seed(0)
    options = SMALL | {"steps": 1, "literal": True, "blocks": 0}
    method = DiCMoR(schema, cases.identities(schema), **options, w_flow=1.0)
    for flow in (method.flows["a"], method.flows["b"]):  # scales and shifts, and nothing else
        flow.transforms = nn.ModuleList(_scales_and_shifts())
    cases.train(method, batch, steps=150, learning_rate=0.05)
    features, _ = encode_pooled(method.encoders, batch)
    only_a = torch.tensor([[True, False]]).expand(256, 2)
    _, raw = method.recovered(method.latents(features, only_a), only_a, 1)
    close(raw, values["b"], atol=0.1, rtol=0)


def _scales_and_shifts():
    from zuko.lazy import UnconditionalTransform
    from zuko.transforms import MonotonicAffineTransform, RotationTransform

    yield UnconditionalTransform(MonotonicAffineTransform, torch.zeros(4), torch.zeros(4))
    yield UnconditionalTransform(RotationTransform, torch.zeros(4, 4), buffer=True)  # the identity
