"""What every method promises, over the whole registry. A contract never replaces one value from outside."""

import copy
import dataclasses
import importlib
import inspect
import itertools
import json
import math
import pkgutil
import re

import pytest
import torch
from contracts import cases
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

import amodal.methods
from amodal.citation import bibliography
from amodal.encoders import PerModality
from amodal.encoders.encoder import Encoder, Tokens
from amodal.errors import AmodalError
from amodal.method import Clock, EstimatedMethod, LatentMethod, LossTerms, Method
from amodal.methods import METHODS, method_options
from amodal.settings import TrainingSettings
from amodal.training.optimisers import Optimisers
from amodal.training.step import training_step

every_method = pytest.mark.parametrize("name", cases.NAMES)
every_gradient_method = pytest.mark.parametrize("name", cases.BY_GRADIENTS)
every_task = pytest.mark.parametrize("task", list(cases.TASKS))
HIDDEN = (1e30, -1e30, math.nan, math.inf)


def assert_same_gradients(ours, theirs):
    for key, gradient in ours.items():
        assert (gradient is None) == (theirs[key] is None), key
        assert gradient is None or torch.equal(gradient, theirs[key]), key


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


# Absence -------------------------------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("blank", [True, False], ids=["blanked", "behind the batch's back"])
def test_absent_content_cannot_matter(name, blank):
    """Bitwise equal loss, gradients and predictions, even if blanking had not removed what is hidden."""
    schema = cases.make_schema()
    observed = cases.mixed_presence(schema)
    method = cases.make_method(name).train()
    state = copy.deepcopy(method.state_dict())
    results = []
    for hidden in (0.0, *HIDDEN):
        batch = cases.make_batch(schema, observed, hidden=hidden, blank=blank)
        method.load_state_dict(state)
        gradients = None
        if not isinstance(method, EstimatedMethod):
            gradients = cases.gradients_of(method, batch, seed=3)
        after = copy.deepcopy(method.state_dict())
        method.eval()
        results.append((gradients, after, method.predict(batch)))
        method.train()
    for gradients, after, predictions in results[1:]:
        assert torch.equal(predictions, results[0][2])
        assert all(torch.equal(after[key], value) for key, value in results[0][1].items())
        if gradients is not None:
            assert torch.equal(gradients[0], results[0][0][0])
            assert_same_gradients(gradients[1], results[0][0][1])


@pytest.mark.parametrize("name", cases.BY_ESTIMATE)
def test_absent_content_cannot_matter_to_an_estimate(name):
    schema = cases.make_schema()
    observed = cases.mixed_presence(schema, 4)
    fitted = []
    for hidden in (0.0, *HIDDEN):
        method = cases.new_method(name, schema)
        cases.make_ready(method, [cases.make_batch(schema, observed, hidden=hidden, blank=False)])
        fitted.append(method.state_dict())
    for state in fitted[1:]:
        assert all(torch.equal(state[key], value) for key, value in fitted[0].items())


class Witness(Encoder):
    """Remembers how many of the rows it was given are placeholders; its BatchNorm would not forget them."""

    kinds = ("tabular",)
    placeholders = 0  # over all copies

    def __init__(self, modality):
        super().__init__(modality, width=4)
        self.linear = nn.Linear(modality.n_features, 4)
        self.norm = nn.BatchNorm1d(4)

    @property
    def n_tokens(self):
        return 1

    def embed(self, values, measured=None, lengths=None):
        Witness.placeholders += int((values == 0).all(1).sum())
        return Tokens(self.linear(values)[:, None], torch.ones(len(values), 1, dtype=torch.bool))

    def trunk(self, tokens, valid):
        if self.training and len(tokens) < 2:  # BatchNorm has no statistics of one row
            return tokens
        return self.norm(tokens[:, 0])[:, None]


