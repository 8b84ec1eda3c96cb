"""SIGReg against the closed form of the Epps-Pulley integral, its expectations, and its symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from amodal.errors import ConfigurationError, ShapeError
from amodal.losses.projections import random_directions
from amodal.losses.sigreg import epps_pulley, sigreg


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def closed_form(u):
    """The statistic over the whole line: three Gaussian integrals."""
    n = len(u)
    pairs = np.exp(-((u[:, None] - u) ** 2) / 2).sum() / n**2
    return n * (
        math.sqrt(2 * math.pi) * pairs
        - 2 * math.sqrt(math.pi) * np.exp(-(u**2) / 4).mean()
        + math.sqrt(2 * math.pi / 3)
    )


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_a_wide_fine_rule_is_the_closed_form(scale):
    u = scale * normal(30, 2)
    expected = [closed_form(column) for column in u.T.numpy()]
    np.testing.assert_allclose(epps_pulley(u, points=401, max_frequency=9.0), expected, rtol=1e-9)


def test_the_default_rule_is_the_integral_up_to_three():
    u = normal(20, 1)

    def integrand(t):
        wave = np.exp(1j * t * u[:, 0].numpy()).mean()
        return abs(wave - math.exp(-t * t / 2)) ** 2 * math.exp(-t * t / 2)

    expected = 20 * integrate.quad(integrand, -3, 3)[0]
    assert epps_pulley(u).item() == pytest.approx(expected, rel=5e-3)
    assert epps_pulley(u, points=1001).item() == pytest.approx(expected, rel=1e-6)


def test_expectation_for_normal_samples_does_not_depend_on_their_number():
    for n in (5, 40):
        statistic = epps_pulley(normal(n, 20_000, seed=n)).mean().item()
        assert statistic == pytest.approx(1.0525, abs=0.02)


def test_all_samples_at_zero():
    for n in (1, 7):
        assert epps_pulley(torch.zeros(n, 2)).tolist() == pytest.approx([0.4020 * n] * 2, abs=1e-4 * n)
    assert epps_pulley(torch.zeros(7, 1), scale_by_n=False).item() == pytest.approx(0.4020, abs=1e-4)


def test_the_half_line_rule_is_the_rule_on_the_whole_line():
    u = normal(12, 3)
    t = torch.linspace(-3, 3, 33, dtype=torch.float64)
    waves = torch.exp(1j * t[:, None, None] * u).mean(1)
    target = torch.exp(-t.square() / 2)[:, None]
    integrand = (waves - target).abs().square() * target
    torch.testing.assert_close(epps_pulley(u), 12 * torch.trapezoid(integrand, t, dim=0))


def test_symmetries():
    x, A = normal(50, 6), random_directions(6, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(sigreg(x, A), sigreg(-x, A))
    Q, _ = torch.linalg.qr(normal(6, 6, seed=2))
    torch.testing.assert_close(sigreg(x, A), sigreg(x @ Q, Q.mT @ A))
    torch.testing.assert_close(sigreg(x, A), sigreg(x.flip(0), A))


def test_a_shift_or_another_scale_is_seen():
    u = normal(200, 1)
    null = epps_pulley(u).item()
    assert epps_pulley(u + 0.5).item() > 3 * null
    assert epps_pulley(2 * u).item() > 3 * null
    assert epps_pulley(0.3 * u).item() > 3 * null


def test_the_mean_over_directions_and_views():
    views, A = normal(2, 30, 4), random_directions(4, 8, dtype=torch.float64)
    expected = torch.stack([epps_pulley(view @ A).mean() for view in views]).mean()
    torch.testing.assert_close(sigreg(views, A), expected)


def test_clipping_drops_the_statistics_that_pass():
    x, A = normal(30, 4).requires_grad_(), random_directions(4, 32, dtype=torch.float64)
    statistics = epps_pulley(x.detach() @ A)
    middle = statistics.median().item()
    expected = statistics[statistics >= middle].sum() / 32
    torch.testing.assert_close(sigreg(x, A, clip=middle).detach(), expected)
    sigreg(x, A, clip=1e9).backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_gradients_are_finite_differences_and_descend_to_a_normal_sample():
    A = random_directions(3, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: sigreg(x, A), normal(6, 3).requires_grad_())
    x = (0.7 + 0.4 * normal(64, 2, dtype=torch.float32)).requires_grad_()
    optimiser = torch.optim.Adam([x], lr=0.02)
    g = torch.Generator().manual_seed(0)
    for _ in range(150):
        loss = sigreg(x, random_directions(2, 16, generator=g))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert x.detach().mean(0).abs().max() < 0.15
    assert (torch.cov(x.detach().T) - torch.eye(2)).abs().max() < 0.25


def test_autocast_does_not_lower_the_precision():
    x, A = normal(20, 8, dtype=torch.float32), random_directions(8, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sigreg(x, A), sigreg(x.clone(), A))
        inside = sigreg(x, A)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, sigreg(x, A))


def test_batches_of_none_and_one():
    x = torch.zeros(0, 3, requires_grad=True)
    loss = sigreg(x, random_directions(3, 4))
    loss.backward()
    assert loss.item() == 0
    assert sigreg(torch.ones(1, 3), random_directions(3, 4)).isfinite()


def test_bad_input():
    with pytest.raises(ShapeError, match=r"expected \(…, N, D\) and \(D, S\), got \(4, 3\) and \(2, 5\)"):
        sigreg(torch.zeros(4, 3), torch.zeros(2, 5))
    with pytest.raises(ShapeError, match=r"samples must be a matrix"):
        epps_pulley(torch.zeros(4))
    with pytest.raises(ConfigurationError, match="points >= 2, max_frequency > 0, got"):
        epps_pulley(torch.zeros(4, 1), points=1)
    with pytest.raises(ConfigurationError, match="quadrature is not defined"):
        epps_pulley(torch.zeros(4, 1), max_frequency=0)
