"""Fills: the sheet's properties, and values by hand."""

import warnings

import numpy as np
import pytest
import torch
from contracts import cases

import amodal
from amodal.data.sources.ring import RingWorld, ring_cohort
from amodal.encoders import build_encoders, encode_pooled
from amodal.errors import ConfigurationError, UnknownNameError
from amodal.losses.characteristic_function.loss import marginal_cf_loss
from amodal.methods.fills import Fills, drop_modalities
from amodal.patterns import draw_removal
from amodal.schema import Modality, Schema, Task

STRATEGIES = ("zero", "mean", "learned", "predictor", "mse", "ep", "cf")
SCHEMA = Schema(
    tuple(Modality(f"s{i}", "tabular", (1,)) for i in range(4)), Task("multiclass", classes=("a", "b", "c"))
)


def method_of(strategy, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoders = build_encoders(
            SCHEMA, width=8, choices={key: {"name": "linear", "clip": None} for key in SCHEMA.names}
        )
        options = {"hidden": 8, "context_width": 6, "dropout": 0.0, "form": "radial"} | options
        return Fills(SCHEMA, encoders, strategy=strategy, **options)


def batch_of(observed, seed=0):
    return cases.make_batch(SCHEMA, observed, seed=seed)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


ALL = torch.ones(12, 4, dtype=torch.bool)
SOME = cases.patterns(4)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_fills_do_not_matter_where_all_is_observed(strategy):
    """With all sensors observed, all strategies with identical parameters give identical predictions."""
    reference, method = method_of("zero").eval(), method_of(strategy).eval()
    missing, _ = method.load_state_dict(reference.state_dict(), strict=False)
    assert all(key.split(".")[0] in ("static", "context", "predictor") for key in missing)
    assert torch.equal(method.predict(batch_of(ALL)), reference.predict(batch_of(ALL)))
    unfilled = strategy in ("zero", "mean")  # no mean has been seen yet
    assert unfilled == torch.equal(method.predict(batch_of(SOME)), reference.predict(batch_of(SOME)))


@pytest.mark.parametrize("strategy", ["zero", "mean", "learned"])
def test_static_fills_have_no_predictor(strategy):
    method = method_of(strategy)
    assert not [key for key, _ in method.named_parameters() if "predictor" in key or "context" in key]
    assert set(method.objective(batch_of(SOME), generator()).terms) == {"task"}
    with pytest.raises(ConfigurationError, match=rf"'{strategy}' has no context"):
        method.contexts(torch.zeros(1, 4, 8), torch.ones(1, 4, dtype=torch.bool))


def test_what_stands_in_an_absent_slot():
    for strategy in ("zero", "learned", "predictor"):
        method = method_of(strategy).eval()
        features, observed = encode_pooled(method.encoders, batch_of(SOME))
        slots, _, _ = method.fill(features, observed)
        assert torch.equal(slots[observed], features[observed])
        if strategy == "zero":
            assert not slots[~observed].any()
        elif strategy == "learned":
            assert torch.equal(slots[~observed], method.static.learned.expand_as(slots)[~observed])
        else:
            kept = observed[..., None].float()
            context = method.context((features * kept).sum(1) / kept.sum(1))
            torch.testing.assert_close(slots[~observed], method.predictor(context).view_as(slots)[~observed])


def test_mean_fill_is_the_embedding_of_the_mean_reading():
    """The embedding is affine, so the mean of embeddings is the embedding of the mean."""
    method = method_of("mean", drop=0.0).train()
    batch = batch_of(ALL)
    full = {key: torch.ones_like(value) for key, value in batch.measured.items()}
    batch = type(batch)(batch.values, batch.observed, full, {}, batch.target)
    for _ in range(3):
        method.objective(batch, generator())
    slots, _, _ = method.eval().fill(torch.zeros(1, 4, 8), torch.zeros(1, 4, dtype=torch.bool))
    for m, name in enumerate(SCHEMA.names):
        mean = batch.values[name].mean(0, keepdim=True)
        torch.testing.assert_close(slots[:, m], method.encoders[name](mean).pooled)


def test_mse_by_hand_and_only_on_what_was_removed():
    """Modalities that the data lack have no target."""
    method = method_of("mse", weight=0.5)
    batch = batch_of(SOME)
    terms = method.objective(batch, generator(1))
    kept = drop_modalities(batch.presence, 0.5, generator(1))
    features, _ = encode_pooled(method.encoders, batch)
    _, predicted, _ = method.fill(features, kept)
    removed = batch.presence & ~kept
    expected = ((predicted - features) ** 2)[removed].mean()
    torch.testing.assert_close(terms.terms["mse"], expected)
    torch.testing.assert_close(terms.total, terms.terms["task"] + 0.5 * expected)
    nothing = method_of("mse", drop=0.0).objective(batch, generator())
    assert nothing.terms["mse"] == 0


def test_balanced_removal_takes_a_uniform_number_and_mse_looks_at_just_that():
    method = method_of("mse", drop="balanced")
    batch = batch_of(SOME)
    kept = draw_removal(batch.presence, generator(1))
    features, _ = encode_pooled(method.encoders, batch)
    _, predicted, _ = method.fill(features, kept)
    found = method.objective(batch, generator(1)).terms["mse"]
    torch.testing.assert_close(found, ((predicted - features) ** 2)[batch.presence & ~kept].mean())
    counts = method._remaining(torch.ones(4000, 4, dtype=torch.bool), generator()).sum(1).bincount(minlength=5)
    assert counts[0] == 0
    assert counts[1:].double().div(4000).tolist() == pytest.approx([0.25] * 4, abs=0.03)


def test_mse_targets_are_constants():
    for detach in (True, False):
        method = method_of("mse", detach_observed=detach)
        features = torch.randn(6, 4, 8, requires_grad=True)
        kept = torch.tensor([[True, False, True, False]]).expand(6, 4)
        _, predicted, _ = method.fill(features, kept)
        target = features.detach() if detach else features
        ((predicted - target)[~kept] ** 2).mean().backward()
        assert bool(features.grad[~kept].any()) != detach


def test_cf_with_an_infinite_bandwidth_is_ep():
    losses = [
        method_of(strategy, bandwidth=1e12).objective(batch_of(SOME), generator(2)).terms[strategy]
        for strategy in ("cf", "ep")
    ]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-6)
    assert losses[0] > 0


