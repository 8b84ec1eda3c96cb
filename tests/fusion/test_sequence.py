"""Fusions over the sequence of modalities, against packing, removal and a transformer by hand."""

from itertools import product

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from amodal.errors import UnknownNameError
from amodal.fusion import FusionTransformer, ModalityLSTM

PATTERNS = torch.tensor(list(product([False, True], repeat=3)))


@pytest.mark.parametrize("layers", [1, 2])
def test_lstm_is_that_of_the_packed_present_modalities(layers):
    fusion = ModalityLSTM(3, 4, hidden=5, layers=layers)
    features = torch.randn(8, 3, 4)
    fused = fusion(features, PATTERNS)
    assert not fused[0].any()  # nothing present
    packed = pack_sequence([row[seen] for row, seen in zip(features[1:], PATTERNS[1:])], enforce_sorted=False)
    expected = fusion.lstm(packed)[1][0][-1]  # the top layer's last state
    torch.testing.assert_close(fused[1:], expected, rtol=1e-5, atol=1e-6)


def test_lstm_of_cm2_has_the_published_size():
    """One layer from 256 to 512: 1,576,960 parameters, as counted in the official code."""
    fusion = ModalityLSTM(3, 256, hidden=512)
    assert sum(p.numel() for p in fusion.parameters()) == 1_576_960
    assert fusion.out_width == 512


def test_transformer_without_a_modality_is_the_transformer_of_the_others():
    """Padding an absent modality is the same as never having had it."""
    fusion = FusionTransformer(3, 8, layers=2).eval()
    features = torch.randn(8, 3, 8)
    fused = fusion(features, PATTERNS)
    for row, seen in enumerate(PATTERNS):
        tokens = torch.cat([fusion.summary[None], (features[row] + fusion.modality)[seen]])[None]
        alone = fusion.transformer(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))[:, 0]
        torch.testing.assert_close(fused[row], alone[0], rtol=1e-5, atol=1e-5)


def test_learned_stand_ins_are_read_in_place_of_absent_features():
    fusion = FusionTransformer(3, 8, absent="learned").eval()
    assert fusion.stand_in is not None
    features = torch.randn(8, 3, 8)
    filled = torch.where(PATTERNS[..., None], features, fusion.stand_in)
    torch.testing.assert_close(fusion(features, PATTERNS), fusion(filled, torch.ones_like(PATTERNS)))


def test_unknown_treatment_of_absent_modalities_is_refused():
    with pytest.raises(UnknownNameError, match=r"unknown absent of FusionTransformer .*learned, pad"):
        FusionTransformer(3, 8, absent="zero")  # type: ignore[arg-type]
