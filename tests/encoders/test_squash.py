"""Soft clipping."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amodal.encoders.squash import soft_clip

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
