"""Concatenation and its fills, the mean of present, gates: values worked out by hand."""

import numpy as np
import pytest
import torch

from amodal.errors import ConfigurationError, UnknownNameError
from amodal.fusion import Concatenate, GatedFusion, MeanOfPresent

FEATURES = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
OBSERVED = torch.tensor([[True, True], [False, True]])


def test_zero_fill():
    assert Concatenate(2, 2)(FEATURES, OBSERVED).tolist() == [[1, 2, 3, 4], [0, 0, 7, 8]]


def test_learned_fill_is_its_modality_s_own_vector():
    fusion = Concatenate(2, 2, fill="learned")
    assert fusion.learned is not None
    fused = fusion(FEATURES, OBSERVED)
    assert torch.equal(fused[1, :2], fusion.learned[0])
    assert torch.equal(fused[0], torch.tensor([1.0, 2.0, 3.0, 4.0]))
    fused.sum().backward()
    assert fusion.learned.grad is not None
    assert fusion.learned.grad.tolist() == [[1, 1], [0, 0]]  # only where something is absent


def test_mean_fill_is_the_mean_of_present_training_features():
    """With a memory that does not fade, the fill is the plain mean over all present rows of all training batches."""
    fusion = Concatenate(2, 3, fill="mean", memory=1e9)
    rng = np.random.default_rng(0)
    features, observed = rng.normal(size=(50, 2, 3)), rng.random((50, 2)) < [0.7, 0.1]
    for rows in np.split(np.arange(50), [7, 8, 30]):
        fusion(torch.tensor(features[rows], dtype=torch.float32), torch.tensor(observed[rows]))
    fusion.eval()
    fused = fusion(torch.full((1, 2, 3), torch.nan), torch.zeros(1, 2, dtype=torch.bool))
    expected = np.concatenate([features[observed[:, m], m].mean(0) for m in range(2)])
    np.testing.assert_allclose(fused[0], expected, rtol=1e-4, atol=1e-5)


def test_mean_fill_forgets_and_is_tracked_in_training_only():
    fusion = Concatenate(1, 1, fill="mean", memory=2.0)  # each batch halves the weight of those before
    for value in (1.0, 4.0):
        fusion(torch.full((2, 1, 1), value), torch.ones(2, 1, dtype=torch.bool))
    absent = torch.zeros(1, 1, dtype=torch.bool)
    fusion.eval()
    assert fusion(torch.zeros(1, 1, 1), absent).item() == pytest.approx((0.5 * 1 + 4) / 1.5)
    fusion(torch.full((9, 1, 1), 100.0), torch.ones(9, 1, dtype=torch.bool))
    assert fusion(torch.zeros(1, 1, 1), absent).item() == pytest.approx(3.0)


def test_mean_fill_before_the_first_present_row_is_zero_and_absence_does_not_fade_it():
    fusion = Concatenate(2, 1, fill="mean", memory=2.0)
    only_first = torch.tensor([[True, False]])
    for _ in range(2000):  # far beyond where a fading sum would underflow
        fused = fusion(torch.ones(1, 2, 1), only_first)
    assert fused.tolist() == [[1.0, 0.0]]
    fusion(torch.full((1, 2, 1), 3.0), torch.tensor([[False, True]]))
    for _ in range(2000):
        fusion(torch.ones(1, 2, 1), only_first)
    assert fusion(torch.ones(1, 2, 1), only_first)[0, 1].item() == pytest.approx(3.0)


def test_mean_fill_of_a_row_does_not_depend_on_its_batch():
    """The fill is what was tracked before this batch: a batch's objective is the mean of its rows' objectives."""
    fusion = Concatenate(2, 2, fill="mean")
    fusion(FEATURES, torch.ones(2, 2, dtype=torch.bool))
    state = {key: value.clone() for key, value in fusion.state_dict().items()}
    together = fusion(FEATURES, OBSERVED)
    fusion.load_state_dict(state)
    assert torch.equal(fusion(FEATURES[1:], OBSERVED[1:])[0], together[1])


def test_unknown_fill_and_memory_are_refused():
    with pytest.raises(UnknownNameError, match=r"unknown fill of Concatenate 'median' .*learned, mean, zero"):
        Concatenate(2, 2, fill="median")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="memory of Concatenate is out of range"):
        Concatenate(2, 2, fill="mean", memory=0.5)


def test_mean_of_present_divides_by_what_is_present():
    fused = MeanOfPresent(2, 2)(FEATURES, torch.tensor([[True, True], [False, True]]))
    assert fused.tolist() == [[2, 3], [7, 8]]
    assert MeanOfPresent(2, 2)(FEATURES[:1], torch.tensor([[False, False]])).tolist() == [[0, 0]]


def test_gates_compete_among_the_present():
    fusion = GatedFusion(2, 2)
    with torch.no_grad():
        fusion.gate[:] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        fusion.offset[:] = torch.tensor([0.0, -1.0])
        fusion.weight[:] = torch.eye(2)
        fusion.bias[:] = torch.tensor([[0.0, 0.5], [0.0, 0.0]])
    fused = fusion(FEATURES, OBSERVED)
    scores = np.exp([1.0, 4.0 - 1.0])  # first feature of the first, second of the second less one
    share = scores / scores.sum()
    expected = share[0] * np.tanh([1.0, 2.5]) + share[1] * np.tanh([3.0, 4.0])
    np.testing.assert_allclose(fused[0].detach(), expected, rtol=1e-5)
    np.testing.assert_allclose(fused[1].detach(), np.tanh([7.0, 8.0]), rtol=1e-6)  # alone: all of the share
