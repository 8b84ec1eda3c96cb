"""CM2: the objective by hand, and what a copula method must do that the paper's released code does not."""

import copy
import math

import numpy as np
import pytest
import torch
from contracts import cases
from scipy import stats

from amodal.batch import Batch
from amodal.errors import ConfigurationError, UnknownNameError
from amodal.method import Clock
from amodal.methods import method_options
from amodal.methods.cm2 import CM2, LAW_RATE, WARMUP
from amodal.schema import Modality, Schema, Task

PAIR = Schema((Modality("a", "tabular", (4,)), Modality("b", "tabular", (4,))), Task("binary", classes=("no", "yes")))


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def options_of(given):
    return method_options("cm2", given)


def made(schema=PAIR, *, seed=0, identity=True, **options):
    """CM2 whose vectors are its inputs, unless told otherwise."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        small = {"latent": 4, "normalise": "none", "hidden": 8}
        method = CM2(schema, cases.identities(schema), **options_of(small | options))
        if identity:
            for projection in method.projections:
                torch.nn.init.eye_(projection.weight)
                torch.nn.init.zeros_(projection.bias)
    return method


def pairs(n, *, tau=0.0, seed=0, observed=None, dim=4):
    """Standard normal tables whose coordinates are joined by a normal copula."""
    rho = math.sin(math.pi * tau / 2)
    a, e = torch.randn(2, n, dim, generator=draw(seed))
    b = rho * a + math.sqrt(1 - rho**2) * e
    seen = torch.ones(n, 2, dtype=torch.bool) if observed is None else observed
    target = (torch.rand(n, generator=draw(seed + 1)) < 0.5).long()
    return Batch({"a": a, "b": b}, dict(zip("ab", seen.unbind(1))), target=target)


def fit_law(method, batch, *, steps=300, rows=256, learning_rate=0.03):
    """Training on the method's own likelihood term, the vectors being data."""
    method.prepare([batch])
    law = method.law
    if not list(law.parameters()):  # no copula: the margins are fitted already
        return method
    optimiser = torch.optim.Adam(law.parameters(), lr=learning_rate)
    for step in range(steps):
        picked = torch.randint(0, len(batch), (rows,), generator=draw(step))
        terms = method.objective(batch.take(picked), draw(step)).terms
        optimiser.zero_grad()
        terms["likelihood"].backward()
        optimiser.step()
    return method


# The objective -------------------------------------------------------------------------------------------------------


def test_the_terms_by_scipy():
    """Two modalities, two coordinates, K = 2, one row without b: likelihood, alignment and task term by hand."""
    schema = Schema((Modality("a", "tabular", (2,)), Modality("b", "tabular", (2,))), PAIR.task)
    method = made(
        schema, latent=2, components=2, removal=False, w_alignment=0.3, training_draws=3, dropout=0.0
    ).double()
    method.clock = Clock(WARMUP)
    with torch.no_grad():
        method.law.mixture.raw_weights.copy_(torch.tensor([[0.3, -0.2], [0.1, 0.5]]))
    seen = torch.tensor([[True, True], [True, False]])
    values = {
        "a": torch.tensor([[0.3, -1.0], [0.8, 0.1]]).double(),
        "b": torch.tensor([[1.2, 0.4], [9.0, 9.0]]).double(),
    }
    batch = Batch(values, dict(zip("ab", seen.unbind(1))), target=torch.tensor([0, 1]))
    terms = method.objective(batch, draw())

    mixture = method.law.mixture
    w, mu, sd = (p.detach().numpy() for p in (mixture.weights, mixture.means, mixture.scales))
    correlation = method.law.copula.correlation.detach().numpy()  # (D, 2, 2)
    z = np.stack([values["a"].numpy(), values["b"].numpy()])

    def margin(m, i, j):
        log_f = np.log(sum(w[m, k] * stats.norm.pdf(z[m, i, j], mu[m, k, j], sd[m, k, j]) for k in range(2)))
        return log_f, sum(w[m, k] * stats.norm.cdf(z[m, i, j], mu[m, k, j], sd[m, k, j]) for k in range(2))

    joined, total = 0.0, 0.0
    for j in range(2):
        (f_a, u_a), (f_b, u_b) = margin(0, 0, j), margin(1, 0, j)
        scores = stats.norm.ppf([u_a, u_b])
        normal = stats.multivariate_normal(cov=correlation[j])
        joined += normal.logpdf(scores) - stats.norm.logpdf(scores).sum()
        total += f_a + f_b + margin(0, 1, j)[0]
    assert terms.terms["likelihood"].item() == pytest.approx(
        -(total + joined) / 2 / 2, rel=1e-6
    )  # per row, per dimension
    assert terms.terms["alignment"].item() == pytest.approx(-joined / 2 / 2, rel=1e-6)
    assert terms.weights == {"likelihood": 1.0, "alignment": 0.3}

    noise = method.law.noise(3, 2, draw(), method.vectors(batch)[0])
    with torch.no_grad():
        completed = method.complete(*method.vectors(batch), noise)  # (3, 2, M, D)
        told = seen.double().expand(3, -1, -1)
        logits = method.network.head(torch.cat([completed.flatten(2), told], -1))
    chance = logits.softmax(-1).mean(0)[[0, 1], [0, 1]]
    assert terms.terms["task"].item() == pytest.approx(-chance.log().mean().item(), rel=1e-5)


