"""Per pattern: equal to models trained apart, one by one, and routing by hand."""

import copy

import pytest
import torch
from contracts import cases

from amodal.errors import ConfigurationError, DataError
from amodal.losses.task import logits_to_predictions, task_loss
from amodal.methods.per_pattern import PerPattern


def presence(schema, *rows):
    """Presence from strings of bits, one a row."""
    assert all(len(bits) == len(schema.names) for bits in rows)
    return torch.tensor([[bit == "1" for bit in bits] for bits in rows])


def prepared(schema, *rows, **options):
    torch.manual_seed(0)
    method = PerPattern(schema, cases.make_encoders(schema), hidden=8, dropout=0.0, **options)
    method.prepare([cases.make_batch(schema, presence(schema, *rows))])
    return method.eval()


def trained_apart(model, names, batches, kind):
    """A model by itself, on the rows that have all of its modalities; batches without any are no steps."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for batch in batches:
        has = torch.stack([batch.observed[name] for name in names], dim=1).all(1)
        if not has.any():
            continue
        rows = batch.take(has)
        optimiser.zero_grad()
        (task_loss(model(rows), rows.target, kind).sum() / len(batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimiser.step()
    return model


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_equal_to_models_trained_apart(task):
    """All together, through one optimiser with clipping by `clip_groups`, and each alone: the same numbers."""
    schema = cases.make_schema(task, "tables")
    method = prepared(schema, "111", "111")
    observed = cases.mixed_presence(schema, 2)
    batches = [cases.make_batch(schema, observed, seed=s).take(torch.randperm(14)[:7]) for s in range(6)]
    batches[2] = batches[2].take(~batches[2].observed["a"])  # nobody has a: four models are not stepped
    apart = {
        bits: trained_apart(copy.deepcopy(model), names, batches, task)
        for (bits, model), names in zip(method.models.items(), method.patterns)
    }
    before = copy.deepcopy(method.state_dict())
    optimiser = torch.optim.AdamW(method.parameters(), lr=1e-2, weight_decay=0.1)
    for batch in batches:
        optimiser.zero_grad()
        method.objective(batch, torch.Generator()).total.backward()
        for group in method.clip_groups("main"):
            torch.nn.utils.clip_grad_norm_(list(group), 0.05)
        optimiser.step()
    assert not torch.equal(before["models.111.head.layers.0.weight"], method.models["111"].head.layers[0].weight)
    for bits, model in apart.items():
        for key, value in model.state_dict().items():
            torch.testing.assert_close(method.models[bits].state_dict()[key], value, rtol=0, atol=1e-7)


def test_each_row_is_predicted_by_the_model_of_its_pattern_alone():
    schema = cases.make_schema("multiclass", "mixed")
    method = prepared(schema, *["1111"] * 3, min_rows=1)
    batch = cases.make_batch(schema, cases.mixed_presence(schema, 2), seed=1)
    predictions = method.predict(batch)
    for i, row in enumerate(batch.presence.tolist()):
        bits = "".join(str(int(bit)) for bit in row)
        names = [name for name, here in zip(schema.names, row) if here]
        assert list(method.models[bits].encoders) == names
        expected = logits_to_predictions(method.models[bits](batch.take(torch.tensor([i]))), "multiclass")[0]
        torch.testing.assert_close(predictions[i], expected, rtol=1e-4, atol=1e-6)


def test_a_model_is_trained_by_rows_with_at_least_its_modalities():
    schema = cases.make_schema("multiclass", "tables")
    method = prepared(schema, "111")
    for pattern in ("100", "110", "101", "111"):
        batch = cases.make_batch(schema, presence(schema, pattern, pattern))
        method.zero_grad()
        method.objective(batch, torch.Generator()).total.backward()
        reached = {bits for bits, m in method.models.items() if any(p.grad is not None for p in m.parameters())}
        expected = {bits for bits in method.models if all(b == "1" for a, b in zip(bits, pattern) if a == "1")}
        assert reached == expected


def test_the_objective_is_a_sum_over_patterns_of_means_over_all_rows():
    schema = cases.make_schema("multiclass", "tables")
    method = prepared(schema, "111")
    batch = cases.make_batch(schema, presence(schema, "100", "110", "011", "010"), seed=3)
    terms = method.objective(batch, torch.Generator())
    assert list(terms.terms) == ["a", "b", "c", "a+b", "a+c", "b+c", "a+b+c"]
    rows = {"a": [0, 1], "b": [1, 2, 3], "c": [2], "a+b": [1], "a+c": [], "b+c": [2], "a+b+c": []}
    for label, chosen in rows.items():
        bits = "".join(str(int(name in label.split("+"))) for name in schema.names)
        expected = 0.0
        for i in chosen:
            row = batch.take(torch.tensor([i]))
            expected += task_loss(method.models[bits](row), row.target, "multiclass").item() / 4
        assert terms.terms[label].item() == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_each_model_is_judged_by_the_rows_that_have_its_pattern():
    schema = cases.make_schema("multiclass", "tables")
    method = prepared(schema, "111")
    batch = cases.make_batch(schema, presence(schema, "100", "110", "010"), seed=3)
    losses = method.part_losses(batch)
    sizes = {prefix: len(values) for prefix, values in losses.items()}
    assert sizes == {"models.100.": 2, "models.010.": 2, "models.110.": 1}
    terms = method.objective(batch, torch.Generator()).terms
    for label, bits in (("a", "100"), ("b", "010"), ("a+b", "110")):
        assert losses[f"models.{bits}."].sum().item() / 3 == pytest.approx(terms[label].item(), rel=1e-5)


def test_no_parameter_is_shared():
    schema = cases.make_schema()
    encoders = cases.make_encoders(schema)
    method = PerPattern(schema, encoders)
    owners = [id(p) for model in method.models.values() for p in model.parameters()]
    assert len(owners) == len(set(owners)) == len(list(method.parameters()))
    assert not {id(p) for p in encoders.parameters()} & set(owners)
    assert len(list(method.clip_groups("main"))) == len(method.models) == 15


# Routing -------------------------------------------------------------------------------------------------------------


def test_up_to_four_modalities_every_pattern_has_a_model_smaller_ones_first():
    schema = cases.make_schema("binary", "mixed")
    method = PerPattern(schema, cases.make_encoders(schema))
    assert len(method.patterns) == 15
    assert method.patterns[0] == ("table",)
    assert method.patterns[4:6] == (("table", "vital-signs"), ("table", "image"))
    assert method.patterns[-1] == schema.names


def test_a_pattern_with_too_few_rows_goes_to_the_largest_trained_one_within_it():
    schema = cases.make_schema("binary", "tables")
    rows = ["110"] * 4 + ["011"] * 3 + ["001"] * 2 + ["111"]
    method = prepared(schema, *rows, min_rows=4)
    trained = {bits: bool(model.get_buffer("trained")) for bits, model in method.models.items()}
    # rows with at least these: a 5, b 8, c 6, ab 5, ac 1, bc 4, abc 1
    expected = {"100": True, "010": True, "001": True, "110": True, "101": False, "011": True, "111": False}
    assert trained == expected
    assert method.route("110") == "110"
    assert method.route("101") == "100"  # a and c are as large: the first in the schema's order
    assert method.route("111") == "110"  # a+b before b+c
    assert method.route("001") == "001"
    with pytest.raises(DataError, match="nothing observed"):
        method.route("000")


def test_without_enough_rows_anywhere_every_pattern_keeps_its_own_model():
    schema = cases.make_schema("binary", "tables")
    method = prepared(schema, "111", "111")
    assert all(method.route(bits) == bits for bits in method.models)


def test_many_modalities_have_models_of_the_patterns_that_training_shows():
    schema = cases.make_schema("binary", "many")
    rows = ["11100"] * 3 + ["00011"] * 2 + ["11111"] * 2 + ["10000"]
    method = prepared(schema, *rows, min_rows=2)
    singles = ["10000", "01000", "00100", "00010", "00001"]
    assert list(method.models) == [*singles, "00011", "11100", "11111"]
    assert method.route("11110") == "11100"
    assert method.route("01011") == "00011"
    assert method.route("01100") == "01000"
    batch = cases.make_batch(schema, presence(schema, "01011", "11111", "11110"))
    expected = [
        method.models[bits](batch.take(torch.tensor([i]))) for i, bits in enumerate(["00011", "11111", "11100"])
    ]
    torch.testing.assert_close(method.predict(batch), torch.cat(expected).softmax(1), rtol=1e-4, atol=1e-6)


def test_counts_are_summed_over_batches_before_patterns_are_chosen():
    schema = cases.make_schema("binary", "many")
    method = PerPattern(schema, cases.make_encoders(schema), min_rows=3)
    method.prepare(cases.make_batch(schema, presence(schema, "01010", "11111")) for _ in range(3))
    assert list(method.models)[-2:] == ["01010", "11111"]


# Saving --------------------------------------------------------------------------------------------------------------


def test_loading_makes_the_models_that_are_stored_and_no_others():
    schema = cases.make_schema("binary", "many")
    stored = prepared(schema, *["11000"] * 3, min_rows=2)
    other = prepared(schema, *["00111"] * 3, min_rows=2)
    other.load_state_dict(stored.state_dict())
    assert list(other.models) == list(stored.models)
    batch = cases.make_batch(schema, cases.mixed_presence(schema))
    assert torch.equal(other.predict(batch), stored.predict(batch))


@pytest.mark.parametrize("bits", ["00000", "110", "11002", "1100_"])
def test_names_that_are_no_patterns_are_refused(bits):
    schema = cases.make_schema("binary", "many")
    method = prepared(schema, "11111")
    state = {**method.state_dict(), f"models.{bits}.trained": torch.tensor(True)}
    with pytest.raises(RuntimeError, match="Unexpected key"):
        method.load_state_dict(state)


def test_min_rows_below_one_is_an_error():
    with pytest.raises(ConfigurationError, match="min_rows of PerPattern is out of range.*1 or more, got 0"):
        PerPattern(cases.make_schema(), min_rows=0)
