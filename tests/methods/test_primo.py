"""PRIMO against its equations written out for two modalities, and against what they imply."""

import copy
import math

import pytest
import torch
from contracts import cases
from torch.nn import functional

from amodal.distributions.quasirandom import spread_uniform
from amodal.errors import AmodalError, ConfigurationError, UnknownNameError
from amodal.method import Clock
from amodal.methods import method_options, primo
from amodal.methods.primo import PRIMO
from amodal.predictive_impact import variability
from amodal.schema import Modality, Schema, Task

PAIR = (Modality("o", "tabular", (3,)), Modality("m", "tabular", (3,)))


def pair(task="multiclass"):
    return Schema(PAIR, cases.TASKS[task])


def make(schema, *, seed=0, **options):
    torch.manual_seed(seed)
    options = {"latent": 2, "hidden": 8} | options
    return PRIMO(schema, cases.identities(schema), **method_options("primo", options)).double()


def rows(schema, n=12, *, absent=(), seed=0):
    """A batch in double precision; the last modality is absent in every third row, `absent` ones everywhere."""
    observed = torch.ones(n, len(schema.names), dtype=torch.bool)
    observed[::3, -1] = False
    for name in absent:
        observed[:, schema.names.index(name)] = False
    batch = cases.make_batch(schema, observed, seed=seed)
    values = {name: value.double() for name, value in batch.values.items()}
    return type(batch)(values, batch.observed, {}, {}, batch.target)


# The paper's equations -----------------------------------------------------------------------------------------------


def two_layers(x, first, second):
    return functional.linear(
        functional.gelu(functional.linear(x, first.weight, first.bias)), second.weight, second.bias
    )


def gaussian_of(network, x):
    first = network.layers[0]
    return two_layers(x, first, network.mean), two_layers(x, first, network.log_var)


def kl(mean_1, log_var_1, mean_2, log_var_2):
    ratio = (log_var_1.exp() + (mean_1 - mean_2) ** 2) / log_var_2.exp()
    return 0.5 * (log_var_2 - log_var_1 + ratio - 1).sum(1)


def equations_2_to_7(method, x_o, x_m, a, y, noise):
    """The paper's objective, as a loss, from the weights of a method; nothing else of the method is used.

    Each feature stands beside a bit that says whether it is there.
    """
    nothing = torch.zeros_like(x_m)
    x_m = torch.where(a[:, None], x_m, nothing)
    yes, no = torch.ones_like(x_o[:, :1]), torch.zeros_like(x_o[:, :1])
    x_o, x_m, nothing = (torch.cat(part, 1) for part in ([x_o, yes], [x_m, a[:, None]], [nothing, no]))
    p = gaussian_of(method.prior, torch.cat([x_o, x_m], 1))
    p_o = gaussian_of(method.prior, torch.cat([x_o, nothing], 1))
    one_hot = torch.eye(3, dtype=torch.float64)[y]
    q_mean, q_log_var = gaussian_of(method.posterior, torch.cat([x_o, x_m, one_hot], 1))
    centred = q_mean - q_mean.mean(0)
    q_mean = 0.6 * centred / (q_mean.var(0, correction=0) + 1e-5).sqrt() + method.posterior.norm.offset
    z = q_mean + (0.5 * q_log_var).exp() * noise  # eq. 6
    weight = torch.cat([method.decoder.condition.weight, method.decoder.latents.weight], 1)
    hidden = functional.gelu(functional.linear(torch.cat([x_o, z], 1), weight, method.decoder.latents.bias))
    logits = functional.linear(hidden, method.decoder.out.weight, method.decoder.out.bias)
    bound = logits.log_softmax(1)[range(len(y)), y] - kl(q_mean, q_log_var, *p)  # eq. 2 and 3
    unit = torch.zeros_like(p_o[0]), torch.zeros_like(p_o[0])
    regulariser = kl(*p_o, *unit) + a * kl(*p, *p_o)  # eq. 4
    return -(bound - regulariser).sum() / len(y)  # eq. 7