def test_the_margins_do_not_move_the_encoders_and_the_alignment_does_not_move_the_law():
    method = made()
    batch = pairs(16, tau=0.5)
    terms = method.objective(batch, draw()).terms
    encoder, law = list(method.projections.parameters()), list(method.law.parameters())
    assert all(
        g is None for g in torch.autograd.grad(terms["likelihood"], encoder, retain_graph=True, allow_unused=True)
    )
    assert all(g is None for g in torch.autograd.grad(terms["alignment"], law, retain_graph=True, allow_unused=True))
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(terms["alignment"], encoder[:1], retain_graph=True))
    whole = made(alignment="likelihood").objective(batch, draw())
    assert set(whole.terms) == {"task", "likelihood"}


def test_the_weight_rises():
    method = made(w_alignment=0.5)
    batch, weights = pairs(4), []
    for steps in (0, WARMUP // 2, WARMUP, 10 * WARMUP):
        method.clock = Clock(steps)
        weights.append(method.objective(batch, draw()).weights["alignment"])
    assert weights == [0, 0.25, 0.5, 0.5]


def test_the_law_learns_faster_unless_one_likelihood_moves_it_and_the_encoders():
    assert made().learning_rate_scale("law.mixture.means") == LAW_RATE
    assert made().learning_rate_scale("network.head.layers.0.weight") == 1
    assert made(alignment="likelihood").learning_rate_scale("law.mixture.means") == 1


@pytest.mark.parametrize(
    ("options", "removes"), [({}, True), ({"removal": False}, False), ({"preset": "paper"}, False)]
)
def test_without_removal_not_all_patterns_are_met(options, removes):
    assert made(identity=False, **options).meets_all_patterns == removes


# What the released code fails ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gaussian", "gumbel", "frank"])
def test_dependence_stays_at_independence_on_noise_and_finds_it_where_it_is(family):
    """The released Gumbel parameter counts steps: 1 - 1/theta goes to 0.6 on pure noise, and on anything else."""
    for tau in (0.0, 0.5):
        method = fit_law(made(family=family, components=1, removal=False), pairs(8_000, tau=tau))
        assert method.law.describe()["tau"] == pytest.approx(tau, abs=0.05)


def test_components_differ_after_training_and_more_of_them_fit_better():
    """In the released code all components stay identical, so that K changes nothing but a constant."""
    side = torch.where(torch.rand(4_000, 1, generator=draw(7)) < 0.5, -2.0, 2.0)
    batch = pairs(4_000)
    two_modes = Batch(
        {"a": 0.5 * batch.values["a"] + side, "b": batch.values["b"]}, batch.observed, target=batch.target
    )
    losses = {}
    for k in (1, 2):
        method = fit_law(made(components=k, family="independence", removal=False), two_modes)
        with torch.no_grad():
            losses[k] = method.objective(two_modes, draw()).terms["likelihood"].item()
    assert losses[2] < losses[1] - 0.2
    means, weights = method.law.mixture.means[0].detach(), method.law.mixture.weights[0].detach()
    torch.testing.assert_close(means.sort(0).values, torch.tensor([[-2.0] * 4, [2.0] * 4]), atol=0.15, rtol=0)
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.5]), atol=0.05, rtol=0)


