"""Soft clipping and soft steps."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amodal.encoders.squash import SOFT_STEP_CUTS, soft_clip, soft_steps

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(finite, st.floats(0.5, 10))
def test_is_the_formula_without_its_overflow(value, scale):
    got = soft_clip(torch.tensor(value, dtype=torch.float64), scale).item()
    expected = value / math.sqrt(1 + (value / scale) ** 2)
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(finite, finite)
def test_is_bounded_odd_and_never_falls(a, b):
    x, y, minus = (soft_clip(torch.tensor(v)).item() for v in (min(a, b), max(a, b), -min(a, b)))
    assert x <= y
    assert abs(x) <= 3.0
    assert minus == -x


def test_gradient_is_finite_everywhere():
    values = torch.tensor([0.0, 1e-30, -5.0, 1e30, -3e38], requires_grad=True)
    soft_clip(values).sum().backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()
    assert values.grad[0] == 1


def test_soft_steps_are_logistic_steps_beside_each_value():
    values = torch.tensor([[-1.5, 0.2], [3.0, 0.0]], dtype=torch.float64)
    result = soft_steps(values)
    assert result.shape == (2, 2 * (1 + len(SOFT_STEP_CUTS)))
    for row in range(2):
        for feature in range(2):
            x = values[row, feature].item()
            expected = [x, *(1 / (1 + math.exp(-4 * (x - cut))) - 0.5 for cut in SOFT_STEP_CUTS)]
            block = result[row, feature * 6 : (feature + 1) * 6]
            assert block.tolist() == pytest.approx(expected)


def test_a_linear_map_of_soft_steps_bends_where_one_of_the_value_cannot():
    """A U-shaped risk, as of temperature: least squares on the steps explains it, on the value nothing of it."""
    x = torch.linspace(-2, 2, 201, dtype=torch.float64)[:, None]
    risk = x[:, 0].square()

    def unexplained(columns: torch.Tensor) -> float:
        columns = torch.cat([columns, torch.ones_like(x)], dim=1)
        residual = risk - columns @ torch.linalg.lstsq(columns, risk[:, None]).solution[:, 0]
        return (residual.var() / risk.var()).item()

    assert unexplained(x) == pytest.approx(1.0)
    assert unexplained(soft_steps(x)) < 0.01