@every_gradient_method
def test_encoders_see_present_rows_only(name):
    schema = cases.make_schema(modalities="tables")
    encoders = PerModality({m.name: Witness(m) for m in schema.modalities})
    method = cases.new_method(name, schema, encoders=encoders)
    batch = cases.make_batch(schema, cases.mixed_presence(schema, 3))
    full = {key: torch.ones_like(value) for key, value in batch.measured.items()}
    batch = type(batch)({k: v + 5 for k, v in batch.values.items()}, batch.observed, full, {}, batch.target)
    cases.make_ready(method, [batch])
    Witness.placeholders = 0
    cases.gradients_of(method.train(), batch)
    method.eval().predict(batch)
    assert Witness.placeholders == 0


@every_gradient_method
def test_a_modality_absent_from_a_whole_batch_leaves_its_encoder_alone(name):
    """Neither buffers nor gradients: the running statistics of a BatchNorm stay those of present rows."""
    schema = cases.make_schema(modalities="tables")
    for m, absent in enumerate(schema.names):
        encoders = PerModality({modality.name: Witness(modality) for modality in schema.modalities})
        method = cases.new_method(name, schema, encoders=encoders).train()
        presence = cases.patterns(3)[~cases.patterns(3)[:, m]]
        before = {key: value.clone() for key, value in method.named_buffers()}
        _, gradients = cases.gradients_of(method, cases.make_batch(schema, presence.repeat(3, 1)))
        own = f".modality_{absent}."
        assert all(torch.equal(v, before[k]) for k, v in method.named_buffers() if own in k and "norm" in k)
        touched = [k for k, g in gradients.items() if own in k and "encoders" in k and g is not None and g.any()]
        assert not touched


# Patterns ------------------------------------------------------------------------------------------------------------


def assert_finite(method, batch):
    if not isinstance(method, EstimatedMethod):
        method.train()
        loss, gradients = cases.gradients_of(method, batch)
        assert torch.isfinite(loss)
        assert all(g is None or torch.isfinite(g).all() for g in gradients.values())
    assert_predictions(method.eval(), batch)


def assert_predictions(method, batch):
    with torch.no_grad():
        predictions = method.predict(cases.without_target(batch))
    task = method.schema.task
    shape = (len(batch),) if task.kind == "regression" else (len(batch), task.n_outputs)
    assert predictions.shape == shape
    assert predictions.is_floating_point()
    assert torch.isfinite(predictions).all()
    if task.kind != "regression":
        assert ((predictions >= 0) & (predictions <= 1)).all()
    if task.is_classification:
        close(predictions.sum(1), torch.ones(len(batch)))


@every_method
@every_task
def test_all_patterns_mixed_on_every_task(name, task):
    method = cases.make_method(name, task)
    assert_finite(method, cases.make_batch(method.schema, cases.mixed_presence(method.schema, 2), seed=9))


@every_method
def test_each_pattern_alone_in_a_batch_of_one_and_of_three(name):
    method = cases.make_method(name)
    for pattern, size in itertools.product(cases.patterns(4), (1, 3)):
        assert_finite(method, cases.make_batch(method.schema, pattern.repeat(size, 1), seed=4))


@every_method
def test_a_modality_absent_from_a_whole_batch(name):
    method = cases.make_method(name, "binary")
    for m in range(4):
        presence = cases.patterns(4)
        assert_finite(method, cases.make_batch(method.schema, presence[~presence[:, m]], seed=5))


@every_method
def test_many_modalities(name):
    method = cases.make_method(name, "binary", "many")
    assert_finite(method, cases.make_batch(method.schema, cases.mixed_presence(method.schema), seed=6))


@every_method
def test_one_modality(name):
    schema = cases.Schema(cases.MODALITIES["tables"][:1], cases.TASKS["binary"])
    method = cases.new_method(name, schema)
    batch = cases.make_batch(schema, torch.ones(16, 1, dtype=torch.bool))
    cases.make_ready(method, [batch])
    assert_finite(method, batch)


