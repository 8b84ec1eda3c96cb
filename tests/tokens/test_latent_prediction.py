"""The predictor of tokens and the parts around it; what CEPA makes of them is tested there."""

import torch

from amodal.encoders import Tokens
from amodal.tokens.latent_prediction import ContextEncoder, LatentPredictor, fill_sequence


def tokens(seed, size=5):
    draw = torch.Generator().manual_seed(seed)
    return {
        name: Tokens(torch.randn(size, length, 8, generator=draw), torch.rand(size, length, generator=draw) < 0.8)
        for name, length in (("a", 3), ("b", 1), ("c", 6))
    }


def test_stacked_passes_are_the_passes_one_by_one():
    predictor = LatentPredictor("abc", 8, layers=1, dropout=0.0)
    together = predictor.predict_passes(tokens(0), tokens(1))
    for seed, ours in enumerate(together):
        alone = predictor(tokens(seed))
        for name in "abc":
            torch.testing.assert_close(ours[name], alone[name], atol=1e-5, rtol=1e-4)


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
