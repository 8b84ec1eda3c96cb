"""Series encoders: channels of a step against pandas, windows, and last states against packing."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from amodal.encoders.series import GRUEncoder, LSTMEncoder, SeriesTransformer, carry_forward, last_valid
from amodal.errors import ConfigurationError
from amodal.schema import Modality

SERIES = Modality("s", "series", (10, 3))


def test_carry_forward_is_that_of_pandas():
    rng = np.random.default_rng(0)
    values, measured = rng.normal(size=(6, 10, 3)), rng.random((6, 10, 3)) < 0.3
    filled, since = carry_forward(torch.tensor(values), torch.tensor(measured))
    for row in range(6):
        table = pd.DataFrame(np.where(measured[row], values[row], np.nan))
        np.testing.assert_allclose(filled[row], table.ffill().fillna(0.0))
        clock = pd.DataFrame(np.where(measured[row], np.arange(10)[:, None], np.nan)).ffill().fillna(-1)
        np.testing.assert_allclose(since[row], np.arange(10)[:, None] - clock)


@pytest.mark.parametrize("fill", [True, False])
def test_a_window_s_token_is_linear_in_the_channels_of_its_steps(fill):
    encoder = LSTMEncoder(SERIES, width=4, window=2, summary=False, forward_fill=fill, clip=1e6)
    values, measured = torch.randn(1, 10, 3), torch.rand(1, 10, 3) < 0.5
    tokens, valid = encoder.embed(values, measured)
    assert tokens.shape == (1, 5, 4)
    assert valid.all()
    filled, since = carry_forward(torch.where(measured, values, 0.0), measured)
    level = filled if fill else torch.where(measured, values, 0.0)
    channels = torch.cat([level, measured.float(), torch.log1p(since) / math.log(11)], dim=2)
    expected = encoder.step(channels[0, 4:6].flatten())  # the third window
    torch.testing.assert_close(tokens[0, 2], expected, rtol=1e-4, atol=1e-5)


def test_windows_at_the_end_are_padded_and_marked():
    encoder = GRUEncoder(SERIES, width=4, window=4, summary=False)
    tokens, valid = encoder.embed(torch.randn(2, 10, 3), lengths=torch.tensor([10, 4]))
    assert encoder.n_tokens == tokens.shape[1] == 3
    assert valid.tolist() == [[True, True, True], [True, False, False]]


@pytest.mark.parametrize(
    ("steps", "window", "tokens"), [(4, 1, 4), (12, 1, 12), (13, 2, 7), (48, 4, 12), (500, 42, 12)]
)
def test_long_series_get_windows_so_that_few_tokens_are_left(steps, window, tokens):
    encoder = SeriesTransformer(Modality("s", "series", (steps, 2)), width=4)
    assert encoder.window == window
    assert encoder.n_tokens == tokens + 1


@pytest.mark.parametrize("kind", [LSTMEncoder, GRUEncoder])
def test_last_state_is_that_of_a_packed_sequence(kind):
    encoder = kind(SERIES, width=4, window=1, summary=False).eval()
    values, lengths = torch.randn(5, 10, 3), torch.tensor([10, 1, 7, 4, 9])
    embedded, _ = encoder.embed(values, None, lengths)
    packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
    state = encoder.layers[0].cell(packed)[1]
    state = state[0] if kind is LSTMEncoder else state
    torch.testing.assert_close(encoder(values, None, lengths).pooled, state[0], rtol=1e-5, atol=1e-6)


def test_the_summary_is_a_token_in_front_and_part_of_the_pooled_vector():
    encoder = GRUEncoder(SERIES, width=4, window=1).eval()
    values, measured = torch.randn(2, 10, 3), torch.rand(2, 10, 3) < 0.7
    tokens, valid, pooled = encoder(values, measured)
    assert tokens.shape == (2, 11, 4)
    assert valid.all()
    assert encoder.summary is not None
    assert encoder.join is not None
    expected = encoder.join(torch.cat([tokens[:, 0], tokens[:, -1]], dim=1))
    torch.testing.assert_close(pooled, expected)


def test_the_sequence_starts_with_a_tenth_of_the_summary_s_weight():
    for kind in (LSTMEncoder, GRUEncoder, SeriesTransformer):
        encoder = kind(SERIES, width=32)
        assert encoder.join is not None
        summary, windows = encoder.join.weight.abs().mean(0).split(32)
        assert 0.08 < windows.mean() / summary.mean() < 0.12


def test_the_transformer_joins_the_mean_of_its_windows():
    encoder = SeriesTransformer(SERIES, width=4).eval()
    tokens, valid, pooled = encoder(torch.randn(2, 10, 3), None, torch.tensor([10, 4]))
    assert valid.sum(1).tolist() == [11, 5]
    assert encoder.join is not None
    for row, size in enumerate((11, 5)):
        expected = encoder.join(torch.cat([tokens[row, 0], tokens[row, 1:size].mean(0)]))
        torch.testing.assert_close(pooled[row], expected)


def test_last_valid_of_a_row_without_tokens_is_zero():
    tokens = torch.arange(1.0, 13.0).view(2, 3, 2)
    valid = torch.tensor([[True, True, False], [False, False, False]])
    assert last_valid(tokens, valid).tolist() == [[3, 4], [0, 0]]


def test_a_measurement_is_seen_by_all_later_states_only():
    """The recurrent networks look back, not ahead."""
    encoder = GRUEncoder(SERIES, width=4, window=1, summary=False).eval()
    values = torch.randn(1, 10, 3)
    before = encoder(values).tokens
    values[0, 6] += 1
    changed = (encoder(values).tokens - before).abs().amax(2)[0] > 0
    assert changed.tolist() == [False] * 6 + [True] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window of LSTMEncoder is out of range"),
        ({"window": 11}, "1 … 10 steps, got 11"),
        ({"layers": 0}, "layers"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        LSTMEncoder(SERIES, width=4, **options)