@every_method
def test_series_that_are_longer_than_those_of_training(name):
    method = cases.make_method(name)
    longer = [
        dataclasses.replace(one, shape=(one.shape[0] + 5, *one.shape[1:])) if one.kind == "series" else one
        for one in method.schema.modalities
    ]
    assert longer != list(method.schema.modalities)
    schema = cases.Schema(tuple(longer), method.schema.task)
    assert torch.isfinite(method.predict(cases.make_batch(schema, cases.mixed_presence(schema)))).all()


# Rows ----------------------------------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("modalities", ["mixed", "many"])
def test_rows_do_not_influence_one_anothers_prediction(name, modalities):
    method = cases.make_method(name, modalities=modalities)
    observed = cases.mixed_presence(method.schema)
    batch = cases.make_batch(method.schema, observed, seed=1)
    whole = method.predict(batch)
    alone = torch.cat([method.predict(batch.take(torch.tensor([i]))) for i in range(len(batch))])
    close(whole, alone)
    others = cases.make_batch(method.schema, observed.flip(0), seed=2)  # other neighbours, with other patterns
    for i in range(len(batch)):
        rows = torch.arange(len(batch))
        mixed = type(batch)(
            *({k: torch.cat([v[i : i + 1], w[rows != i]]) for k, (v, w) in _paired(batch, others, part)}
              for part in ("values", "observed", "measured", "lengths"))
        )  # fmt: skip
        close(method.predict(mixed)[0], whole[i])


def _paired(one, two, part):
    first, second = getattr(one, part), getattr(two, part)
    return [(key, (first[key], second[key])) for key in first]


@every_method
def test_predictions_do_not_depend_on_how_rows_are_cut_into_batches(name):
    """As `predict` (1,024 rows), `serve` (one row) and `impact` (as many as fit) cut them."""
    method = cases.make_method(name)
    batch = cases.make_batch(method.schema, cases.mixed_presence(method.schema, 2), seed=3)
    whole = method.predict(batch)
    for size in (1, 7):
        parts = torch.arange(len(batch)).split(size)
        close(torch.cat([method.predict(batch.take(rows)) for rows in parts]), whole)


def _presets():
    """Every method with each of its presets, and with options that switch its own removal off."""
    made = [(name, {}) for name in METHODS if name not in cases.BY_ESTIMATE]
    made += [
        (name, {"preset": preset}) for name, method in METHODS.items() for preset in getattr(method, "PRESETS", {})
    ]
    return [*made, ("cm2", {"removal": False}), ("fills", {"drop": 0.0}), ("cepa", {"patterns": 1})]


@pytest.mark.parametrize(("name", "options"), _presets())
def test_a_method_that_says_it_meets_all_patterns_meets_them_from_complete_rows(name, options):
    """On complete rows its task term must leave out every modality now and then; else `amodal.fit` has to remove."""
    schema = cases.make_schema("binary", "tables")
    resolved = method_options(name, {k: v for k, v in cases.options_of(name).items() if not options} | options)
    method = METHODS[name](schema, cases.make_encoders(schema), **resolved).train()
    batch = cases.make_batch(schema, torch.ones(64, 3, dtype=torch.bool), seed=1)
    method.prepare([batch])
    method.clock = Clock(step=99, epoch=9, steps=100, epochs=10)  # past a warm-up, which may remove nothing
    if not method.meets_all_patterns or name in cases.BY_STRUCTURE:
        return  # `amodal.fit` removes, or there is a model for every modality or pattern
    generator = torch.Generator().manual_seed(0)
    values = {k: v.clone().requires_grad_() for k, v in batch.values.items()}
    spied = dataclasses.replace(batch, ids=None)
    object.__setattr__(spied, "values", values)
    absent = torch.zeros(64, 3, dtype=torch.bool)  # whether a row's loss once did not depend on a modality
    for _ in range(4):
        terms = cases.objectives_of(method, spied, generator)
        total = torch.stack([part.terms.get("task", part.total) for part in terms.values()]).sum()
        slopes = torch.autograd.grad(total, list(values.values()), allow_unused=True)
        reached = [torch.zeros(64, dtype=torch.bool) if s is None else s.flatten(1).any(1) for s in slopes]
        absent |= ~torch.stack(reached, dim=1)
    assert absent.any(0).all()


