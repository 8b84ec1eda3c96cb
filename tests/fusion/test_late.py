"""The average of predictions against the average computed naively in double precision."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal.errors import ShapeError
from amodal.fusion.late import average_predictions
from amodal.losses.task import logits_to_predictions


@given(st.integers(0, 2**32 - 1), st.sampled_from(["multiclass", "multilabel", "regression"]), st.floats(0.1, 20))
@settings(max_examples=60, deadline=None)
def test_equals_the_naive_average(seed, kind, scale):
    generator = torch.Generator().manual_seed(seed)
    outputs = scale * torch.randn(6, 3, 1 if kind == "regression" else 4, generator=generator, dtype=torch.float64)
    observed = torch.rand(6, 3, generator=generator) < 0.6
    observed[:, 0] |= ~observed.any(1)
    averaged = average_predictions(outputs, observed, kind)
    predictions = logits_to_predictions(averaged, kind)
    if kind == "multiclass":  # logarithms of probabilities, not merely of something proportional to them
        torch.testing.assert_close(averaged.exp(), predictions, rtol=1e-9, atol=1e-12)
    for i in range(6):
        naive = logits_to_predictions(outputs[i][observed[i]], kind).mean(0)
        torch.testing.assert_close(predictions[i], naive, rtol=1e-9, atol=1e-12)


def test_the_logarithm_survives_probabilities_that_underflow():
    outputs = torch.tensor([[[0.0, -200.0], [0.0, -400.0]]], requires_grad=True)
    logits = average_predictions(outputs, torch.ones(1, 2, dtype=torch.bool), "multiclass")
    assert logits[0, 1].item() == pytest.approx(-200.0 - math.log(2), rel=1e-6)  # in probabilities: 0 + 0
    (-logits[0, 1]).backward()
    torch.testing.assert_close(outputs.grad[0], torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    labels = torch.tensor([[[150.0], [300.0]]])
    high = average_predictions(labels, torch.ones(1, 2, dtype=torch.bool), "multilabel")
    assert high.item() == pytest.approx(150.0 + math.log(2), rel=1e-6)  # 1 - p is exp(-150) / 2


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "regression"])
@pytest.mark.parametrize("hidden", [math.nan, math.inf, -1e30])
def test_absent_outputs_cannot_matter(kind, hidden):
    outputs = torch.randn(4, 2, 1, generator=torch.Generator().manual_seed(0))
    observed = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    outputs = torch.where(observed[..., None], outputs, hidden).requires_grad_()
    averaged = average_predictions(outputs, observed, kind)
    averaged.sum().backward()
    assert torch.isfinite(averaged).all()
    assert torch.isfinite(outputs.grad).all()
    assert not outputs.grad[~observed].any()
    assert averaged[3].item() == 0
    if kind != "multiclass":
        torch.testing.assert_close(averaged[1, 0], outputs[1, 0, 0].detach())


def test_presence_that_does_not_fit_is_an_error():
    with pytest.raises(ShapeError, match=r"expected outputs \(B, M, C\) and bool \(B, M\)"):
        average_predictions(torch.zeros(2, 3, 4), torch.ones(2, 2, dtype=torch.bool), "multiclass")
