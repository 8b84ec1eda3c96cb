"""Quantiles of mixtures: against bracketing to the last digit and SciPy, from any start, far out and in wide gaps."""

import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm

from amodal.distributions.inversion import solve_increasing
from amodal.distributions.mixture import quantile as module
from amodal.distributions.mixture.margins import mixture_margins
from amodal.distributions.mixture.quantile import mixture_quantile, quantile_table
from amodal.distributions.normal import normal_log_tails

L, K, D = 3, 3, 5


def mixtures(spread, dtype=torch.float64):
    generator = torch.Generator().manual_seed(int(10 * spread))
    weights = torch.randn(L, K, generator=generator, dtype=torch.float64).log_softmax(-1)
    means = torch.randn(L, K, D, generator=generator, dtype=torch.float64) * spread
    scales = torch.rand(L, K, D, generator=generator, dtype=torch.float64) + 0.1
    return [part.to(dtype) for part in (weights, means, scales)]


def scores(n, dtype=torch.float64, size=1.5):
    return size * torch.randn(L, n, D, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("spread", [0.5, 3.0, 20.0])
def test_they_are_those_of_bracketing_to_the_last_digit(spread):
    law = [part.unsqueeze(1) for part in mixtures(spread)]
    lower, upper = normal_log_tails(scores(40))

    def excess(z):
        _, below, above = mixture_margins(z, *law)
        return below - above - (lower - upper)

    wanted = solve_increasing(excess, torch.full_like(lower, -500.0), torch.full_like(lower, 500.0))
    torch.testing.assert_close(mixture_quantile(lower, upper, *law), wanted, rtol=1e-10, atol=1e-10)


def test_they_are_scipy_s():
    weights, means, scales = mixtures(2.0)
    u = [0.001, 0.3, 0.5, 0.99]
    points = torch.tensor(u, dtype=torch.float64)[:, None].expand(-1, D)
    found = mixture_quantile(torch.log(points), torch.log1p(-points), weights[0], means[0], scales[0])
    for i, p in enumerate(u):
        for d in range(D):
            law = norm(means[0, :, d].numpy(), scales[0, :, d].numpy())
            root = brentq(lambda z, p=p, law=law: weights[0].exp().numpy() @ law.cdf(z) - p, -50, 50, xtol=1e-12)
            assert found[i, d].item() == pytest.approx(root, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [0.5, 3.0, 20.0])
def test_a_start_changes_nothing_but_the_time(spread, dtype):
    law = mixtures(spread, dtype)
    score = scores(60, dtype, size=3.0)  # some beyond the ends of the table
    margin = torch.arange(L)
    lower, upper = normal_log_tails(score)
    own = [part.unsqueeze(1) for part in law]
    wanted = mixture_quantile(lower, upper, *own)
    least = law[2].amin(-2).unsqueeze(1)  # (L, 1, D)
    tolerance = (1e-9 if dtype == torch.float64 else 1e-3) * least
    for start in (quantile_table(*law).at(score, margin), torch.zeros_like(score), torch.full_like(score, 1e4)):
        found = mixture_quantile(lower, upper, *own, start=start)
        assert bool(((found - wanted).abs() <= tolerance + 1e-6 * wanted.abs()).all())


def test_a_table_saves_evaluations(monkeypatch):
    seen = []

    def counted(z, *law):
        seen.append(z.numel())
        return mixture_margins(z, *law)

    law = mixtures(1.0, torch.float32)
    score = scores(400, torch.float32)
    lower, upper = normal_log_tails(score)
    own = [part.unsqueeze(1) for part in law]
    start = quantile_table(*law).at(score, torch.arange(L))
    monkeypatch.setattr(module, "mixture_margins", counted)
    mixture_quantile(lower, upper, *own, start=start)
    with_table = sum(seen) / score.numel()
    seen.clear()
    mixture_quantile(lower, upper, *own)
    assert with_table < 3
    assert sum(seen) / score.numel() < 8.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_out_and_between_distant_components(dtype):
    """1e-20 in either tail; two components a thousand scales apart, where the density underflows."""
    weights = torch.tensor([0.5, 0.5], dtype=dtype).log()
    means, scales = torch.tensor([[-500.0], [500.0]], dtype=dtype), torch.ones(2, 1, dtype=dtype)
    score = torch.tensor([[-9.0], [9.0]], dtype=dtype)
    lower, upper = normal_log_tails(score)
    wanted = torch.tensor([norm.ppf(2 * norm.cdf(-9.0)) - 500, 500 - norm.ppf(2 * norm.cdf(-9.0))], dtype=dtype)
    torch.testing.assert_close(mixture_quantile(lower, upper, weights, means, scales).flatten(), wanted)
    middle = mixture_quantile(*(torch.full((1, 1), 0.5, dtype=dtype).log(),) * 2, weights, means, scales)
    assert -495 < middle.item() < 495  # every point there is a median
