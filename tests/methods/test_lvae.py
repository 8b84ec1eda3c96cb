"""LVAE: its bound by hand, and that it is one."""

import pytest
import torch
from contracts import cases
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from amodal.distributions.quasirandom import spread_uniform
from amodal.encoders.decoders import target_features
from amodal.errors import ConfigurationError, UnknownNameError
from amodal.method import Clock
from amodal.methods import lvae
from amodal.methods.lvae import LVAE


def case(pattern=None, **options):
    schema = cases.make_schema("multiclass", "tables")
    schema = type(schema)(schema.modalities[:2], schema.task)
    torch.manual_seed(0)
    method = LVAE(schema, cases.identities(schema), hidden=6, latent=2, always_observed=["a"], **options).eval()
    observed = torch.tensor(pattern).bool()
    batch = cases.make_batch(schema, observed, seed=1)
    measured = {name: torch.ones_like(value) for name, value in batch.measured.items()}
    return method, type(batch)(batch.values, batch.observed, measured, {}, batch.target)


def normal(gaussian):
    return Normal(gaussian.mean, (gaussian.log_var / 2).exp())


def fused(method, a, b, seen):
    ones = torch.ones(len(a), 1)
    return torch.cat([a, ones, b, ones * seen], dim=1)


def test_the_weight_of_the_divergences_rises_over_two_fifths_of_the_training():
    method, batch = case([[1, 1]] * 4)
    found = []
    for step in (0, 10, 40, 100):
        method.clock = Clock(step=step, steps=100)
        weights = method.objective(batch, torch.Generator().manual_seed(3)).weights
        found.append((weights["kl"], weights["imputed_kl"], weights["imputation"]))
    assert found == [(0.0, 0.0, 1.0), (0.25, 0.25, 1.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)]


@pytest.mark.parametrize("seen", [True, False])
def test_objective(seen):
    method, batch = case([[1, seen]] * 4)
    a, b = batch.values["a"], batch.values["b"]
    y = target_features(batch.target, method.schema.task)
    noise = torch.randn(4, 4 + 2, generator=torch.Generator().manual_seed(3))
    given = fused(method, a, b, seen)
    imputer = normal(method.imputer(fused(method, a, torch.zeros_like(b), False)))
    guess = normal(method.imputed_posterior(torch.cat([given, y], dim=1)))
    filled = fused(method, a, b if seen else guess.mean + guess.stddev * noise[:, 2:], seen)
    p, q = normal(method.prior(filled)), normal(method.posterior(torch.cat([filled, y], dim=1)))
    z = q.mean + q.stddev * noise[:, :2]
    logits = method.head(torch.cat([z, a, torch.ones(4, 1)], dim=1))
    expected = {
        "task": -Categorical(logits=logits).log_prob(batch.target).mean(),
        "kl": kl_divergence(q, p).sum(1).mean(),
        "imputed_kl": torch.tensor(0.0) if seen else kl_divergence(guess, imputer).sum(1).mean(),
        "imputation": -imputer.log_prob(b).mean() if seen else torch.tensor(0.0),
    }
    found = method.objective(batch, torch.Generator().manual_seed(3)).terms
    assert {k: v.item() for k, v in found.items()} == pytest.approx(
        {k: v.item() for k, v in expected.items()}, abs=1e-6
    )


@pytest.mark.parametrize("seen", [True, False])
def test_an_imputer_of_several_gaussians(seen):
    """Likelihoods by torch's mixture; the divergence is above a Monte-Carlo estimate, and by its formula."""
    method, batch = case([[1, seen]] * 4, imputer_components=3)
    a, b = batch.values["a"], batch.values["b"]
    mixture = method.imputer(fused(method, a, torch.zeros_like(b), False))
    weights = mixture.log_weights[:, 0].exp()
    assert weights.shape == (4, 3)
    parts = Normal(mixture.mean[:, 0], (mixture.log_var[:, 0] / 2).exp())
    law = MixtureSameFamily(Categorical(weights), Independent(parts, 1))
    found = method.objective(batch, torch.Generator().manual_seed(3)).terms
    if seen:
        assert found["imputation"].item() == pytest.approx(-law.log_prob(b).mean().item() / b.shape[1], rel=1e-5)
        assert found["imputed_kl"] == 0
        return
    y = target_features(batch.target, method.schema.task)
    guess = normal(method.imputed_posterior(torch.cat([fused(method, a, b, False), y], dim=1)))
    each = kl_divergence(Normal(guess.mean[:, None], guess.stddev[:, None]), parts).sum(-1)  # (4, 3)
    assert found["imputed_kl"].item() == pytest.approx(-(weights * (-each).exp()).sum(1).log().mean().item(), rel=1e-5)
    torch.manual_seed(0)
    draws = guess.sample((20_000,))
    true = (guess.log_prob(draws).sum(-1) - law.log_prob(draws)).mean()
    assert found["imputed_kl"] > true - 0.01


