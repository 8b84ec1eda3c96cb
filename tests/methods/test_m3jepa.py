"""M3-JEPA: a direction's losses and the filled vectors against a plain transcription, the cycle, and padding."""

import math

import pytest
import torch
from contracts import cases
from torch.nn import functional

from amodal.encoders import encode_all
from amodal.errors import ConfigurationError
from amodal.method import Clock
from amodal.methods.m3jepa import M3JEPA

close = torch.testing.assert_close


def case(task="multiclass", modalities="mixed", seed=1, **options):
    schema = cases.make_schema(task, modalities)
    torch.manual_seed(0)
    method = M3JEPA(schema, cases.make_encoders(schema), **{"hidden": 8, "experts": 4, "dropout": 0.0} | options)
    torch.nn.init.normal_(method.predictor.own_gates if method.predictor else torch.zeros(1), std=0.5)
    return method, cases.make_batch(schema, cases.mixed_presence(schema, 2), seed=seed)


def state_of(method, direction, stream, tokens):
    """A row's state from its valid tokens (n, D), one token and one expert at a time."""
    net, states = method.predictor, []
    source = method.directions[direction][0]
    for token in tokens:
        x = functional.gelu(net.inputs[source](token + net.direction[direction])) + net.stream[stream]
        shares = (net.shared_gate(x) + net.own_gates[direction] @ x).softmax(0)
        chosen = sorted(range(len(shares)), key=lambda e: -shares[e])[: net.top_k]
        scale = sum(shares[e] for e in chosen) if net.renormalise else 1.0
        pool = net.experts
        mixed = sum(
            shares[e]
            / scale
            * (functional.gelu(x @ pool.first[e] + pool.first_bias[e]) @ pool.second[e] + pool.second_bias[e])
            for e in chosen
        )
        states.append(x + functional.gelu(net.norm(mixed)))
    return torch.stack(states).mean(0)


@pytest.mark.parametrize("renormalise", [True, False])
def test_a_directions_losses_written_out(renormalise):
    """Over the rows that have both modalities, over valid tokens only; series and text have padding."""
    method, batch = case(renormalise=renormalise)
    encoded, observed = list(encode_all(method.encoders, batch).values()), batch.presence
    for direction, (a, b) in enumerate(method.directions):
        both = [i for i in range(len(batch)) if observed[i, a] and observed[i, b]]
        tokens = [encoded[a].tokens[i][encoded[a].valid[i]] for i in both]
        target = [encoded[b].pooled[i] for i in both]
        apart, v_a, v_b = [], [], []
        for given, z in zip(tokens, target):
            gap = (method.predictor.to_target[b](state_of(method, direction, 0, given)) - z).abs()
            apart.append(torch.where(gap < 1, 0.5 * gap**2, gap - 0.5).mean())
            v_a.append(
                functional.normalize(method.predictor.to_contrast[b](state_of(method, direction, 1, given)), dim=0)
            )
            v_b.append(functional.normalize(method.predictor.target_codes[b](z), dim=0))
        scores = torch.stack(v_a) @ torch.stack(v_b).T / 0.03
        nats = -0.5 * (scores.log_softmax(1).diagonal() + scores.log_softmax(0).diagonal())
        prediction, contrast = method.direction_losses(direction, encoded, observed)
        close(prediction, torch.stack(apart).mean(), rtol=1e-4, atol=1e-5)
        close(contrast, nats.mean(), rtol=1e-4, atol=1e-5)


def test_absent_vectors_are_mean_predictions_and_present_ones_untouched():
    method, batch = case()
    encoded, observed = list(encode_all(method.encoders, batch).values()), batch.presence
    found = method.filled(encoded, observed)
    for i in range(len(batch)):
        for b in range(4):
            if observed[i, b]:
                assert torch.equal(found[i, b], encoded[b].pooled[i])
                continue
            made = [
                method.predictor.to_target[b](state_of(method, d, 0, encoded[a].tokens[i][encoded[a].valid[i]]))
                for d, (a, to) in enumerate(method.directions)
                if to == b and observed[i, a]
            ]
            close(found[i, b], torch.stack(made).mean(0), rtol=1e-4, atol=1e-5)
    for parameter in method.predictor.parameters():
        parameter.data.add_(0.5)
    moved = method.filled(encoded, observed)
    assert torch.equal(moved[observed], found[observed])
    assert not torch.equal(moved[~observed], found[~observed])


def test_every_direction_has_one_turn_in_a_cycle():
    method, batch = case()
    turns = []
    for step in range(24):
        method.clock = Clock(step=step, steps=24)
        method.zero_grad()
        terms = method.objective(batch, torch.Generator())
        assert terms.weights == {"prediction": 0.5, "contrast": 0.5}
        terms.terms["contrast"].backward()
        (turn,) = method.predictor.direction.grad.any(1).nonzero()[:, 0].tolist()
        turns.append(turn)
    assert sorted(turns[:12]) == list(range(12))
    assert turns[:12] == turns[12:]


def test_rows_that_lack_source_or_target_teach_nothing():
    method, batch = case(modalities="tables")
    alone = batch.take(batch.presence.sum(1) == 1)
    terms = method.objective(alone, torch.Generator()).terms
    assert terms["prediction"] == terms["contrast"] == 0
    (terms["prediction"] + terms["contrast"]).backward()
    assert all(p.grad is None or not p.grad.any() for p in method.parameters())


def test_losses_of_equal_codes_and_of_a_right_prediction():
    method, batch = case(modalities="tables")
    full = batch.take(batch.presence.all(1).repeat_interleave(1))
    full = full.take(torch.zeros(5, dtype=torch.int64))  # one row five times
    encoded = list(encode_all(method.encoders, full).values())
    assert method.direction_losses(0, encoded, full.presence)[1].item() == pytest.approx(math.log(5), rel=1e-5)
    head, target = method.predictor.to_target[1], encoded[1].pooled[0]
    torch.nn.init.zeros_(head.weight)
    head.bias.data = target.detach().clone()
    close(method.direction_losses(0, encoded, full.presence)[0], torch.tensor(0.0), atol=1e-10, rtol=0)


def test_targets_are_constants_unless_published():
    for detach in (True, False):
        method, batch = case(modalities="tables", detach_targets=detach)
        method.objective(batch, torch.Generator()).terms["prediction"].backward()
        b = method.schema.names[method.directions[0][1]]
        assert any(p.grad is not None and p.grad.any() for p in method.encoders[b].parameters()) != detach


def reads_padding(build):
    """Whether what stands in padding changes the filled vectors."""
    method, batch = case()
    method.__class__ = build
    encoded = [
        part._replace(tokens=torch.where(part.valid[..., None], part.tokens, fill))
        for fill in (0.0, 7.0)
        for part in encode_all(method.encoders, batch).values()
    ]
    return not torch.equal(*(method.filled(part, batch.presence) for part in (encoded[:4], encoded[4:])))


class Unmasked(M3JEPA):
    """A planted fault, that of the released code: means over tokens count padding."""

    def filled(self, encoded, observed):
        return super().filled([part._replace(valid=torch.ones_like(part.valid)) for part in encoded], observed)


def test_a_mean_that_counts_padding_is_caught():
    assert not reads_padding(M3JEPA)
    assert reads_padding(Unmasked)


def test_options_that_cannot_be():
    with pytest.raises(ConfigurationError, match=r"fewer experts than are to be chosen \(expected top_k ≤ 3, got 4\)"):
        M3JEPA(cases.make_schema(), experts=3, top_k=4)
