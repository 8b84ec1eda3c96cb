"""MMVAE: its bound by hand, and that a draw knows one modality only."""

import copy
from itertools import pairwise

import pytest
import torch
from contracts import cases
from torch.distributions import Categorical, Laplace, MixtureSameFamily, Normal
from torch.distributions import Independent as Joint

from amodal.errors import ConfigurationError, UnknownNameError
from amodal.methods.mmvae import MMVAE


def case(n=2, **options):
    schema = cases.make_schema("multiclass", "tables")
    schema = type(schema)(schema.modalities[:n], schema.task)
    torch.manual_seed(0)
    method = MMVAE(schema, cases.identities(schema), hidden=6, latent=2, **options).eval()
    batch = cases.make_batch(schema, cases.mixed_presence(schema, 2), seed=1)
    measured = {name: torch.ones_like(value) for name, value in batch.measured.items()}
    return method, type(batch)(batch.values, batch.observed, measured, {}, batch.target)


def law_of(method, mean, deviation):
    return Laplace(mean, deviation / 2**0.5) if method.law == "laplace" else Normal(mean, deviation)


def log_weight(method, batch, i, z, there):
    experts = [method.experts[name](batch.values[name][i]) for name in there]
    deviations = torch.stack([e.log_var.exp().sqrt() for e in experts])
    each = Joint(law_of(method, torch.stack([e.mean for e in experts]), deviations), 1)
    mixture = MixtureSameFamily(Categorical(torch.ones(len(there))), each)
    value = law_of(method, torch.zeros(2), torch.ones(2)).log_prob(z).sum() - mixture.log_prob(z)
    value += method.label_weight * Categorical(logits=method.head(z)).log_prob(batch.target[i])
    for name in there:
        value += Normal(method.decoders[name].layers(z), 1.0).log_prob(batch.values[name][i]).mean()
    return value


@pytest.mark.parametrize(("bound", "law"), [("looser", "normal"), ("tight", "normal"), ("looser", "laplace")])
def test_objective(bound, law):
    method, batch = case(bound=bound, law=law, training_draws=3)
    names, n = method.schema.names, len(batch)
    draw = torch.rand if law == "laplace" else torch.randn
    noise = draw(2, 3, n, 2, generator=torch.Generator().manual_seed(3))
    if law == "laplace":
        noise = Laplace(0.0, 0.5**0.5).icdf(noise)
    total = 0.0
    for i in range(n):
        there = [name for name in names if batch.observed[name][i]]
        strata = []
        for m, name in enumerate(names):
            if name not in there:
                continue
            mean, log_var = method.experts[name](batch.values[name][i])
            draws = [mean + (log_var / 2).exp() * noise[m, k, i] for k in range(3)]
            strata.append(torch.stack([log_weight(method, batch, i, z, there) for z in draws]))
        weights = torch.stack(strata).double().exp()  # (O, K)
        total += weights.mean(1).log().mean() if bound == "looser" else weights.mean().log()
    found = method.objective(batch, torch.Generator().manual_seed(3)).terms["bound"]
    assert found.item() == pytest.approx(-total.item() / n, rel=1e-4)


@pytest.mark.parametrize("bound", ["looser", "tight"])
def test_doubly_reparameterised_gradient(bound):
    """By the formula: weights squared on the way through the draws, once elsewhere; experts' densities fixed."""
    method, batch = case(bound=bound, gradient="dreg", training_draws=3)
    fixed, names, n = copy.deepcopy(method).requires_grad_(False), method.schema.names, len(batch)
    noise = torch.randn(2, 3, n, 2, generator=torch.Generator().manual_seed(3))
    to_experts = to_head = torch.tensor(0.0)
    for i in range(n):
        there = [name for name in names if batch.observed[name][i]]
        experts = {name: method.experts[name](batch.values[name][i]) for name in there}
        draws = [
            [experts[name].mean + (experts[name].log_var / 2).exp() * noise[m, k, i] for k in range(3)]
            for m, name in enumerate(names)
            if name in there
        ]
        through = torch.stack([torch.stack([log_weight(fixed, batch, i, z, there) for z in row]) for row in draws])
        direct = torch.stack(
            [torch.stack([log_weight(method, batch, i, z.detach(), there) for z in row]) for row in draws]
        )
        weight = through.detach().softmax(1) if bound == "looser" else through.detach().flatten().softmax(0).view(-1, 3)
        strata = len(there) if bound == "looser" else 1
        to_experts = to_experts - (weight**2 * through).sum() / strata / n
        to_head = to_head - (weight * direct).sum() / strata / n
    found = method.objective(batch, torch.Generator().manual_seed(3)).terms["bound"]
    method.gradient = "plain"
    assert torch.equal(found, method.objective(batch, torch.Generator().manual_seed(3)).terms["bound"])
    for part, expected in ((method.experts, to_experts), (method.head, to_head), (method.decoders, to_head)):
        parameters = list(part.parameters())
        one, other = (torch.autograd.grad(x, parameters, retain_graph=True) for x in (found, expected))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_doubly_reparameterised_gradient_varies_less_around_the_same_mean():
    """Of rows with one modality. Each of 40 gradients is of 500 copies of a row."""
    found = {}
    for gradient in ("plain", "dreg"):
        method, batch = case(n=1, gradient=gradient, training_draws=5)
        copies = batch.take(torch.zeros(500, dtype=torch.long))
        weights = [parameter for _, expert in method.experts.items() for parameter in expert.parameters()]
        each = [
            torch.autograd.grad(method.objective(copies, torch.Generator().manual_seed(s)).total, weights)
            for s in range(40)
        ]
        found[gradient] = torch.stack([torch.cat([part.flatten() for part in parts]) for parts in each])
    plain, dreg = found["plain"], found["dreg"]
    error = ((plain.var(0) + dreg.var(0)) / 40).sqrt()
    used = error > 0
    assert ((plain.mean(0) - dreg.mean(0))[used].abs() / error[used]).square().mean() < 2.0
    assert dreg.var(0).sum() < 0.8 * plain.var(0).sum()