@every_method
def test_permuting_rows_permutes_predictions(name):
    method = cases.make_method(name)
    batch = cases.make_batch(method.schema, cases.mixed_presence(method.schema, 2), seed=1)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))
    close(method.predict(batch.take(order)), method.predict(batch)[order])


def objective_over_draws(method, batch, *, copies, seeds):
    """Mean over draws of an objective (copies of the rows in one batch, and several seeds), and its standard error."""
    rows = torch.arange(len(batch)).repeat_interleave(copies)
    state, losses = copy.deepcopy(method.state_dict()), []
    for seed in range(seeds):
        losses.append(cases.loss_of(method, batch.take(rows), seed=seed).detach().double())
        method.load_state_dict(state)  # training may have changed running statistics
    losses = torch.stack(losses)
    return losses.mean(), losses.std(correction=0) / math.sqrt(max(seeds - 1, 1))


@every_gradient_method
@every_task
def test_the_objective_of_a_batch_is_the_mean_over_its_rows(name, task):
    """In training mode, where something might be computed over the batch; there is no dropout.

    A method that couples rows says so; others must not.
    """
    if cases.method_of(name).couples_rows:
        pytest.skip("declares that it couples rows")
    method = cases.make_method(name, task, "tables").train()
    batch = cases.make_batch(method.schema, cases.mixed_presence(method.schema), seed=7)
    batch = batch.take(batch.labelled)  # a task's loss is a mean over the rows that have a label
    rows = [batch.take(torch.tensor([i])) for i in range(len(batch))]
    draws = {"copies": 1, "seeds": 1}
    few = [objective_over_draws(method, batch, **draws)[0], objective_over_draws(method, batch, copies=1, seeds=2)[0]]
    if not torch.equal(*few):
        draws = {"copies": 48, "seeds": 8}
    whole, error = objective_over_draws(method, batch, **draws)
    parts = [objective_over_draws(method, row, **draws) for row in rows]
    mean = torch.stack([part[0] for part in parts]).mean()
    tolerance = 1e-5
    if draws["seeds"] > 1:
        tolerance += 5 * float(torch.stack([part[1] for part in parts]).norm() / len(rows) + error)
    assert float((whole - mean).abs()) <= tolerance


@every_gradient_method
@every_task
def test_a_method_that_uses_rows_without_a_label_learns_from_them(name, task):
    """The task's loss is the mean over labelled rows; rows without a label move something, and nothing breaks."""
    method = cases.make_method(name, task, "tables").train()
    if not method.uses_unlabelled:
        pytest.skip("learns from labelled rows only; training leaves the others out")
    method.clock = Clock(step=5, steps=10)
    whole = cases.make_batch(method.schema, cases.mixed_presence(method.schema), seed=7)
    some = dataclasses.replace(whole, labelled=torch.arange(len(whole)) % 3 == 0)
    none = dataclasses.replace(whole, labelled=torch.zeros(len(whole), dtype=torch.bool))
    with torch.random.fork_rng():
        for batch in (some, none, some.take(~some.labelled), whole):
            loss, gradients = cases.gradients_of(method, batch, seed=3)
            assert math.isfinite(loss)
            assert all(bool(torch.isfinite(g).all()) for g in gradients.values() if g is not None)
            assert any(bool(g.any()) for g in gradients.values() if g is not None)
    for terms in cases.objectives_of(method, none, torch.Generator().manual_seed(3)).values():
        assert terms.terms.get("task", 0.0) == 0.0


# Learning ------------------------------------------------------------------------------------------------------------


