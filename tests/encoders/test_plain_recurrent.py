"""The published recurrent encoders: sizes counted in the official code, packing, initial weights."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from amodal.encoders.plain_recurrent import FlattenedGRU, PlainLSTM
from amodal.errors import ConfigurationError
from amodal.schema import Modality


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_lstm_of_cm2_has_the_published_size():
    """76 to 256 to 256; 868,609 with the linear head of one output, which is 257."""
    assert count(PlainLSTM(Modality("ehr", "series", (48, 76)), width=256)) == 868_609 - 257


def test_lstm_is_two_packed_lstms_in_a_row():
    encoder = PlainLSTM(Modality("ehr", "series", (6, 3)), width=4).eval()
    values, lengths = torch.randn(4, 6, 3), torch.tensor([6, 2, 1, 5])
    sequence = pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
    for layer in encoder.layers:
        sequence, (state, _) = layer.cell(sequence)
    torch.testing.assert_close(encoder(values, None, lengths).pooled, state[0], rtol=1e-5, atol=1e-6)


def test_lstm_starts_orthogonal_with_zero_biases():
    encoder = PlainLSTM(Modality("ehr", "series", (6, 3)), width=5)
    for layer in encoder.layers:
        recurrent = layer.cell.weight_hh_l0
        torch.testing.assert_close(recurrent.T @ recurrent, torch.eye(5), rtol=0, atol=1e-5)
        assert not layer.cell.bias_hh_l0.any()
        bound = (6 / (20 + layer.cell.input_size)) ** 0.5  # Xavier's, for 4 · 5 rows
        assert 0.5 * bound < layer.cell.weight_ih_l0.abs().max() <= bound


def test_lstm_needs_a_layer():
    with pytest.raises(ConfigurationError, match=r"layers of PlainLSTM is out of range .*got 0"):
        PlainLSTM(Modality("ehr", "series", (6, 3)), width=5, layers=0)


def test_gru_of_multibench_has_the_stored_size():
    """GRU(12 -> 30), 3,960 parameters in MultiBench's stored encoder."""
    assert count(FlattenedGRU(Modality("series", "series", (24, 12)), width=64).layer) == 3_960


def test_gru_hands_on_all_outputs_side_by_side():
    """The pooled vector is linear in the 24 · 30 flattened outputs, and padding counts as zero."""
    encoder = FlattenedGRU(Modality("series", "series", (4, 2)), width=3, hidden=5).eval()
    values = torch.randn(2, 4, 2)
    outputs = encoder.layer.cell(values)[0]
    expected = encoder.join(encoder.token(outputs).flatten(1))
    torch.testing.assert_close(encoder(values).pooled, expected)
    short = encoder(values, None, torch.tensor([2, 2])).pooled
    padded = torch.nn.functional.pad(encoder.token(outputs)[:, :2], (0, 0, 0, 2))
    torch.testing.assert_close(short, encoder.join(padded.flatten(1)))