def test_one_modality_and_one_draw_is_an_ordinary_autoencoder():
    """The single-sample bound: log p(x, y, z) - log q(z | x)."""
    method, batch = case(n=1)
    noise = torch.randn(1, 1, len(batch), 2, generator=torch.Generator().manual_seed(3))[0, 0]
    (name,) = method.schema.names
    total = 0.0
    for i in range(len(batch)):
        mean, log_var = method.experts[name](batch.values[name][i])
        q = Normal(mean, (log_var / 2).exp())
        z = q.mean + q.stddev * noise[i]
        total += Normal(method.decoders[name].layers(z), 1.0).log_prob(batch.values[name][i]).mean()
        total += 10 * Categorical(logits=method.head(z)).log_prob(batch.target[i])
        total += (Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)).sum()
    found = method.objective(batch, torch.Generator().manual_seed(3)).terms["bound"]
    assert found.item() == pytest.approx(-total.item() / len(batch), rel=1e-5)


def test_more_draws_tighten_the_bound():
    values = []
    for draws, seeds in ((1, 300), (10, 100), (100, 20)):
        method, batch = case(training_draws=draws)
        with torch.no_grad():
            found = [method.objective(batch, torch.Generator().manual_seed(s)).total for s in range(seeds)]
        found = torch.stack(found)
        values.append((found.mean().item(), (found.std() / seeds**0.5).item()))
    for (loose, e1), (tight, e2) in pairwise(values):
        assert tight < loose + 2 * (e1**2 + e2**2) ** 0.5
    assert values[2][0] < values[0][0]


def test_a_complete_case_is_predicted_by_the_average_of_its_modalities():
    method, batch = case()
    method.prediction_draws = 8000
    with torch.no_grad():
        for part in (*(expert for _, expert in method.experts.items()), method.head):
            for parameter in part.parameters():
                parameter.mul_(3)
    rows = batch.presence.all(1)
    complete = batch.take(rows)
    absent = torch.zeros(int(rows.sum()), dtype=torch.bool)
    alone = [method.predict(complete.restrict({name: absent})) for name in method.schema.names]
    torch.testing.assert_close(method.predict(complete), (alone[0] + alone[1]) / 2, atol=0.01, rtol=0)
    assert (alone[0] - alone[1]).abs().max() > 0.03


def test_draws_are_spread_evenly_over_what_is_observed():
    """With experts of no spread, every draw is one modality's mean."""
    method, batch = case(n=3)
    with torch.no_grad():
        for _, expert in method.experts.items():
            expert.out.weight[2:].zero_()
            expert.out.bias[2:].fill_(-10.0)
    z = method.draw_latents(batch, 300, torch.Generator().manual_seed(0)).squeeze(2)  # (S, B, Z)
    outputs = method.draw_outputs(batch, 300, torch.Generator().manual_seed(0))
    torch.testing.assert_close(outputs, method.head(z))
    for i in range(len(batch)):
        there = [name for name in method.schema.names if batch.observed[name][i]]
        means = torch.stack([method.experts[name](batch.values[name][i]).mean for name in there])
        nearest = (z[:, i, None] - means).norm(dim=-1).argmin(1)
        counts = nearest.bincount(minlength=len(there))
        assert (counts - 300 / len(there)).abs().max() <= 3


def test_options_that_cannot_be():
    schema = cases.make_schema()
    with pytest.raises(UnknownNameError, match="law of MMVAE 'cauchy'"):
        MMVAE(schema, law="cauchy")
    with pytest.raises(UnknownNameError, match="bound of MMVAE 'loose'"):
        MMVAE(schema, bound="loose")
    with pytest.raises(ConfigurationError, match="training_draws of MMVAE is out of range"):
        MMVAE(schema, training_draws=0)
