"""Tabular encoders: what a token is made of."""

import math

import torch

from amodal.encoders.squash import soft_clip, soft_steps
from amodal.encoders.tabular import FeatureTokens, LinearEmbedding, TabularMLP
from amodal.schema import Modality

TABLE = Modality("t", "tabular", (3,))


def test_a_feature_s_token_is_its_own_line():
    encoder = FeatureTokens(TABLE, width=4, steps=False)
    values = torch.tensor([[0.0, 1.0, -2.0]])
    measured = torch.tensor([[True, True, False]])
    tokens, valid = encoder.embed(values, measured)
    assert valid.all()
    assert torch.equal(tokens[0, 0], encoder.bias[0])
    torch.testing.assert_close(tokens[0, 1], encoder.bias[1] + soft_clip(torch.tensor(1.0)) * encoder.weight[1, 0])
    assert torch.equal(tokens[0, 2], encoder.unmeasured[2])


def test_a_feature_s_token_bends_at_its_own_steps():
    encoder = FeatureTokens(TABLE, width=4, clip=1e6)
    values = torch.randn(5, 3)
    tokens = encoder.embed(values).values
    for j in range(3):
        expected = soft_steps(values[:, j : j + 1]) @ encoder.weight[j] + encoder.bias[j]
        torch.testing.assert_close(tokens[:, j], expected, rtol=1e-5, atol=1e-6)


def test_pooled_is_the_mean_of_the_tokens():
    encoder = FeatureTokens(TABLE, width=4).eval()
    tokens, _, pooled = encoder(torch.randn(5, 3))
    torch.testing.assert_close(pooled, tokens.mean(1))


def test_mlp_reads_values_and_what_is_unmeasured():
    """Setting one indicator moves the token by that indicator's column of weights."""
    encoder = TabularMLP(TABLE, width=4, steps=False)
    values, measured = torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool)
    whole = encoder.embed(values, measured).values
    measured[0, 1] = False
    torch.testing.assert_close(encoder.embed(values, measured).values - whole, encoder.input.weight[:, 4].view(1, 1, 4))


def test_mlp_without_blocks_is_a_normalised_linear_map():
    encoder = TabularMLP(TABLE, width=4, layers=0, clip=1e6, steps=False)
    values = torch.randn(6, 3)
    expected = encoder.norm(encoder.input(torch.cat([values, torch.zeros(6, 3)], dim=1)))
    torch.testing.assert_close(encoder(values).pooled, expected, rtol=1e-5, atol=1e-5)


def test_linear_embedding_without_clipping_is_affine():
    encoder = LinearEmbedding(TABLE, width=4, clip=None)
    values, measured = torch.randn(6, 3), torch.ones(6, 3, dtype=torch.bool)
    weight, bias = encoder.linear.weight, encoder.linear.bias
    torch.testing.assert_close(encoder(values).pooled, values @ weight[:, :3].T + bias)
    torch.testing.assert_close(encoder(values).pooled.mean(0), encoder(values.mean(0, keepdim=True)).pooled[0])
    measured[:, 1] = False
    expected = values[:, [0, 2]] @ weight[:, [0, 2]].T + weight[:, 4] + bias
    values[:, 1] = torch.nan
    torch.testing.assert_close(encoder(values, measured).pooled, expected)


def test_linear_embedding_clips_softly():
    encoder = LinearEmbedding(TABLE, width=4, clip=2.0)
    values = 5 * torch.randn(6, 3)
    expected = LinearEmbedding(TABLE, width=4, clip=None)
    expected.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(encoder(values).pooled, expected(soft_clip(values, 2.0)).pooled)


def test_soft_steps_rise_where_they_say():
    from amodal.encoders.squash import soft_steps

    x = torch.tensor([[-3.0, 0.5]])
    steps = soft_steps(x, cuts=(-1.0, 1.0), sharpness=2.0)
    expected = [[v, *(1 / (1 + math.exp(-2 * (v - c))) - 0.5 for c in (-1.0, 1.0))] for v in (-3.0, 0.5)]
    torch.testing.assert_close(steps, torch.tensor(expected).reshape(1, 6))
    # far from every cut the steps are flat, so that an outlier moves them no further
    torch.testing.assert_close(soft_steps(torch.tensor([[30.0]]))[:, 1:], soft_steps(torch.tensor([[60.0]]))[:, 1:])