def test_draws_of_an_imputer_of_several_gaussians_are_from_the_mixture():
    method, batch = case([[1, 0]], imputer_components=2)
    with torch.no_grad():
        method.imputer.mean.bias.copy_(torch.cat([torch.full((method.width,), -5.0), torch.full((method.width,), 5.0)]))
        method.imputer.mean.weight.zero_()
        method.imputer.log_weights.weight.zero_()
        method.imputer.log_weights.bias.copy_(torch.tensor([0.25, 0.75]).log())
    drawn = []
    method._complete = lambda features, observed, values: (drawn.append(values), LVAE._complete(
        method, features, observed, values))[1]  # fmt: skip
    method.draw_outputs(batch, 4000, torch.Generator().manual_seed(0))
    high = (torch.cat(drawn)[:, 0, 0] > 0).all(-1)
    assert high.float().mean() == pytest.approx(0.75, abs=0.02)
    assert ((torch.cat(drawn)[:, 0, 0] > 0).any(-1) == high).all()


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("seen", [True, False])
def test_the_bound_is_below_the_likelihood(seen, components):
    """Which is estimated by the average over many draws of what is predicted with."""
    method, batch = case([[1, seen]] * 6, imputer_components=components)
    with torch.no_grad():
        parts = [method.objective(batch, torch.Generator().manual_seed(s)).terms for s in range(200)]
        bound = -torch.stack([t["task"] + t["kl"] + t["imputed_kl"] for t in parts]).mean()
        p = method.draw(batch, 4000, torch.Generator().manual_seed(0)).mean(0)
    assert bound < p.gather(1, batch.target[:, None]).log().mean()


def test_posteriors_are_never_used_for_predictions():
    method, batch = case([[1, 1], [1, 0]])
    before = method.predict(batch)
    with torch.no_grad():
        for network in (method.posterior, method.imputed_posterior):
            for parameter in network.parameters():
                parameter.fill_(torch.nan)
    assert torch.equal(method.predict(batch), before)


def test_imputed_features_do_not_collapse_what_they_are_of():
    """The encoder of a hidden modality gets no gradient from the imputer's term."""
    schema = cases.make_schema("multiclass", "tables")
    method = LVAE(schema, cases.make_encoders(schema), always_observed=["a", "b"], hidden=6, latent=2)
    batch = cases.make_batch(schema, torch.ones(4, 3, dtype=torch.bool))
    method.objective(batch, torch.Generator().manual_seed(0)).terms["imputation"].backward()
    assert all(p.grad is None or not p.grad.any() for p in method.encoders["c"].parameters())
    assert any(p.grad is not None and p.grad.any() for p in method.encoders["a"].parameters())


def test_latents_are_those_behind_the_outputs(monkeypatch):
    """A complete row's are draws of the prior given its own features; whatever the chunk."""
    method, batch = case([[1, 1], [1, 0]])
    latents = method.draw_latents(batch, 6, torch.Generator().manual_seed(1))
    outputs = method.draw_outputs(batch, 6, torch.Generator().manual_seed(1))
    a = torch.cat([batch.values["a"], torch.ones(2, 1)], dim=1)
    torch.testing.assert_close(outputs, method.head(torch.cat([latents[:, :, 0], a.expand(6, *a.shape)], dim=2)))
    points = spread_uniform((6, 1 + method.width + 2), torch.Generator().manual_seed(1), latents)
    noise = torch.special.ndtri(points[:, -2:])[:, None]
    prior = normal(method.prior(fused(method, batch.values["a"], batch.values["b"], 1)))
    torch.testing.assert_close(latents[:, 0, 0], (prior.mean + prior.stddev * noise)[:, 0])
    monkeypatch.setattr(lvae, "CHUNK", 1)
    torch.testing.assert_close(method.draw_latents(batch, 6, torch.Generator().manual_seed(1)), latents)


def test_what_varies():
    schema = cases.make_schema("multiclass", "tables")
    torch.manual_seed(0)
    method = LVAE(schema, cases.identities(schema), hidden=6, latent=2).eval()
    batch = cases.make_batch(schema, torch.tensor([[1, 0, 0], [1, 1, 0]]).bool())
    found = {}
    for vary in (None, [], ["b"], ["c"]):
        draws = method.draw_outputs(batch, 200, torch.Generator().manual_seed(0), vary=vary)
        found[str(vary)] = draws.std(0).mean(1)  # (2,)
    assert (found["[]"] == 0).all()
    assert (found["None"] > 0).all()
    assert (found["['b']"] > 0).all()  # z varies, too


def test_options_that_cannot_be():
    schema = cases.make_schema()
    with pytest.raises(ConfigurationError, match="lvae needs a modality that may be missing"):
        LVAE(schema, always_observed=list(schema.names))
    with pytest.raises(UnknownNameError, match="modality 'x'"):
        LVAE(schema, always_observed=["x"])
    with pytest.raises(ConfigurationError, match="imputer_components of LVAE is out of range"):
        LVAE(schema, imputer_components=0)
    with pytest.raises(ConfigurationError, match="imputation of LVAE is out of range"):
        LVAE(schema, imputation=-1.0)
