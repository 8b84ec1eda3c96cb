"""Modality dropout: joint fusion on what the removal leaves."""

import pytest
import torch
from contracts import cases

from amodal.errors import ConfigurationError
from amodal.methods.fusion import JointFusion
from amodal.methods.modality_dropout import ModalityDropout
from amodal.patterns import draw_removal


@pytest.fixture
def pair():
    schema = cases.make_schema("multiclass", "tables")
    dropped = cases.new_method("modality_dropout", schema)
    dropped.patterns = 1
    fused = JointFusion(schema, cases.make_encoders(schema), hidden=8, dropout=0.0)
    fused.load_state_dict({key: value for key, value in dropped.state_dict().items() if key != "average"})
    return schema, dropped.eval(), fused.eval()


def test_the_objective_is_joint_fusions_on_what_stays(pair):
    schema, dropped, fused = pair
    batch = cases.make_batch(schema, cases.mixed_presence(schema, 4))
    kept = draw_removal(batch.presence, torch.Generator().manual_seed(7))
    assert (kept.sum(1) < batch.presence.sum(1)).any()
    restricted = batch.restrict(dict(zip(schema.names, kept.unbind(1))))
    ours = dropped.objective(batch, torch.Generator().manual_seed(7)).total
    assert torch.equal(ours, fused.objective(restricted, torch.Generator()).total)
    assert not torch.equal(ours, dropped.objective(batch, torch.Generator().manual_seed(8)).total)


def test_several_patterns_are_the_mean_of_several_objectives(pair):
    schema, dropped, _ = pair
    batch = cases.make_batch(schema, cases.mixed_presence(schema, 4))
    generator = torch.Generator().manual_seed(7)
    one_by_one = [dropped.objective(batch, generator).total for _ in range(3)]
    dropped.patterns = 3
    together = dropped.objective(batch, torch.Generator().manual_seed(7)).total
    torch.testing.assert_close(together, torch.stack(one_by_one).mean())
    assert len({float(loss.detach()) for loss in one_by_one}) == 3


def test_no_pattern_is_an_error():
    schema = cases.make_schema("multiclass", "tables")
    with pytest.raises(ConfigurationError, match="patterns of ModalityDropout is out of range.*1 or more, got 0"):
        ModalityDropout(schema, cases.make_encoders(schema), patterns=0)


def test_the_expected_objective_is_the_mean_over_all_subsets(pair):
    schema, dropped, fused = pair
    full = cases.make_batch(schema, torch.ones(1, 3, dtype=torch.bool))
    expected = 0.0
    for pattern in cases.patterns(3):
        kept = full.restrict(dict(zip(schema.names, pattern[:, None])))
        share = {1: 1 / 9, 2: 1 / 9, 3: 1 / 3}[int(pattern.sum())]
        expected += share * fused.objective(kept, torch.Generator()).total.item()
    many = full.take(torch.zeros(60_000, dtype=torch.int64))
    with torch.no_grad():
        drawn = dropped.objective(many, torch.Generator().manual_seed(0)).total.item()
    assert drawn == pytest.approx(expected, abs=5e-3)


def test_predictions_use_everything_present(pair):
    schema, dropped, fused = pair
    batch = cases.make_batch(schema, cases.mixed_presence(schema))
    assert torch.equal(dropped.predict(batch), fused.predict(batch))


def test_training_on_complete_rows_teaches_small_patterns():
    """Both tables hold the answer: joint fusion leans on both, modality dropout learns to use either."""
    schema = cases.Schema(cases.MODALITIES["tables"][:2], cases.TASKS["binary"])
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 2, (400,), generator=generator)
    signal = target[:, None] * 2.0 - 1
    values = {name: signal + s * torch.randn(400, 4, generator=generator) for name, s in (("a", 0.2), ("b", 2.0))}
    present = torch.ones(400, dtype=torch.bool)
    batch = cases.Batch(values, {"a": present, "b": present}, target=target)
    torch.manual_seed(0)
    methods = [kind(schema, cases.make_encoders(schema)) for kind in (JointFusion, ModalityDropout)]
    losses = []
    for method in methods:
        cases.train(method, batch, steps=80)
        only_b = batch.restrict({"a": ~present})
        losses.append(method.objective(only_b, torch.Generator()).total.item())  # one modality is left: no removal
    assert losses[1] < losses[0] - 0.05