def test_ep_is_the_two_sample_loss_averaged_over_modalities():
    method = method_of("ep")
    batch = batch_of(SOME)
    term = method.objective(batch, generator(3)).terms["ep"]
    kept = drop_modalities(batch.presence, 0.5, generator(3))
    features, _ = encode_pooled(method.encoders, batch.restrict(dict(zip(SCHEMA.names, kept.unbind(1)))))
    _, predicted, _ = method.fill(features, kept)
    values = [marginal_cf_loss(features[kept[:, m], m], predicted[~kept[:, m], m], form="radial") for m in range(4)]
    torch.testing.assert_close(term, torch.stack(values).mean())


@pytest.mark.parametrize("detach", [True, False])
def test_weights_send_a_gradient_into_the_context_only_without_the_stop_gradient(detach):
    """With predictions held constant, what reaches the context layer has come through the kernel."""
    method = method_of("cf", detach_weights=detach)
    kept = drop_modalities(SOME, 0.5, generator())
    features, _ = encode_pooled(method.encoders, batch_of(kept))
    _, predicted, context = method.fill(features, kept)
    loss = method.alignment(features, predicted.detach(), context, kept, generator())
    if detach:
        assert not loss.requires_grad
    else:
        loss.backward()
        assert method.context.weight.grad.abs().sum() > 0