def test_the_task_reaches_the_law_through_completions_only_where_one_likelihood_moves_all():
    for options, reached in (
        ({"alignment": "likelihood"}, True),
        ({"alignment": "likelihood", "sample_gradient": "detached"}, False),
        ({}, False),  # a law that the task moves is no law of the vectors
    ):
        method = made(components=3, removal=False, **options)
        observed = torch.tensor([[True, False], [False, True]]).repeat(8, 1)
        task = method.objective(pairs(16, tau=0.5, observed=observed), draw()).terms["task"]
        named = dict(method.law.named_parameters())
        assert all(parameter.requires_grad for parameter in named.values())
        gradients = torch.autograd.grad(task, list(named.values()), allow_unused=True, retain_graph=True)
        for name, gradient in zip(named, gradients):
            assert (gradient is not None and bool(gradient.abs().sum() > 0)) == reached, name
    projections = list(method.projections.parameters())  # through what is observed it reaches the encoders
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(task, projections))


def test_the_margins_follow_the_vectors_and_are_fitted_to_those_of_the_best_weights():
    method, batch = made(components=2, removal=False), pairs(2_000)
    method.prepare([batch])

    moved = Batch({n: v * 0.5 + 2.0 for n, v in batch.values.items()}, batch.observed, target=batch.target)
    with torch.no_grad():
        before = method.objective(moved, draw()).terms["likelihood"]
        method.after_step()
        for _ in range(3):
            method.objective(moved, draw())
            method.after_step()
        after = method.objective(moved, draw()).terms["likelihood"]
        truth = -2 * stats.norm(2, 0.5).logpdf(np.random.default_rng(0).normal(2, 0.5, 4_000)).mean()
    assert before > 3 * truth
    assert after == pytest.approx(truth, rel=0.02)
    method.remember([batch])
    with torch.no_grad():
        found = method.objective(batch, draw()).terms["likelihood"]
    assert found == pytest.approx(2 * 0.5 * math.log(2 * math.pi * math.e), rel=0.02)


def test_the_history_tells_whether_the_law_is_one_of_its_vectors():
    method, batch = made(components=1, normalise="layer", removal=False), pairs(2_000)
    method.prepare([batch])
    assert -0.2 < method.monitor(batch)["law_over_normal"] < 0.01  # its coordinates are nearly standard normal
    with torch.no_grad():
        method.law.mixture.means.fill_(3.0)
    assert method.monitor(batch)["law_over_normal"] > 1


@pytest.mark.parametrize("fusion", ["concatenate", "transformer", "lstm", "mean", "gated"])
def test_the_prediction_changes_when_the_completion_changes(fusion):
    """In the released code the LSTM never reads what was imputed."""
    method = made(fusion=fusion).eval()
    batch = pairs(6, observed=torch.tensor([[True, False]] * 6))
    before = method.draw(batch, 3, draw())
    assert (before[0] - before[1]).abs().max() > 1e-4
    moved = copy.deepcopy(method)
    with torch.no_grad():
        moved.law.mixture.means[1, :, 0] += 3.0
    assert (moved.draw(batch, 3, draw()) - before).abs().amax(dim=(0, 2)).min() > 1e-4


def test_a_third_modality_reaches_the_prediction():
    """In the released code the sequence has length two, whatever the number of modalities."""
    schema = cases.make_schema("binary", "tables")
    method = made(schema, fusion="lstm").eval()
    batch = cases.make_batch(schema, torch.ones(4, 3, dtype=torch.bool))
    moved = Batch({**batch.values, "c": batch.values["c"] + 1}, batch.observed, batch.measured, target=batch.target)
    assert (method.predict(moved) - method.predict(batch)).abs().min() > 1e-6


