"""The shared transformer: against torch's attention written out, and its treatment of padding."""

import math

import pytest
import torch
from torch.nn import functional

from amodal.attention import TransformerTrunk, drop_out, sinusoidal_positions
from amodal.errors import ConfigurationError


def by_hand(trunk: TransformerTrunk, tokens: torch.Tensor) -> torch.Tensor:
    """One pre-norm layer and the last norm, from the weights, for one row without padding."""
    assert trunk.layers is not None
    layer = trunk.layers.layers[0]
    heads, width = layer.self_attn.num_heads, tokens.shape[1]
    x = layer.norm1(tokens)
    query, key, value = functional.linear(x, layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias).chunk(3, -1)
    mixed = []
    for h in range(heads):
        part = slice(h * width // heads, (h + 1) * width // heads)
        scores = query[:, part] @ key[:, part].T / math.sqrt(width // heads)
        mixed.append(scores.softmax(-1) @ value[:, part])
    tokens = tokens + layer.self_attn.out_proj(torch.cat(mixed, dim=1))
    hidden = functional.gelu(layer.linear1(layer.norm2(tokens)))
    return trunk.norm(tokens + layer.linear2(hidden))


@pytest.mark.parametrize("training", [True, False])
def test_layer_is_the_published_one(training):
    """In training (and where gradients are kept) and on torch's fast path alike."""
    trunk = TransformerTrunk(8, layers=1, heads=2, dropout=0.0).train(training)
    tokens = torch.randn(3, 5, 8)
    valid = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    for keep_gradients in (True, False):
        with torch.set_grad_enabled(keep_gradients):
            result = trunk(tokens, valid)
        for row, size in enumerate((5, 3, 1)):
            expected = by_hand(trunk, tokens[row, :size])
            torch.testing.assert_close(result[row, :size], expected, rtol=1e-5, atol=1e-5)
            assert not result[row, size:].any()


def test_padding_is_never_read():
    trunk = TransformerTrunk(8, layers=2).eval()
    tokens, valid = torch.randn(2, 4, 8), torch.tensor([[True, True, False, False], [False, True, False, True]])
    expected = trunk(tokens, valid)
    for filler in (0.0, 1e30, math.nan, math.inf):
        assert torch.equal(trunk(torch.where(valid[..., None], tokens, filler), valid), expected)


def test_a_row_without_tokens_has_zeros_and_finite_gradients():
    trunk = TransformerTrunk(8, layers=1, dropout=0.0)
    tokens = torch.randn(2, 3, 8, requires_grad=True)
    result = trunk(tokens, torch.tensor([[True, False, True], [False, False, False]]))
    result.square().sum().backward()
    assert not result[1].any()
    assert tokens.grad is not None
    assert tokens.grad.isfinite().all()
    assert not tokens.grad[1].any()
    assert not tokens.grad[0, 1].any()


READ = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)


@pytest.mark.parametrize("layers", [0, 1, 2])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("lengths", [[5, 3, 1, 5], [5, 5, 5, 5]])
def test_tokens_at_some_places_are_those_of_all_places(layers, training, lengths):
    """Values and gradients, with padding and without, with a row of which nothing is read."""
    trunk = TransformerTrunk(8, layers=layers, heads=2, dropout=0.0).train(training)
    tokens = torch.randn(4, 5, 8, requires_grad=True)
    valid = torch.arange(5) < torch.tensor(lengths)[:, None]
    weight = torch.randn(int((READ & valid).sum()), 8)
    found = []
    for values in (trunk(tokens, valid)[READ & valid], trunk.at(tokens, valid, READ & valid)):
        gradients = torch.autograd.grad((values * weight).sum(), [tokens, *trunk.parameters()])
        found.append([values, *gradients])
    for all_places, some in zip(*found):
        torch.testing.assert_close(some, all_places, atol=1e-5, rtol=1e-4)
    everything = trunk.at(tokens, valid, valid)
    torch.testing.assert_close(everything, trunk(tokens, valid)[valid], atol=1e-5, rtol=1e-4)


def test_nothing_read_is_nothing_computed():
    trunk = TransformerTrunk(8, layers=1)
    assert trunk.at(torch.randn(3, 4, 8), torch.ones(3, 4).bool(), torch.zeros(3, 4).bool()).shape == (0, 8)
    assert trunk.at(torch.randn(0, 4, 8), torch.ones(0, 4).bool(), torch.ones(0, 4).bool()).shape == (0, 8)


def test_places_that_are_not_read_neither_change_nor_learn_from_padding():
    trunk = TransformerTrunk(8, layers=2).eval()
    tokens, valid = torch.randn(2, 4, 8), torch.tensor([[True, True, False, False], [False, True, False, True]])
    for filler in (1e30, math.nan, math.inf):
        filled = torch.where(valid[..., None], tokens, filler)
        assert torch.equal(trunk.at(filled, valid, valid), trunk.at(tokens, valid, valid))


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_dropout_zeroes_as_often_as_it_says_and_keeps_the_mean(probability):
    torch.manual_seed(0)
    x = torch.ones(1000, 401, requires_grad=True)
    kept = drop_out(x, probability)
    share = (kept == 0).float().mean().item()
    spread = math.sqrt(probability * (1 - probability) / x.numel())
    assert share == pytest.approx(probability, abs=4 * spread)
    assert kept.detach().unique().tolist() == pytest.approx([0, 1 / (1 - probability)], rel=1e-4)
    assert abs((kept[:, 1:] * kept[:, :-1]).mean().item() - 1) < 0.05 / (1 - probability)  # neighbours are independent
    kept.sum().backward()
    assert torch.equal(x.grad, kept.detach())
    assert drop_out(x, 0.0) is x


def test_dropout_of_attention_and_of_both_branches_is_on_while_training():
    trunk, tokens = TransformerTrunk(8, layers=1, dropout=0.5), torch.randn(2, 3, 8)
    valid = torch.ones(2, 3, dtype=torch.bool)
    assert not torch.equal(trunk.at(tokens, valid, valid), trunk.at(tokens, valid, valid))
    mean = torch.stack([trunk.at(tokens, valid, valid) for _ in range(3)]).std(0)
    assert (mean > 0).all()
    assert torch.equal(trunk.eval().at(tokens, valid, valid), trunk.at(tokens, valid, valid))


def test_layers_start_different():
    trunk = TransformerTrunk(8, layers=2)
    assert trunk.layers is not None
    first, second = trunk.layers.layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)
    assert not torch.equal(first.self_attn.in_proj_weight, second.self_attn.in_proj_weight)


@pytest.mark.parametrize(("width", "heads"), [(8, 4), (6, 2), (5, 1)])
def test_heads_divide_the_width(width, heads):
    trunk = TransformerTrunk(width, layers=1)
    assert trunk.layers is not None
    assert trunk.layers.layers[0].self_attn.num_heads == heads


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigurationError, match=r"heads do not divide the width .*got 3"):
        TransformerTrunk(8, heads=3)


@pytest.mark.parametrize("width", [1, 4, 7])
def test_positions_are_sines_and_cosines(width):
    table = sinusoidal_positions(6, width)
    for t in range(6):
        for d in range(width):
            angle = t / 10000 ** ((d - d % 2) / width)
            expected = math.cos(angle) if d % 2 else math.sin(angle)
            assert table[t, d].item() == pytest.approx(expected, abs=1e-6)
