"""Multivariate normal and t distribution functions against SciPy and closed forms."""

import math

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy.special import log_ndtr
from scipy.stats import multivariate_normal, multivariate_t

from amodal.distributions.copula import GaussianCopula, StudentTCopula
from amodal.distributions.copula.elliptical_cdf import bivariate_log_cdf

F64 = torch.float64


def tensors(*values):
    return [torch.tensor([v], dtype=F64) for v in values]


@pytest.mark.parametrize("rho", [-0.9999, -0.95, -0.3, 0.0, 0.5, 0.99, 0.99999])
def test_quadrant_probabilities_in_closed_form(rho):
    expected = 0.25 + math.asin(rho) / (2 * math.pi)
    zero = tensors(0.0, 0.0, rho)
    assert bivariate_log_cdf(*zero).exp().item() == pytest.approx(expected, rel=1e-10)
    for df in (1.0, 3.0, 8.0):
        assert bivariate_log_cdf(*zero, df).exp().item() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("rho", [-0.9, 0.3, 0.95])
def test_normal_probabilities(rho):
    for a, b in ((1.0, 2.0), (-1.0, 2.5), (-3.0, -3.0), (4.0, -2.0)):
        expected = multivariate_normal([0, 0], [[1, rho], [rho, 1]]).cdf([a, b])
        assert bivariate_log_cdf(*tensors(a, b, rho)).exp().item() == pytest.approx(expected, abs=1e-13)


def test_far_tails_keep_their_relative_precision():
    value = bivariate_log_cdf(*tensors(-7.0, -7.0, 0.0)).item()
    assert value == pytest.approx(2 * log_ndtr(-7.0), rel=1e-13)
    with mp.workdps(40):
        rho, s = mp.mpf("-0.5"), mp.sqrt(mp.mpf("0.75"))
        integral = mp.quad(
            lambda x: mp.npdf(x) * mp.ncdf((-6 - rho * x) / s), [mp.mpf(-k) / 2 for k in range(60, 11, -1)]
        )
    assert bivariate_log_cdf(*tensors(-6.0, -6.0, -0.5)).item() == pytest.approx(float(mp.log(integral)), rel=1e-12)


@pytest.mark.parametrize("df", [1.0, 2.5, 4.0, 30.0])
def test_student_probabilities(df):
    for rho in (-0.8, 0.4):
        for x, y in ((0.5, 1.0), (-2.0, -3.0)):
            with mp.workdps(20):
                expected = _student(x, y, rho, df)
            assert bivariate_log_cdf(*tensors(x, y, rho), df).exp().item() == pytest.approx(expected, rel=1e-8)


def _student(x, y, rho, df):
    nu, s = mp.mpf(df), mp.sqrt(1 - mp.mpf(rho) ** 2)
    constant = mp.gamma((nu + 1) / 2) / mp.gamma(nu / 2) / mp.sqrt(nu * mp.pi)

    def tail(q):
        small = mp.betainc((nu + 1) / 2, mp.mpf(1) / 2, 0, (nu + 1) / (nu + 1 + q * q), regularized=True) / 2
        return small if q < 0 else 1 - small

    def integrand(w):
        z = mp.sinh(w)
        q = (y - rho * z) / s * mp.sqrt((nu + 1) / (nu + z * z))
        return constant * (1 + z * z / nu) ** (-(nu + 1) / 2) * tail(q) * mp.cosh(w)

    top = mp.asinh(x)
    return float(mp.quad(integrand, [top - 50, top - 12, top - 4, top - 2, top - 1, top]))


def test_derivatives():
    arguments = [
        torch.tensor(v, dtype=F64, requires_grad=True) for v in ([0.3, -1, 2.0], [0.1, -1.4, -1.0], [0.3, -0.6, 0.9])
    ]
    assert torch.autograd.gradcheck(bivariate_log_cdf, arguments)
    assert torch.autograd.gradgradcheck(bivariate_log_cdf, arguments)
    assert torch.autograd.gradcheck(lambda x, y, r: bivariate_log_cdf(x, y, r, 4.0), arguments)
    assert torch.autograd.gradgradcheck(lambda x, y, r: bivariate_log_cdf(x, y, r, 4.0), arguments)


def test_more_dimensions():
    correlation = np.array([[1.0, 0.5, 0.3, -0.2], [0.5, 1.0, 0.4, 0.1], [0.3, 0.4, 1.0, 0.0], [-0.2, 0.1, 0.0, 1.0]])
    u = torch.tensor([[0.3, 0.4, 0.5, 0.6], [0.9, 0.2, 0.7, 0.5], [0.01, 0.02, 0.5, 0.9]], dtype=F64)
    from scipy.stats import norm
    from scipy.stats import t as student

    gaussian = multivariate_normal(np.zeros(4), correlation).cdf(norm.ppf(u.numpy()))
    np.testing.assert_allclose(GaussianCopula(correlation).log_cdf(u).exp(), gaussian, rtol=2e-3)
    law = multivariate_t(np.zeros(4), correlation, df=5)
    expected = [law.cdf(x, maxpts=20_000, random_state=0) for x in student.ppf(u.numpy(), 5)]
    np.testing.assert_allclose(StudentTCopula(correlation, df=5.0).log_cdf(u).exp(), expected, rtol=2e-2, atol=1e-4)
    free = u.clone().requires_grad_()
    slope = torch.autograd.grad(GaussianCopula(correlation).log_cdf(free).sum(), free)[0]
    assert bool((slope > 0).all())