def test_with_one_maskable_modality_the_paper_preset_is_the_papers_equations():
    schema = pair()
    method, batch = make(schema, preset="paper", always_observed=["o"]).train(), rows(pair())
    noise = torch.randn(1, 12, 1, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)[0, :, 0]
    a = batch.observed["m"]
    by_hand = equations_2_to_7(method, batch.values["o"], batch.values["m"], a, batch.target, noise)
    ours = method.objective(batch, torch.Generator().manual_seed(4)).total
    torch.testing.assert_close(ours, by_hand, rtol=1e-12, atol=1e-12)
    wanted = torch.autograd.grad(by_hand, list(method.parameters()))
    found = torch.autograd.grad(ours, list(method.parameters()))
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_weights_and_several_draws():
    schema = pair()
    options = {"preset": "paper", "always_observed": ["o"], "w_kl": 0.3, "w_anchor": 0.2, "w_tie": 0.7}
    method, batch = make(schema, training_draws=3, **options).train(), rows(schema)
    terms = method.objective(batch, torch.Generator().manual_seed(4))
    assert terms.weights == {"kl": 0.3, "anchor": 0.2, "tie": 0.7}
    noise = torch.randn(3, 12, 1, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)[:, :, 0]
    inputs = (batch.values["o"], batch.values["m"], batch.observed["m"], batch.target)
    by_hand = torch.stack([equations_2_to_7(method, *inputs, one) for one in noise]).mean()
    torch.testing.assert_close(sum(terms.terms.values()), by_hand, rtol=1e-12, atol=1e-12)


def test_the_predictive_preset_is_the_options_it_names():
    batch, options = (
        rows(pair()),
        {"w_tie": 0.1, "present": "posterior", "w_predict_missing": 3.0, "components": 10, "also_masked": True,
         "training_draws": 4},
    )  # fmt: skip
    preset, spelt = make(pair(), preset="predictive"), make(pair(), **options)
    by_preset, by_hand = (m.train().objective(batch, torch.Generator().manual_seed(1)) for m in (preset, spelt))
    assert by_preset.weights == by_hand.weights
    assert by_preset.terms == by_hand.terms
    options = {"w_predict_missing": 0.0, "components": 4, "also_masked": False, "training_draws": 1}
    options |= {"w_tie": 1.0, "present": "prior"}
    plain = make(pair(), preset="predictive", **options)
    default = make(pair())
    by_preset, by_hand = (m.train().objective(batch, torch.Generator().manual_seed(1)) for m in (plain, default))
    assert by_preset.terms == by_hand.terms  # what is given wins over the preset


def test_the_weight_of_the_one_sided_tie_rises(monkeypatch):
    monkeypatch.setattr(primo, "TIE_WARMUP", 4)
    method, batch = make(pair(), w_tie=0.8), rows(pair())
    found = []
    for step in range(6):
        found.append(method.objective(batch, torch.Generator()).weights["tie"])
        method.clock = Clock(step + 1)
    assert found == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.8])
    assert make(pair(), w_tie=0.8, present="published").objective(batch, torch.Generator()).weights["tie"] == 0.8


def beside(x, kept):
    """Features of four numbers, zero unless kept, each beside its bit."""
    blank = torch.zeros(4, dtype=torch.float64)
    return torch.cat([torch.cat([x[m] if m in kept else blank, blank.new_tensor([m in kept])]) for m in range(len(x))])


def test_several_maskable_modalities_by_hand():
    """Three modalities, all maskable: sums over latents, and a tie over the subset that the generator draws."""
    schema = cases.make_schema("binary", "tables")
    method, batch = make(schema, preset="paper", gamma=None).train(), rows(schema, 9)
    terms = method.objective(batch, torch.Generator().manual_seed(5)).terms
    draw = torch.Generator().manual_seed(5)
    noise = torch.randn(1, 9, 3, 2, generator=draw, dtype=torch.float64)[0]
    uniform = torch.rand(9, 4, generator=draw)
    anchor, tie, divergence, task = [], [], [], []
    for i in range(9):
        there = [m for m in range(3) if batch.presence[i, m]]
        size = 1 + math.floor(uniform[i, 0] * len(there))
        taken = sorted(there, key=lambda m: float(uniform[i, 1 + m]))[:size]
        x = [batch.values[name][i] for name in schema.names]

        def prior(kept, x=x):
            return [part.view(3, 2) for part in gaussian_of(method.prior, beside(x, kept)[None])]

        p, fewer, none = prior(there), prior([m for m in there if m not in taken]), prior([])
        encoded = functional.one_hot(batch.target[i], 2).double()
        q = [part.view(3, 2) for part in gaussian_of(method.posterior, torch.cat([beside(x, there), encoded])[None])]
        z = (q[0] + (0.5 * q[1]).exp() * noise[i]).flatten()
        logits = two_layers(z, method.decoder.latents, method.decoder.out)
        task.append(-logits.log_softmax(0)[batch.target[i]])
        divergence.append(kl(*q, *p).sum())
        anchor.append(kl(*none, torch.zeros(3, 2), torch.zeros(3, 2)).sum())
        tie.append(kl(*p, *fewer)[taken].sum())
    for name, values in {"task": task, "kl": divergence, "anchor": anchor, "tie": tie}.items():
        torch.testing.assert_close(terms[name], torch.stack(values).mean(), rtol=1e-10, atol=1e-12)