@every_gradient_method
@pytest.mark.parametrize("modalities", ["mixed", "many"])
def test_gradients_reach_every_parameter(name, modalities):
    """Even those that only matter to incomplete rows, and, if the method says so, from complete rows alone.

    At the start, or after two steps: what starts as the identity hides what is before it from the first one.
    """
    method = cases.make_method(name, "binary", modalities).train()
    observed, reached = cases.mixed_presence(method.schema, 2), set()
    if method.meets_all_patterns:
        observed = torch.ones_like(observed)
    n = cases.STEPS_TO_REACH.get(cases.CASES[name][0], 3)
    batches = [cases.make_batch(method.schema, observed, seed=seed) for seed in range(n)]
    learnable = {key for key, parameter in method.named_parameters() if parameter.requires_grad}
    for steps in (0, 2):
        if steps:
            cases.train(method, batches[0], steps=steps).train()
        for seed, batch in enumerate(batches):
            method.clock = Clock(step=seed, steps=100)
            gradients = cases.gradients_of(method, batch, seed=seed)[1]
            reached |= {key for key, gradient in gradients.items() if gradient is not None and gradient.any()}
        if not learnable - reached:
            break
    assert learnable - reached == set()


@every_gradient_method
def test_hooks_name_parameters_once(name):
    method = cases.make_method(name)
    learnable = {id(p) for p in method.parameters() if p.requires_grad}
    stepped = [id(p) for optimiser in method.optimisers for p in method.parameters_of(optimiser)]
    assert set(stepped) == learnable
    for optimiser in method.optimisers:
        own = [id(p) for p in method.parameters_of(optimiser)]
        clipped = [id(p) for group in method.clip_groups(optimiser) for p in group]
        assert sorted(clipped) == sorted(own)
        assert len(set(own)) == len(own)
    assert all(method.learning_rate_scale(key) >= 0 for key, _ in method.named_parameters())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "," in name else []) for name in cases.NAMES]
)
def test_overfits_32_rows_of_all_patterns(name):
    """Every pattern identifies its row, so that the rows can be learnt by heart."""
    schema = cases.make_schema("binary", "tables")
    observed = cases.mixed_presence(schema, 5)[:32]
    if name in cases.READS:
        observed[:, cases.READS[name]] = True
    batch = cases.make_batch(schema, observed, seed=11)
    measured = {key: torch.ones_like(value) for key, value in batch.measured.items()}
    draw = torch.Generator().manual_seed(5)
    values = {m.name: torch.randn(32, *m.shape, generator=draw) for m in schema.modalities}
    batch = type(batch)(values, batch.observed, measured, {}, batch.target)
    method = cases.train(cases.new_method(name, schema), batch, steps=cases.steps_of(name), learning_rate=0.01)
    with torch.no_grad():
        probability = method.predict(batch).gather(1, batch.target[:, None])
    assert probability.min() > 0.5
    assert -probability.log().mean() < 0.1


# Randomness ----------------------------------------------------------------------------------------------------------


@every_gradient_method
def test_the_generator_is_the_only_source_of_randomness_but_dropout(name):
    method = cases.make_method(name).train()
    batch = cases.make_batch(method.schema, cases.mixed_presence(method.schema, 2))
    state = copy.deepcopy(method.state_dict())
    first = cases.loss_of(method, batch, seed=5, global_seed=1)
    method.load_state_dict(state)
    assert torch.equal(cases.loss_of(method, batch, seed=5, global_seed=2), first)


@every_gradient_method
def test_dropout_follows_the_global_generator(name):
    method = cases.make_method(name, dropout=0.3).train()
    batch = cases.make_batch(method.schema, cases.mixed_presence(method.schema))
    state = copy.deepcopy(method.state_dict())
    losses = []
    for seed in (1, 1, 2):
        method.load_state_dict(state)
        losses.append(cases.loss_of(method, batch, global_seed=seed))
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


@every_method
def test_predictions_are_deterministic_and_leave_no_trace(name):
    """No dropout, no global randomness, no change of weights or statistics, whatever torch's generator does."""
    method = cases.make_method(name, dropout=0.5)
    batch = cases.make_batch(method.schema, cases.mixed_presence(method.schema))
    before = copy.deepcopy(method.state_dict())
    predictions = []
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            predictions.append(method.predict(batch))
            untouched = torch.rand(1)
            torch.manual_seed(seed)
            assert torch.equal(torch.rand(1), untouched), "a prediction draws from torch's global generator"
    assert torch.equal(*predictions)
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


