"""The predictor of tokens and the parts around it; what CEPA makes of them is tested there."""

import pytest
import torch

from amodal.encoders import Tokens
from amodal.tokens.absent_tokens import AbsentTokens
from amodal.tokens.latent_prediction import ContextEncoder, LatentPredictor, fill_sequence


def tokens(seed, size=5):
    draw = torch.Generator().manual_seed(seed)
    return {
        name: Tokens(torch.randn(size, length, 8, generator=draw), torch.rand(size, length, generator=draw) < 0.8)
        for name, length in (("a", 3), ("b", 1), ("c", 6))
    }


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_several_patterns_are_the_sequences_of_each(layers):
    """One attention for all patterns against every pattern's own sequence, values and gradients."""
    predictor = LatentPredictor("abc", 8, layers=layers, dropout=0.0)
    sequences = {n: Tokens(z, v | (torch.arange(v.shape[1]) == 0)) for n, (z, v) in tokens(0).items()}
    stand_in = torch.randn(3, 8, requires_grad=True)
    lengths = {"a": 3, "b": 1, "c": 4}  # c has two more tokens of its own
    observed = torch.rand(4, 5, 3, generator=torch.Generator().manual_seed(1)) < 0.5
    stand_ins = {n: stand_in[m].expand(length, -1) for m, (n, length) in enumerate(lengths.items())}
    source = torch.arange(5).repeat(4)
    states = predictor.absent(sequences, stand_ins, observed.flatten(0, 1), source)
    found, expected = predictor.predicted(states).split(), {n: [] for n in lengths}
    for presence in observed:
        less, read = {}, {}
        for m, (name, (z, valid)) in enumerate(sequences.items()):
            stands = torch.arange(z.shape[1]) < lengths[name]
            has = presence[:, m, None]
            less[name] = Tokens(torch.where(has[..., None], z, stand_in[m]), torch.where(has, valid, stands))
            read[name] = stands & ~has
        alone = predictor(less, read)
        for m, name in enumerate(lengths):
            expected[name].append(alone[name][~presence[:, m], : lengths[name]])
    for m, (name, rows) in enumerate(zip(lengths, states.rows)):
        assert torch.equal(rows, (~observed[..., m]).flatten().nonzero()[:, 0])
        torch.testing.assert_close(found[m], torch.cat(expected[name]), atol=1e-5, rtol=1e-4)
    inputs = [stand_in, *predictor.parameters()]
    ours, theirs = (
        torch.autograd.grad(sum(part.square().sum() for part in parts), inputs, allow_unused=True)
        for parts in (found, [torch.cat(parts) for parts in expected.values()])
    )
    for one, other in zip(ours, theirs):
        if other is not None:
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_absent_tokens_of_some_rows():
    predictor = LatentPredictor("abc", 8, layers=1, dropout=0.0)
    observed = torch.rand(1, 5, 3, generator=torch.Generator().manual_seed(1)) < 0.5
    stand_ins = {"a": torch.randn(3, 8), "b": torch.randn(1, 8), "c": torch.randn(4, 8)}
    states = predictor.absent(tokens(0), stand_ins, observed[0], torch.arange(5))
    rows = (~observed[0, :, 2]).nonzero()[:, 0].flip(0)
    assert torch.equal(states.of_rows(2, rows), states.split()[2].flip(0))
    dense = {name: torch.randn(5, len(part), 8) for name, part in stand_ins.items()}
    again = AbsentTokens.of_sequences(dense, observed[0], (3, 1, 4))
    assert torch.equal(again.of_rows(2, rows), dense["c"][rows])


def test_padding_is_neither_read_nor_predicted():
    predictor, sequences = LatentPredictor("abc", 8, layers=1, dropout=0.0), tokens(0)
    changed = {n: Tokens(torch.where(v[..., None], z, 1e6), v) for n, (z, v) in sequences.items()}
    for name, (_, valid) in sequences.items():
        assert torch.equal(predictor(sequences)[name], predictor(changed)[name])
        assert not predictor(sequences)[name][~valid].any()


def test_tokens_are_told_apart_by_modality_and_by_place():
    predictor = LatentPredictor("ab", 8, layers=1, dropout=0.0)
    same = torch.ones(1, 3, 8)
    sequences = {name: Tokens(same, torch.ones(1, 3, dtype=torch.bool)) for name in "ab"}
    a, b = predictor(sequences).values()
    assert not torch.allclose(a, b)
    assert not torch.allclose(a[:, 0], a[:, 1])


def test_stand_ins_of_absent_rows_and_own_tokens_of_the_others():
    own, valid = torch.randn(2, 4, 8), torch.tensor([[True, True, True, False], [True, False, False, False]])
    stand_in = torch.randn(8)
    whole = fill_sequence((torch.tensor([0, 2]), own, valid), stand_in, 2, 3)
    assert torch.equal(whole.values[[0, 2]][valid], own[valid])
    assert torch.equal(whole.values[1, :2], stand_in.expand(2, 8))
    assert whole.valid.tolist() == [valid[0].tolist(), [True, True, False, False], valid[1].tolist()]
    nobody = fill_sequence(None, stand_in, 2, 3)
    assert nobody.valid.all()
    assert torch.equal(nobody.values, stand_in.expand(3, 2, 8))


def test_the_context_is_that_of_a_set():
    context = ContextEncoder(8, dropout=0.0)
    features, observed = torch.randn(4, 3, 8), torch.tensor([[True, False, True]] * 4)
    order = [2, 0, 1]
    torch.testing.assert_close(context(features, observed), context(features[:, order], observed[:, order]))
    hidden = torch.where(observed[..., None], features, torch.nan)
    assert torch.equal(context(hidden, observed), context(features, observed))
