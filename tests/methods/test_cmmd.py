"""CMMD: its objective by hand, and that predictions never see what only training has."""

import math

import pytest
import torch
from contracts import cases
from torch.distributions import Categorical, Normal, kl_divergence

from amodal.distributions.quasirandom import spread_normal
from amodal.encoders.decoders import target_features
from amodal.errors import ConfigurationError, UnknownNameError
from amodal.methods.cmmd import CMMD


def case(pattern=None, **options):
    schema = cases.make_schema("multiclass", "tables")
    torch.manual_seed(0)
    method = CMMD(schema, cases.identities(schema), hidden=6, latent=2, **options).eval()
    observed = cases.mixed_presence(schema, 2) if pattern is None else torch.tensor(pattern).bool()
    batch = cases.make_batch(schema, observed, seed=1)
    measured = {name: torch.ones_like(value) for name, value in batch.measured.items()}
    return method, type(batch)(batch.values, batch.observed, measured, {}, batch.target)


def test_objective_of_complete_rows():
    method, batch = case([[1, 1, 1]] * 5, omega=0.3, mmd=7.0)
    noise = torch.randn(5, 2, generator=torch.Generator().manual_seed(3))
    with_flag = {k: torch.cat([v, torch.ones(5, 1)], dim=1) for k, v in batch.values.items()}
    prior, everything = method.prior(with_flag["a"]), torch.cat([*with_flag.values()], dim=1)
    posterior = method.posterior(torch.cat([everything, target_features(batch.target, method.schema.task)], dim=1))
    p, q = (Normal(g.mean, (g.log_var / 2).exp()) for g in (prior, posterior))
    z_p, z_q = p.mean + p.stddev * noise, q.mean + q.stddev * noise
    known = torch.cat([z_q, with_flag["a"]], dim=1)
    likelihood = sum(
        Normal(method.decoders[name].layers(known), 1.0).log_prob(batch.values[name]).mean(1) for name in ("b", "c")
    )

    def kernel(x, y):
        return torch.stack([torch.stack([(-(a - b).square().sum() / 4).exp() for b in y]) for a in x]).mean()

    expected = {
        "task": -Categorical(logits=method.head(prior.mean)).log_prob(batch.target).mean(),
        "reconstruction": -likelihood.mean(),
        "kl": kl_divergence(q, p).sum(1).mean(),
        "mmd": kernel(z_p, z_p) + kernel(z_q, z_q) - 2 * kernel(z_p, z_q),
    }
    found = method.objective(batch, torch.Generator().manual_seed(3))
    assert {k: v.item() for k, v in found.terms.items()} == pytest.approx({k: v.item() for k, v in expected.items()})
    assert found.weights == pytest.approx({"task": 10.0, "reconstruction": 1.0, "kl": 0.3, "mmd": 4.9})


def test_predictions_never_see_what_only_training_has():
    method, batch = case()
    other = {k: v if k == "a" else v + 3 for k, v in batch.values.items()}
    without = {name: torch.zeros(len(batch), dtype=torch.bool) for name in ("b", "c")}
    changed = type(batch)(other, batch.observed, batch.measured, {}, batch.target)
    for some in (changed, batch.restrict(without)):
        assert torch.equal(method.predict(some), method.predict(batch))
        draws = [method.draw(b, 3, torch.Generator().manual_seed(0)) for b in (some, batch)]
        assert torch.equal(*draws)


def test_published_training_leaves_incomplete_rows_out():
    method, batch = case(rows="complete")
    complete = batch.presence.all(1)
    found = method.objective(batch, torch.Generator().manual_seed(0)).terms
    share = complete.double().mean().item()
    log_p = method.predict(batch).gather(1, batch.target[:, None]).log()[:, 0]
    assert found["task"].item() == pytest.approx(-(log_p[complete].sum() / len(batch)).item(), rel=1e-5)
    assert 0 < found["mmd"] < share
    lacking = batch.take(~complete)
    assert method.objective(lacking, torch.Generator()).total == 0


def test_rows_with_some_of_it_teach_with_what_they_have():
    method, batch = case([[1, 1, 0], [1, 0, 0], [1, 0, 0]])
    found = method.objective(batch, torch.Generator().manual_seed(0)).terms
    alone = method.objective(batch.take(torch.tensor([0])), torch.Generator().manual_seed(0)).terms
    for name in ("reconstruction", "kl"):
        assert found[name].item() == pytest.approx(alone[name].item() / 3, rel=1e-4)
    assert math.isfinite(found["task"].item())


def test_draws_are_of_the_conditional_prior():
    method, batch = case()
    outputs = method.draw_outputs(batch, 4, torch.Generator().manual_seed(5))
    noise = spread_normal((4, 1, 2), torch.Generator().manual_seed(5), outputs)
    flag = batch.observed["a"][:, None].float()
    prior = method.prior(torch.cat([batch.values["a"] * flag, flag], dim=1))
    latents = prior.mean + (prior.log_var / 2).exp() * noise
    torch.testing.assert_close(outputs, method.head(latents))
    found = method.draw_latents(batch, 4, torch.Generator().manual_seed(5))
    torch.testing.assert_close(found, latents[:, :, None])


def test_options_that_cannot_be():
    schema = cases.make_schema()
    with pytest.raises(ConfigurationError, match="needs a modality that is always observed"):
        CMMD(schema, always_observed=[])
    with pytest.raises(UnknownNameError, match="rows of CMMD 'some'"):
        CMMD(schema, rows="some")
    with pytest.raises(ConfigurationError, match=r"omega of CMMD is out of range.*0 or more and at most 1, got 1\.5"):
        CMMD(schema, omega=1.5)
