"""The shared transformer: against torch's attention written out, and its treatment of padding."""

import math

import pytest
import torch
from torch.nn import functional

from amodal.attention import TransformerTrunk, sinusoidal_positions
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