def test_a_completion_is_a_draw_and_not_an_average_of_draws():
    """Components at -3 and 3: a draw is near one of them (84 % beyond 2), the average of one draw of each is not."""
    method = made(components=2, completion="marginal")
    with torch.no_grad():
        method.law.mixture.means[:, 0], method.law.mixture.means[:, 1] = -3.0, 3.0
    batch = pairs(1, observed=torch.tensor([[True, False]]))
    noise = method.law.noise(4_000, 1, draw(), batch.values["a"])
    with torch.no_grad():
        drawn = method.complete(*method.vectors(batch), noise)[:, 0, 1]
    expected = 0.5 * (1 - stats.norm.cdf(2, 3)) + 0.5 * (1 - stats.norm.cdf(2, -3)) + 0.5 * stats.norm.cdf(-2, -3)
    assert (drawn.abs() > 2).double().mean().item() == pytest.approx(expected + 0.5 * stats.norm.cdf(-2, 3), abs=0.02)


# Completions ---------------------------------------------------------------------------------------------------------


def test_conditional_completions_follow_what_is_observed_and_marginal_ones_do_not():
    batch = pairs(4_000, tau=0.6)
    for completion, tau in (("conditional", 0.6), ("marginal", 0.0)):
        method = fit_law(made(components=1, completion=completion, removal=False), batch)
        half = Batch(batch.values, {"a": batch.observed["a"], "b": torch.zeros(4_000, dtype=torch.bool)})
        z, observed = method.vectors(half)
        with torch.no_grad():
            drawn = method.complete(z, observed, method.law.noise(1, len(z), draw(), z))[0]
        found = stats.kendalltau(drawn[:, 0, 0], drawn[:, 1, 0]).statistic
        assert found == pytest.approx(tau, abs=0.05)


def test_nothing_observed_is_predicted_from_the_law():
    method = made().eval()
    empty = pairs(3, observed=torch.zeros(3, 2, dtype=torch.bool))
    prediction = method.predict(empty)
    assert torch.isfinite(prediction).all()
    torch.testing.assert_close(prediction, prediction[:1].expand_as(prediction))


def test_vary_keeps_the_other_completions():
    schema = cases.make_schema("binary", "tables")
    method = made(schema, fusion="concatenate").eval()
    batch = cases.make_batch(schema, torch.tensor([[True, False, False]] * 5))
    only_b = method.draw(batch, 6, draw(), vary=["b"])
    both = method.draw(batch, 6, draw())
    assert (only_b[0] - only_b[1]).abs().max() > 1e-5
    assert not torch.equal(only_b, both)
    with pytest.raises(UnknownNameError, match="unknown modality 'B'"):
        method.draw(batch, 2, draw(), vary=["B"])


def test_without_completion_or_copula_there_is_no_law():
    method = made(completion="none", alignment="none")
    assert method.law is None
    assert method.monitor(pairs(3)) == {}
    assert set(method.objective(pairs(8), draw()).terms) == {"task"}
    batch = pairs(4, observed=torch.tensor([[True, False]] * 4))
    draws = method.eval().draw(batch, 3, draw())
    assert torch.equal(draws, draws[:1].expand_as(draws))


@pytest.mark.parametrize("alignment", ["cosine", "kl"])
def test_other_alignments_are_those_of_the_losses(alignment):
    from amodal.losses.alignment import cosine_alignment, kl_alignment

    method, batch = made(alignment=alignment), pairs(8)
    method.clock = Clock(10_000)
    function = cosine_alignment if alignment == "cosine" else kl_alignment
    expected = function(batch.values, batch.observed).mean()
    torch.testing.assert_close(method.objective(batch, draw()).terms["alignment"], expected)


