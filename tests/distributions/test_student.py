"""Student's t in log space against high-precision arithmetic."""

import mpmath as mp
import numpy as np
import pytest
import torch

from amodal.distributions.log_space import log_complement
from amodal.distributions.student import (
    log1p_square,
    student_log_density,
    student_log_tails,
    student_score,
    student_score_slopes,
)

F64 = torch.float64
FREEDOMS = [0.5, 1.0, 2.0, 3.0, 4.0, 7.3, 30.0, 300.0]
POINTS = [-1e-3, -0.1, -1.0, -3.0, -10.0, -100.0, -1e4, -1e10]


def exact_log_tail(x, df):
    with mp.workdps(30):
        x, df = mp.mpf(x), mp.mpf(df)
        return float(mp.log(mp.betainc(df / 2, mp.mpf(1) / 2, 0, df / (df + x * x), regularized=True) / 2))


@pytest.mark.parametrize("df", FREEDOMS)
def test_tails_and_scores(df):
    x = torch.tensor(POINTS, dtype=F64)
    expected = np.array([exact_log_tail(v, df) for v in POINTS])
    lower, upper = student_log_tails(x, df)
    np.testing.assert_allclose(lower, expected, rtol=1e-12)
    np.testing.assert_allclose(student_log_tails(-x, df)[1], expected, rtol=1e-12)
    np.testing.assert_allclose(upper, np.log1p(-np.exp(expected)), rtol=1e-10)
    log_p = torch.from_numpy(expected)
    np.testing.assert_allclose(student_score(log_p, log_complement(log_p), df), POINTS, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(student_score(log_complement(log_p), log_p, df), -x, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("df", [1.0, 2.0, 4.0, 6.5])
def test_derivatives(df):
    x = torch.tensor([-20.0, -2.0, -0.3, 0.4, 3.0], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: student_log_tails(x, df), x)
    assert torch.autograd.gradgradcheck(lambda x: student_log_tails(x, df), x, atol=1e-4)
    log_u = torch.tensor([-30.0, -5.0, -1.0, -0.3, -1e-2], dtype=F64, requires_grad=True)

    def tamed(x):
        return torch.asinh(student_score(x, log_complement(x), df))

    assert torch.autograd.gradcheck(tamed, log_u)
    assert torch.autograd.gradgradcheck(tamed, log_u, atol=1e-4)


@pytest.mark.parametrize("df", [1.0, 2.0, 4.0])
def test_closed_forms_in_single_precision(df):
    log_p = torch.linspace(-30.0, -0.6931, 500)
    exact = student_score_slopes(log_p.double(), log_complement(log_p.double()), df)
    single = student_score_slopes(log_p, log_complement(log_p), df)
    for ours, reference in zip(single, exact, strict=True):
        np.testing.assert_allclose(ours.double(), reference, rtol=2e-4, atol=1e-5)


def test_degrees_of_freedom_of_their_own_and_ends_of_the_range():
    df = torch.tensor([1.0, 4.0, 9.0], dtype=F64)
    together = student_log_tails(torch.full((3,), -2.0, dtype=F64), df)[0]
    apart = [student_log_tails(torch.tensor(-2.0, dtype=F64), d)[0].item() for d in df.tolist()]
    np.testing.assert_allclose(together, apart)
    deep = student_score(torch.tensor([-1e4]), torch.tensor([-0.0]), 1.0)
    assert bool(torch.isfinite(deep).all())
    assert deep.item() < -1e30
    assert log1p_square(torch.tensor(1e30), 2.0).item() == pytest.approx(2 * np.log(1e30) - np.log(2), rel=1e-6)
    density = student_log_density(torch.tensor(0.0, dtype=F64), 1.0)
    assert density.exp().item() == pytest.approx(1 / np.pi)
