"""MVAE: its bound by hand, with divergences and densities of torch.distributions."""

import pytest
import torch
from contracts import cases
from torch.distributions import Categorical, Normal, kl_divergence

from amodal.distributions.quasirandom import spread_normal
from amodal.encoders.decoders import target_features
from amodal.errors import ConfigurationError, UnknownNameError
from amodal.method import Clock
from amodal.methods.mvae import MVAE


def case(task="multiclass", n=3, **options):
    schema = cases.make_schema(task, "tables")
    schema = type(schema)(schema.modalities[:n], schema.task)
    torch.manual_seed(0)
    method = MVAE(schema, cases.identities(schema), hidden=6, latent=2, **options).eval()
    batch = cases.make_batch(schema, cases.mixed_presence(schema, 2), seed=1)
    measured = {name: torch.ones_like(value) for name, value in batch.measured.items()}
    values = {m.name: torch.randn(len(batch), *m.shape, generator=torch.Generator().manual_seed(2)) for m in
              schema.modalities}  # fmt: skip
    return method, type(batch)(values, batch.observed, measured, {}, batch.target)


def posterior(method, batch, i, members):
    """N(mean, sd) of one row given some modalities: precisions and their products with means add up."""
    precision, weighted = torch.ones(method.latent), torch.zeros(method.latent)
    for name in members:
        mean, log_var = method.experts[name](batch.values[name][i])
        precision = precision + 1 / log_var.exp()
        weighted = weighted + mean / log_var.exp()
    return Normal(weighted / precision, precision.rsqrt())


def bound(method, batch, i, members, noise):
    q = posterior(method, batch, i, members)
    z = q.mean + q.stddev * noise
    found = {"kl": kl_divergence(q, Normal(0.0, 1.0)).sum()}
    found["task"] = -Categorical(logits=method.head(z)).log_prob(batch.target[i])
    density = [Normal(method.decoders[name].layers(z), 1.0).log_prob(batch.values[name][i]).mean() for name in members]
    found["reconstruction"] = -torch.stack(density).sum()
    return found


def test_objective_of_two_modalities():
    """All that is observed, and each modality alone if there are two: each with noise of its own."""
    method, batch = case(n=2)
    names, n = method.schema.names, len(batch)
    found = method.objective(batch, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    expected = dict.fromkeys(("task", "reconstruction", "kl"), 0.0)
    for members in (names, names[:1], names[1:]):
        noise = torch.randn(1, n, 2, generator=generator)[0]
        for i in range(n):
            there = [name for name in members if batch.observed[name][i]]
            both = all(batch.observed[name][i] for name in names)
            if not there or (len(members) == 1 and not both):
                continue
            for key, value in bound(method, batch, i, there, noise[i]).items():
                expected[key] += value.item() / n
    assert {key: value.item() for key, value in found.terms.items()} == pytest.approx(expected, rel=1e-5)
    assert found.weights == {"task": 10.0, "reconstruction": 1.0, "kl": 0.0}  # at the start


def test_the_weight_of_the_divergence_rises_over_two_fifths_of_the_training():
    method, batch = case(n=2)
    found = []
    for step in (0, 10, 40, 100):
        method.clock = Clock(step=step, steps=100)
        found.append(method.objective(batch, torch.Generator().manual_seed(3)).weights["kl"])
    assert found == [0.0, 0.25, 1.0, 1.0]


def test_random_sets_are_of_rows_that_have_three_modalities():
    method, _ = case(random_sets=3)
    observed = cases.patterns(3)
    sets = method._sets(observed, torch.Generator().manual_seed(0))
    assert len(sets) == 1 + 3 + 3
    for members in sets:
        assert not (members & ~observed).any()
    for members in sets[4:]:
        assert not members[observed.sum(1) < 3].any()


@pytest.mark.parametrize("observed", [True, False])
def test_predictions_average_over_the_posterior(observed):
    """A quadrature over z in place of draws."""
    method, batch = case(n=2)
    row = int((batch.presence.all(1) if observed else batch.presence.sum(1) == 1).nonzero()[0])
    method.prediction_draws = 20_000
    one = batch.take(torch.tensor([row]))
    found = method.predict(one)[0]
    there = [name for name in method.schema.names if batch.observed[name][row]]
    q = posterior(method, batch, row, there)
    nodes = torch.linspace(-5, 5, 101)
    weight = Normal(0.0, 1.0).log_prob(nodes).exp() * 0.1
    grid = torch.cartesian_prod(nodes, nodes)
    p = method.head(q.mean + q.stddev * grid).softmax(-1)
    expected = (p * (weight[:, None] * weight).reshape(-1, 1)).sum(0)
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)


def test_without_anything_the_posterior_is_the_prior():
    method, batch = case(n=2)
    nothing = batch.restrict({name: torch.zeros(len(batch), dtype=torch.bool) for name in method.schema.names})
    draws = method.draw_outputs(nothing, 5, torch.Generator().manual_seed(4))
    noise = spread_normal((5, 1, 2), torch.Generator().manual_seed(4), draws)
    torch.testing.assert_close(draws, method.head(noise).expand_as(draws))
    latents = method.draw_latents(nothing, 5, torch.Generator().manual_seed(4))  # standard normal, as drawn
    torch.testing.assert_close(latents, noise[:, :, None].expand_as(latents))
    terms = method.objective(nothing, torch.Generator()).terms
    assert all(term == 0 for term in terms.values())


def test_the_label_as_one_more_modality():
    """It has an expert, is decoded only where it was given, and counts as a set by itself."""
    method, batch = case(n=1, label="modality")
    n, target = len(batch), target_features(batch.target, method.schema.task)
    found = method.objective(batch, torch.Generator().manual_seed(3)).terms
    generator = torch.Generator().manual_seed(3)
    noise = [torch.randn(1, n, 2, generator=generator)[0] for _ in range(3)]  # both, the input, the label
    task, kl = 0.0, 0.0
    for members, draw in zip((("input", "label"), ("input",), ("label",)), noise):
        for i in range(n):
            experts = {"input": method.experts["a"](batch.values["a"][i]), "label": method.label_expert(target[i])}
            precision = 1 + sum((-experts[name].log_var).exp() for name in members)
            mean = sum(experts[name].mean * (-experts[name].log_var).exp() for name in members) / precision
            q = Normal(mean, precision.rsqrt())
            kl += kl_divergence(q, Normal(0.0, 1.0)).sum().item() / n
            if "label" in members:
                logits = method.head(q.mean + q.stddev * draw[i])
                task -= Categorical(logits=logits).log_prob(batch.target[i]).item() / n
    assert found["task"].item() == pytest.approx(task, rel=1e-5)
    assert found["kl"].item() == pytest.approx(kl, rel=1e-5)
    blank = type(batch)(batch.values, batch.observed, batch.measured)
    assert torch.equal(method.predict(batch), method.predict(blank))  # predictions do not know it


def test_options_that_cannot_be():
    schema = cases.make_schema()
    with pytest.raises(UnknownNameError, match="label of MVAE 'heads'.*Did you mean 'head'"):
        MVAE(schema, label="heads")
    with pytest.raises(ConfigurationError, match="latent of MVAE is out of range.*1 or more, got 0"):
        MVAE(schema, latent=0)
    with pytest.raises(ConfigurationError, match="kl of MVAE is out of range"):
        MVAE(schema, kl=-1.0)