def test_the_history_tells_of_dependence():
    method = made(components=2)
    with torch.no_grad():
        method.law.mixture.means[:] = torch.tensor([[0.0] * 4, [2.0] * 4])
    watched = method.monitor(pairs(400, tau=0.6))
    assert watched["latent_correlation"] == pytest.approx(math.sin(0.3 * math.pi), abs=0.05)
    assert watched["tau"] == pytest.approx(0.1)
    assert watched["components_apart"] == pytest.approx(2 / method.law.mixture.scales.mean().item())
    assert made(family="gumbel").monitor(pairs(9))["theta"] == pytest.approx(1 / 0.9)


# The paper's preset and bad input ------------------------------------------------------------------------------------


def test_the_papers_preset():
    schema = cases.make_schema("binary", "tables")
    method = CM2(schema, cases.make_encoders(schema), **options_of({"preset": "paper"}))
    batch = cases.make_batch(schema, cases.mixed_presence(schema, 2))
    z, observed = method.vectors(batch)
    assert type(method.law).__name__ == "PrintedLaw"
    assert z.shape == (14, 3, 256)
    torch.testing.assert_close(z[observed].norm(dim=-1), torch.ones(int(observed.sum())))
    assert (method.network.fusion.lstm.num_layers, method.network.fusion.lstm.hidden_size) == (2, 512)
    terms = method.objective(batch, draw())
    assert terms.weights == {"likelihood": 256e-6}
    assert torch.isfinite(terms.total)
    options = options_of({"preset": "paper", "variant": "kendall", "latent": 8, "completion": "conditional"})
    given = CM2(schema, cases.make_encoders(schema), **options)
    assert type(given.law).__name__ == "KendallLaw"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "papre"}, "unknown preset of cm2 'papre'.*Did you mean 'paper'"),
        ({"family": "gumbell"}, "unknown family of cm2 'gumbell'.*Did you mean 'gumbel'"),
        ({"variant": "coordinate"}, "unknown variant of cm2 'coordinate'.*Did you mean 'coordinatewise'"),
        ({"completion": "conditonal"}, "unknown completion of cm2 'conditonal'.*Did you mean 'conditional'"),
        ({"alignment": "cosin"}, "unknown alignment of cm2 'cosin'.*Did you mean 'cosine'"),
        ({"sample_gradient": "detach"}, "unknown sample_gradient.*Did you mean 'detached'"),
        ({"fusion": "lstn"}, "unknown fusion 'lstn'.*Did you mean 'lstm'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(options, words):
    with pytest.raises(UnknownNameError, match=words):
        made(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"components": 0}, "components of cm2 is out of range.*1 or more, got 0"),
        ({"latent": 1, "identity": False}, "latent of cm2 is out of range.*2 or more, got 1"),
        ({"training_draws": 0}, "training_draws of cm2 is out of range.*1 or more, got 0"),
        ({"prediction_draws": 0}, "prediction_draws of cm2 is out of range"),
        ({"w_alignment": -1.0}, "w_alignment of cm2 is out of range"),
        ({"w_alignment": math.nan}, "w_alignment of cm2 is out of range"),
        ({"variant": "printed"}, '"printed" has no conditional law.*completion="marginal"'),
    ],
)
def test_numbers_out_of_range_are_refused(options, words):
    with pytest.raises(ConfigurationError, match=words):
        made(**options)


def test_impact_says_what_absent_modalities_could_change():
    """Trained through the library: nothing is left open where nothing is absent, and something where something is."""
    import amodal

    cohort = amodal.load_cohort("digits")
    train, test = cohort.split("train").take(np.arange(120)), cohort.split("test").take(np.arange(12))
    model = amodal.fit("cm2", train, train, epochs=1, seed=0, width=8, options={"latent": 4, "hidden": 8})
    observed = np.ones((12, 4), dtype=bool)
    observed[:6, 1:] = False
    result = amodal.impact(model, test.with_observed(observed), draws=20, seed=0, plausible=False)
    assert (result.variability[:6] > 1e-6).all()
    assert np.abs(result.variability[6:]).max() < 1e-6  # equal draws, but for rounding in single precision
    assert {"tau", "theta", "components_apart"} & set(model.history.columns) >= {"tau", "components_apart"}