def test_the_objective_draws_projections_from_its_generator():
    method = method_of("cf", form="products", directions=4, frequencies=3, drop=0.0)
    batch = batch_of(SOME)
    first, again, other = (method.objective(batch, generator(seed)).terms["cf"] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_products_estimate_the_radial_form():
    sampled = method_of("cf", form="products", directions=3000, frequencies=200, drop=0.0)
    exact = method_of("cf", drop=0.0)
    batch = batch_of(SOME)
    values = [method.objective(batch, generator()).terms["cf"].item() for method in (sampled, exact)]
    assert values[0] == pytest.approx(values[1], rel=0.03)


def test_a_batch_without_absence_and_one_without_presence_have_no_auxiliary_loss():
    for strategy in ("cf", "ep"):
        method = method_of(strategy, drop=0.0)
        for observed in (ALL, torch.tensor([[True, False, False, False]] * 5)):
            terms = method.objective(batch_of(observed), generator()).terms
            assert terms[strategy] == 0
            assert torch.isfinite(terms["task"])


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.8])
def test_removal_rates_by_the_binomial(probability):
    observed = torch.tensor([[True, True, False]]).repeat(20_000, 1)
    kept = drop_modalities(observed, probability, generator())
    assert not kept[:, 2].any()
    assert kept.any(1).all()
    q = probability  # each is removed, or both are and it is not the one restored
    expected = 1 - (q - 0.5 * q * q)
    for m in range(2):
        assert kept[:, m].double().mean().item() == pytest.approx(expected, abs=0.015)


def test_monitor_knows_contexts_and_neighbours():
    numbers = method_of("cf", bandwidth=1e-6).eval().monitor(batch_of(SOME))
    assert numbers["effective_sample_size"] == pytest.approx(1.0, abs=0.05)
    assert numbers["neighbours"] == pytest.approx(8.0)  # of 15 patterns
    wide = method_of("cf", bandwidth=1e6).eval().monitor(batch_of(SOME))
    assert wide["effective_sample_size"] == pytest.approx(wide["neighbours"])
    assert wide["context_diversity"] == numbers["context_diversity"] > 0
    assert method_of("zero").eval().monitor(batch_of(SOME)) == {}


def test_embeddings_fused_vectors_and_predictions_are_watched():
    assert set(method_of("zero").eval().representations(batch_of(SOME))) == {"pooled", "fused"}
    watched = method_of("cf").eval().representations(batch_of(SOME))
    assert torch.equal(watched["predicted"][1], ~SOME)
    assert watched["fused"][0].shape == (15, 1, 8)


def test_errors_say_what_was_expected():
    with pytest.raises(UnknownNameError, match=r"strategy of Fills 'median'.*zero"):
        method_of("median")
    with pytest.raises(ConfigurationError, match=r"drop of Fills is out of range.*less than 1, or 'balanced', got 1"):
        method_of("cf", drop=1)
    with pytest.raises(ConfigurationError, match="drop of Fills.*or 'balanced', got 'even'"):
        method_of("cf", drop="even")
    with pytest.raises(ConfigurationError, match="weight of Fills.*got -1"):
        method_of("cf", weight=-1)


def test_history_has_the_monitor_s_columns_and_warns_of_one_neighbour():
    cohort = ring_cohort(n_train=160, n_valid=60, n_test=10)
    settings = {"epochs": 1, "encoders": dict.fromkeys(cohort.schema.names, "linear"), "width": 8}
    train, valid = cohort.split("train"), cohort.split("valid")
    with pytest.warns(UserWarning, match="epoch 1: kernel weights have collapsed"):
        model = amodal.fit("fills", train, valid, options={"bandwidth": 1e-4, "directions": 4}, **settings)
    assert {"context_diversity", "pooled_rank", "predicted_spread", "effective_sample_size"} <= set(model.history)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        amodal.fit("fills", train, valid, options={"bandwidth": 1.0, "directions": 4}, **settings)


@pytest.mark.slow
def test_the_ring_is_learnt_but_not_beyond_the_optimum():
    """Accuracy at k is bounded by the Bayes curve and two standard errors."""
    cohort = ring_cohort(seed=1)
    test = cohort.split("test")
    model = amodal.fit(
        "fills",
        cohort.split("train"),
        cohort.split("valid"),
        options={"directions": 16, "frequencies": 8},
        encoders={key: {"name": "linear", "clip": None} for key in cohort.schema.names},
        width=32,
        epochs=12,
        learning_rate=2e-3,
        batch_size=128,
    )
    draw = np.random.default_rng(0)
    for k in (1, 3, 12):
        rows = test.with_observed(draw.random((len(test), 12)).argsort(1).argsort(1) < k)
        accuracy = (model.predict(rows).argmax(1) == test.target).mean()
        optimal = RingWorld().bayes_predictions(rows).max(1).mean()
        assert accuracy <= optimal + 2 * 0.5 / np.sqrt(len(test))
        assert accuracy > optimal - 0.15