# What the equations imply --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["default", "paper", "predictive"])
def test_a_decoder_that_is_blind_to_the_latents_has_no_variability(preset):
    schema = pair()
    method, batch = make(schema, preset=preset, always_observed=["o"]).eval(), rows(schema)
    with torch.no_grad():
        method.decoder.latents.weight.zero_()
        missing = rows(schema, absent=["m"])
        draws = method.draw(batch, 7, torch.Generator().manual_seed(0))
        assert variability(draws).max() < 1e-12
        torch.testing.assert_close(method.predict(batch), method.predict(missing))


def test_the_tie_of_rows_without_a_maskable_modality_is_zero():
    schema = pair()
    method = make(schema, always_observed=["o"]).train()
    terms = method.objective(rows(schema, absent=["m"]), torch.Generator().manual_seed(0)).terms
    assert terms["tie"] == 0
    assert method.objective(rows(schema), torch.Generator().manual_seed(0)).terms["tie"] > 0


@pytest.mark.parametrize("preset", ["default", "paper", "predictive"])
def test_a_common_shift_of_the_latents_changes_the_anchor_only(preset):
    schema = pair()
    method, batch = make(schema, preset=preset).train(), rows(schema)
    shifted, shift = copy.deepcopy(method), torch.randn(4, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        components = len(shifted.prior.mean.bias) // 4
        for prior in filter(None, (shifted.prior, shifted.prior_of_absent)):
            prior.mean.bias += shift.view(2, 1, 2).expand(2, components, 2).flatten()
        shifted.posterior.norm.offset += shift
        shifted.decoder.latents.bias -= shifted.decoder.latents.weight @ shift
    terms = [m.objective(batch, torch.Generator().manual_seed(1)).terms for m in (method, shifted)]
    for name in terms[0]:
        same = torch.isclose(terms[0][name], terms[1][name], rtol=1e-9, atol=1e-12)
        assert bool(same) == (name != "anchor"), name


def test_the_posterior_mean_has_the_offset_as_mean_and_gamma_as_deviation():
    schema = pair()
    method = make(schema, gamma=0.7).train()
    with torch.no_grad():
        method.posterior.norm.offset.copy_(torch.arange(4.0))
        mean = method.posterior(torch.randn(64, 2 * 4 + 3, dtype=torch.float64)).mean.flatten(1)
    torch.testing.assert_close(mean.mean(0), torch.arange(4.0).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(mean.std(0, correction=0), torch.full((4,), 0.7).double(), atol=1e-3, rtol=0)


def test_the_predictive_term_is_the_log_of_a_mean_and_moves_the_mixtures_weights():
    schema = pair("binary")
    method, batch = make(schema, w_predict=1.0).train(), rows(schema)
    with torch.no_grad():  # two draws of z that do not matter: the term is the plain cross-entropy
        method.decoder.latents.weight.zero_()
    terms = method.objective(batch, torch.Generator().manual_seed(0)).terms
    torch.testing.assert_close(terms["predict"], terms["task"])
    method = make(schema, w_predict=1.0, seed=2).train()
    predict = method.objective(batch, torch.Generator().manual_seed(0)).terms["predict"]
    gradient = torch.autograd.grad(predict, method.prior.log_weights.weight)[0]
    assert gradient.abs().max() > 0
    with torch.no_grad():  # against the exact gradient, by many draws: shift one component's logit
        exact = []
        for step in (1e-3, -1e-3):
            other = copy.deepcopy(method).eval()
            other.prior.log_weights.bias[0] += step
            p = other.draw(batch, 60_000, torch.Generator().manual_seed(7)).mean(0)
            exact.append(-p.gather(1, batch.target[:, None]).log().mean())
        slope = (exact[0] - exact[1]) / 2e-3
    method.training_draws = 4000
    predict = method.objective(batch, torch.Generator().manual_seed(0)).terms["predict"]
    found = torch.autograd.grad(predict, method.prior.log_weights.bias)[0][0]
    assert abs(float(found - slope)) < 0.25 * max(abs(float(slope)), 4e-3)


def test_also_masked_adds_the_bound_without_a_subset():
    schema = pair()
    method, batch = make(schema, always_observed=["o"], gamma=None, w_predict=0.0).train(), rows(schema)
    method.also_masked = True
    both = method.objective(batch, torch.Generator().manual_seed(0)).terms
    method.also_masked = False
    alone = make_alone(method, batch)
    torch.testing.assert_close(both["kl"], alone["kl"])


def test_also_masked_adds_the_predictive_term_without_a_subset():
    schema = pair("binary")
    method, batch = make(schema, always_observed=["o"], w_predict=1.0, also_masked=True).train(), rows(schema)
    with torch.no_grad():  # a decoder that is blind to the latents gives a row's plain cross-entropy in both
        method.decoder.latents.weight.zero_()
        condition = torch.cat([batch.values["o"], torch.ones(len(batch), 1).double()], 1)
        hidden = functional.gelu(method.decoder.condition(condition) + method.decoder.latents.bias)
        entropy = functional.cross_entropy(method.decoder.out(hidden), batch.target, reduction="none")
    terms = method.objective(batch, torch.Generator().manual_seed(0)).terms
    torch.testing.assert_close(terms["predict"], (entropy * (1 + batch.observed["m"].float())).mean())
    assert "predict_missing" not in terms
    method.weights["predict_missing"] = 3.0  # every row counts once without "m": as it is, or in its second view
    loss = method.objective(batch, torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss.terms["predict_missing"], entropy.mean())
    method.also_masked = False
    terms = method.objective(batch, torch.Generator().manual_seed(0)).terms
    torch.testing.assert_close(terms["predict_missing"], (entropy * ~batch.observed["m"]).mean())


def make_alone(method, batch):
    """Divergences (they need no noise) of the rows as they are, and of the complete rows without "m"."""
    seen = method.objective(batch, torch.Generator().manual_seed(0)).terms["kl"]
    complete = batch.take(batch.observed["m"])
    hidden = complete.restrict({"m": torch.zeros(len(complete), dtype=torch.bool)})
    without = method.objective(hidden, torch.Generator().manual_seed(0)).terms["kl"]
    return {"kl": seen + without * len(complete) / len(batch)}


# Draws ---------------------------------------------------------------------------------------------------------------


def test_draws_are_those_of_a_plain_decoder_whatever_the_chunk(monkeypatch):
    schema = pair()
    method, batch = make(schema, always_observed=["o"], preset="paper").eval(), rows(schema)
    with torch.no_grad():
        whole = method.draw_outputs(batch, 5, torch.Generator().manual_seed(2))
        monkeypatch.setattr(primo, "CHUNK", 90)
        torch.testing.assert_close(method.draw_outputs(batch, 5, torch.Generator().manual_seed(2)), whole)
        points = spread_uniform((5, 3), torch.Generator().manual_seed(2), whole)  # first: which component, of one
        noise = torch.special.ndtri(points[:, 1:])
        x_o, x_m = (torch.cat([batch.values[n], batch.observed[n][:, None]], 1) for n in ("o", "m"))
        mean, log_var = gaussian_of(method.prior, torch.cat([x_o, x_m], 1))
        weight = torch.cat([method.decoder.condition.weight, method.decoder.latents.weight], 1)
        for s in range(5):
            inputs = torch.cat([x_o, mean + (0.5 * log_var).exp() * noise[s]], 1)
            hidden = functional.gelu(functional.linear(inputs, weight, method.decoder.latents.bias))
            plain = functional.linear(hidden, method.decoder.out.weight, method.decoder.out.bias)
            torch.testing.assert_close(whole[s], plain)
            latents = method.draw_latents(batch, 5, torch.Generator().manual_seed(2))
            torch.testing.assert_close(latents[s, :, 0], inputs[:, x_o.shape[1] :])


def test_a_prediction_is_the_mean_over_the_prior_and_closer_to_it_than_chance_would_be():
    """The draws of a prediction are spread evenly: the same law, a fraction of the error of independent draws."""
    schema = cases.make_schema("multiclass", "tables")
    method = make(schema, prediction_draws=256).eval()
    with torch.no_grad():
        method.decoder.out.weight.mul_(20)  # draws that differ
        batch = rows(schema, 40)
        many = method.draw(batch, 60_000, torch.Generator().manual_seed(5))
        error = method.predict(batch) - many.mean(0)
    by_chance = many.std(0) / math.sqrt(method.prediction_draws)
    assert by_chance.mean() > 0.005
    assert error.square().mean().sqrt() < 0.5 * by_chance.square().mean().sqrt()
    torch.testing.assert_close(method.predict(batch.take(torch.arange(3))), method.predict(batch)[:3])


def test_only_the_named_latents_vary():
    schema = cases.make_schema("binary", "tables")
    method, batch = make(schema).eval(), rows(schema)
    with torch.no_grad():
        method.decoder.latents.weight[:, 2:4] = 0.0  # blind to the second latent
        draws = {
            vary: method.draw_outputs(batch, 6, torch.Generator().manual_seed(0), vary=vary)
            for vary in (("a",), ("b",), ("a", "b", "c"), ())
        }
        every = method.draw_outputs(batch, 6, torch.Generator().manual_seed(0))
    spread = {vary: float(values.std(0).max()) for vary, values in draws.items()}
    assert spread[("b",)] < 1e-12
    assert spread[()] < 1e-12
    assert spread[("a",)] > 1e-3
    assert torch.equal(draws[("a", "b", "c")], every)
    assert all(torch.equal(values[0], every[0]) for values in draws.values())


def test_nothing_observed_is_a_legal_input():
    schema = cases.make_schema("binary", "tables")
    method = make(schema).eval()
    empty = rows(schema, 4, absent=schema.names)
    with torch.no_grad():
        predicted = method.predict(empty)
    torch.testing.assert_close(predicted, predicted[:1].expand(4, 2))
    assert torch.isfinite(cases.gradients_of(method.train(), empty)[0])


@pytest.mark.parametrize("size", [0, 1])
def test_tiny_batches_leave_the_statistics_alone(size):
    schema = pair()
    method = make(schema).train()
    before = copy.deepcopy(method.posterior.norm.state_dict())
    assert torch.isfinite(method.objective(rows(schema, 3).take(torch.arange(size)), torch.Generator()).total)
    assert all(torch.equal(before[key], value) for key, value in method.posterior.norm.state_dict().items())


def test_a_regression_learns_the_noise_of_its_target_from_the_rows_that_have_most():
    """Rows that lack something would put into the noise what is missing."""
    schema = Schema(PAIR, Task("regression"))
    method, batch = make(schema, w_predict=0.0, w_kl=0.0, w_tie=0.0, w_anchor=0.0).train(), rows(schema)
    with torch.no_grad():
        for parameter in method.decoder.parameters():
            parameter.zero_()
    optimiser = torch.optim.Adam([method.log_noise], lr=0.2)
    for step in range(200):
        optimiser.zero_grad()
        method.objective(batch, torch.Generator().manual_seed(step)).total.backward()
        optimiser.step()
    squares = batch.target[batch.observed["m"]].double().square()
    torch.testing.assert_close(method.log_noise.exp(), squares.mean(), rtol=0.02, atol=0.0)
    assert method.learning_rate_scale("log_noise") > 1
    with torch.no_grad():
        assert make(schema).log_noise.exp() < 0.1  # a variance of one would say it all


def test_latents_of_present_modalities_come_from_the_prior_in_training_as_in_prediction():
    schema = pair()
    method, batch = make(schema, gamma=None, components=1, w_predict=0.0).train(), rows(schema)
    with torch.no_grad():
        method.posterior.mean.bias += 5.0
    default = method.objective(batch, torch.Generator().manual_seed(0)).terms
    complete = method.objective(batch.take(batch.observed["m"]), torch.Generator().manual_seed(0)).terms
    assert complete["kl"] == 0  # nothing is missing: the posterior says nothing
    assert default["kl"] > 0
    method.present = "posterior"
    assert method.objective(batch.take(batch.observed["m"]), torch.Generator().manual_seed(0)).terms["kl"] > 1


# Bad options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"preset": "best"}, UnknownNameError, "preset of primo 'best'.*default.*paper"),
        ({"always_observed": ["o", "m"]}, ConfigurationError, "primo needs a modality that may be missing"),
        ({"always_observed": ["x"]}, UnknownNameError, "'x'"),
        ({"gamma": 0.0}, ConfigurationError, "gamma of primo is out of range.*more than 0, or None"),
        ({"w_tie": -1.0}, ConfigurationError, "w_tie of primo is out of range.*0 or more"),
        ({"w_predict_missing": -1.0}, ConfigurationError, "w_predict_missing of primo is out of range.*0 or more"),
        ({"components": 0}, ConfigurationError, "components of primo is out of range.*1 or more, got 0"),
        ({"present": "one"}, UnknownNameError, "present of primo 'one'"),
    ],
)
def test_bad_options(options, kind, words):
    with pytest.raises(kind, match=words):
        make(pair(), **options)


def test_unknown_modality_to_vary():
    method = make(pair()).eval()
    with pytest.raises(AmodalError, match="'x'"):
        method.draw_outputs(rows(pair()), 3, torch.Generator(), vary=["x"])