@every_gradient_method
def test_what_a_method_stores_while_it_trains_has_no_gradient(name):
    """Averages, banks and collected features are numbers: a graph in them would grow from step to step."""
    method = cases.new_method(name, cases.make_schema()).train()
    batch = cases.make_batch(method.schema, cases.mixed_presence(method.schema))
    cases.make_ready(method, [batch], remember=False)
    method.train()
    optimisers = Optimisers(method, TrainingSettings(epochs=5))
    for step in range(2):
        method.clock = Clock(step=step, steps=10, epochs=5)
        if step == 0:
            method.begin_epoch()
        training_step(method, optimisers, batch, torch.Generator().manual_seed(step), clip=1.0)
        stored = {key: value for key, value in method.named_buffers() if value.requires_grad}
        assert not stored, f"{sorted(stored)} after step {step}"


@every_method
def test_an_objective_and_a_prediction_leave_the_batch_alone(name):
    method = cases.make_method(name)
    batch = cases.make_batch(method.schema, cases.mixed_presence(method.schema))
    before = copy.deepcopy(batch)
    if not isinstance(method, EstimatedMethod):
        cases.gradients_of(method.train(), batch)
    method.eval().predict(batch)
    for part in ("values", "observed", "measured", "lengths"):
        for key, value in getattr(before, part).items():
            assert torch.equal(getattr(batch, part)[key], value)
    assert torch.equal(batch.target, before.target)


# Saving --------------------------------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize(("task", "modalities"), [("multiclass", "mixed"), ("regression", "many")])
def test_saved_and_loaded_predictions_are_equal(name, task, modalities):
    """Through safetensors, into a method of other initial weights on which no hook was called."""
    method = cases.make_method(name, task, modalities)
    batch = cases.make_batch(method.schema, cases.mixed_presence(method.schema), seed=8)
    if not isinstance(method, EstimatedMethod):
        cases.train(method, batch, steps=2)
    stored = save_tensors({key: value.contiguous().clone() for key, value in method.state_dict().items()})
    again = cases.new_method(name, method.schema, seed=99)
    again.load_state_dict(load_tensors(stored))
    assert torch.equal(again.eval().predict(batch), method.predict(batch))


@every_method
def test_a_state_with_a_part_missing_is_refused(name):
    method = cases.make_method(name)
    state = dict(method.state_dict())
    for key in (next(iter(state)), list(state)[-1]):
        with pytest.raises(RuntimeError, match="Missing key"):
            cases.new_method(name, method.schema).load_state_dict({k: v for k, v in state.items() if k != key})


@pytest.mark.parametrize("name", METHODS)
def test_options_are_plain_json(name):
    defaults = {k: p.default for k, p in _parameters(METHODS[name]).items() if k not in ("schema", "encoders")}
    assert method_options(name, json.loads(json.dumps(defaults))) == method_options(name)


@every_method
def test_the_order_of_given_encoders_cannot_matter(name):
    schema = cases.make_schema()
    encoders = cases.make_encoders(schema)
    backwards = PerModality(dict(reversed(list(encoders.items()))))
    batch = cases.make_batch(schema, cases.mixed_presence(schema))
    made = [cases.new_method(name, schema, encoders=given) for given in (encoders, backwards)]
    for method in made:
        cases.make_ready(method, [batch])
    assert torch.equal(made[0].eval().predict(batch), made[1].eval().predict(batch))


# Terms and hooks -----------------------------------------------------------------------------------------------------


@every_gradient_method
def test_terms_are_scalars_with_weights_apart(name):
    method = cases.make_method(name).train()
    batch = cases.make_batch(method.schema, cases.mixed_presence(method.schema))
    objectives = cases.objectives_of(method, batch, torch.Generator().manual_seed(0))
    assert set(objectives) == set(method.optimisers)
    for terms in objectives.values():
        assert isinstance(terms, LossTerms)
        assert all(term.shape == () for term in terms.terms.values())
        by_hand = sum(terms.weights.get(key, 1.0) * term.double() for key, term in terms.terms.items())
        close(terms.total.double(), by_hand)
        assert terms.total.requires_grad


@every_method
def test_sub_models_with_best_weights_of_their_own_share_nothing(name):
    """Each loss of `part_losses` depends on the state under its prefix, and on nothing else.

    What joins the parts is no parameter: it is chosen after training, by `adjust`.
    """
    method = cases.make_method(name)
    batch = cases.make_batch(method.schema, cases.mixed_presence(method.schema, 2))
    losses, state = method.part_losses(batch), method.state_dict()
    if not losses:
        return
    learnt = {key for key, _ in method.named_parameters()}
    assert all(sum(key.startswith(prefix) for prefix in losses) in ({1} if key in learnt else {0, 1}) for key in state)
    prefix = list(losses)[len(losses) // 2]
    moved = {k: v + 0.1 if v.is_floating_point() and k.startswith(prefix) else v for k, v in state.items()}
    method.load_state_dict(moved)
    for key, values in method.part_losses(batch).items():
        assert torch.isfinite(values).all()
        assert torch.equal(values, losses[key]) == (key != prefix)


@every_method
def test_monitor_gives_numbers(name):
    method = cases.make_method(name)
    batch = cases.make_batch(method.schema, cases.mixed_presence(method.schema))
    values = method.monitor(batch)
    assert all(isinstance(key, str) and isinstance(value, float) for key, value in values.items())


@every_gradient_method
def test_representations_are_watched_for_collapse(name):
    """Vectors of each modality and which of them count; what is absent is not among the pooled ones."""
    method = cases.make_method(name)
    batch = cases.make_batch(method.schema, cases.mixed_presence(method.schema))
    watched = method.representations(batch)
    parts = dict(method.named_children())
    assert ("encoders" in parts) <= ("pooled" in watched)
    for vectors, counted in watched.values():
        assert vectors.shape[:2] == counted.shape
        assert vectors.ndim == 3
        assert counted.dtype == torch.bool
        assert torch.isfinite(vectors[counted]).all()
    if "pooled" in watched and cases.CASES[name][0] not in cases.READS:
        assert torch.equal(watched["pooled"][1], batch.presence)


@pytest.mark.parametrize("name", cases.BY_ESTIMATE)
def test_an_estimated_method_says_that_it_has_no_objective(name):
    method = cases.make_method(name)
    batch = cases.make_batch(method.schema, cases.mixed_presence(method.schema))
    with pytest.raises(AmodalError, match="not trained by gradients"):
        method.objective(batch, torch.Generator())


@pytest.mark.parametrize("name", cases.BY_ESTIMATE)
def test_an_estimate_follows_its_generator(name):
    schema = cases.make_schema("binary", "tables")
    batches = [cases.make_batch(schema, cases.mixed_presence(schema, 4), seed=1)]
    batch = cases.make_batch(schema, cases.mixed_presence(schema), seed=2)
    predictions = []
    for global_seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(global_seed)
            method = cases.new_method(name, schema)
            method.estimate(batches, [batch], torch.Generator().manual_seed(0))
            predictions.append(method.predict(batch))
    assert torch.equal(*predictions)


# Sampling methods ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cases.SAMPLING)
@every_task
def test_draws(name, task):
    method = cases.make_method(name, task)
    batch = cases.make_batch(method.schema, cases.mixed_presence(method.schema), seed=1)
    draws = method.draw(batch, 5, torch.Generator().manual_seed(0))
    tail = () if task == "regression" else (method.schema.task.n_outputs,)
    assert draws.shape == (5, len(batch), *tail)
    assert torch.isfinite(draws).all()
    assert torch.equal(method.draw(batch, 5, torch.Generator().manual_seed(0)), draws)
    if isinstance(method, LatentMethod):
        latents = method.draw_latents(batch, 5, torch.Generator().manual_seed(0))
        assert latents.shape[:2] == (5, len(batch))
        assert latents.ndim == 4
        assert torch.isfinite(latents).all()
    assert not torch.equal(method.draw(batch, 5, torch.Generator().manual_seed(1)), draws)
    varied = (draws - draws[:1]).flatten(2).abs().amax((0, 2)) if tail else (draws - draws[:1]).abs().amax(0)
    incomplete = ~batch.presence.all(1)
    assert (varied[incomplete] > 0).any()
    fixed = method.draw(batch, 5, torch.Generator().manual_seed(0), vary=[])
    close(fixed, fixed[:1].expand_as(fixed))


@pytest.mark.parametrize("name", cases.SAMPLING)
def test_draws_of_a_row_do_not_depend_on_its_neighbours(name):
    method = cases.make_method(name)
    batch = cases.make_batch(method.schema, cases.mixed_presence(method.schema), seed=1)
    whole = method.draw(batch, 4, torch.Generator().manual_seed(0))
    for i in range(len(batch)):
        close(method.draw(batch.take(torch.tensor([i])), 4, torch.Generator().manual_seed(0))[:, 0], whole[:, i])


@pytest.mark.parametrize("name", cases.SAMPLING)
def test_no_draws_is_an_error(name):
    method = cases.make_method(name)
    batch = cases.make_batch(method.schema, cases.mixed_presence(method.schema))
    with pytest.raises(AmodalError, match=r"number of draws.*1 or more, got 0"):
        method.draw(batch, 0, torch.Generator())


@pytest.mark.parametrize("name", cases.SAMPLING)
def test_a_prediction_is_also_made_with_fewer_draws(name):
    method = cases.make_method(name)
    batch = cases.make_batch(method.schema, cases.mixed_presence(method.schema))
    few = method.predict_by(batch, seed=0, draws=2)
    assert few.shape == method.predict(batch).shape
    assert torch.isfinite(few).all()
    assert torch.equal(few, method.predict_by(batch, seed=1, draws=2)) == (not method.averages_draws)


# Papers --------------------------------------------------------------------------------------------------------------


def _parameters(method):
    return {k: p for k, p in inspect.signature(method.__init__).parameters.items() if k != "self"}


@pytest.mark.parametrize("name", METHODS)
def test_documented_arguments_are_the_signature(name):
    parameters = _parameters(METHODS[name])
    assert list(parameters)[:2] == ["schema", "encoders"]
    assert parameters["encoders"].default is None
    rest = [p for key, p in parameters.items() if key not in ("schema", "encoders")]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in rest)
    text = inspect.getdoc(METHODS[name])
    section = re.search(r"^Args:\n((?:    .*\n|\n)+)", text + "\n", re.MULTILINE)
    assert section, "no Args in the docstring"
    assert re.findall(r"^    (\w+): ", section[1], re.MULTILINE) == list(parameters)


@pytest.mark.parametrize("name", METHODS)
def test_sources_are_in_the_bibliography(name):
    method, known = METHODS[name], bibliography()
    assert method.summary
    assert 0 < len(method.title) <= 24
    assert [other.title for other in METHODS.values()].count(method.title) == 1
    assert not method.summary.endswith(".")
    assert method.references
    cited = re.findall(r":cite:`([^`]+)`", inspect.getdoc(method))
    assert set(cited) == set(method.references), "the docstring cites other papers than `references`"
    assert set(method.references) <= set(known)


def test_every_file_is_registered_under_its_name():
    files = {module.name for module in pkgutil.iter_modules(amodal.methods.__path__)}
    assert files == set(METHODS)
    for name, method in METHODS.items():
        module = importlib.import_module(f"amodal.methods.{name}")
        defined = [
            value
            for value in vars(module).values()
            if inspect.isclass(value) and issubclass(value, Method) and value.__module__ == module.__name__
        ]
        assert defined == [method]
        assert not inspect.isabstract(method)
