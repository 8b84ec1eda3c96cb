"""Joint densities of mixtures and a copula: normalised, with the right margins, for whatever is observed."""

import numpy as np
import pytest
import torch

from amodal.distributions.copula import Clayton, Frank, GaussianCopula, Gumbel, copula_family
from amodal.distributions.joint.variants import JOINT_LAWS
from amodal.distributions.mixture.gaussian_mixture import GaussianMixture
from amodal.errors import ShapeError

F64 = torch.float64
R3 = [[1.0, 0.5, 0.3], [0.5, 1.0, 0.4], [0.3, 0.4, 1.0]]


def mixtures(modalities, dim, components=2, dtype=F64):
    generator = torch.Generator().manual_seed(modalities)
    mixture = GaussianMixture(components, dim, batch_shape=(modalities,), generator=generator).to(dtype)
    with torch.no_grad():
        mixture.raw_weights.copy_(torch.randn(modalities, components, generator=generator))
        mixture.raw_scales.add_(0.3 * torch.randn(mixture.raw_scales.shape, generator=generator))
    return mixture


def joint(kind, mixture, copula, z, observed=None):
    law = JOINT_LAWS[kind](len(z), z.shape[-1], components=mixture.components)
    law.mixture, law.copula = mixture, copula
    if kind == "projection":
        direction = torch.randn(z.shape[0], z.shape[2], dtype=z.dtype, generator=torch.Generator().manual_seed(0))
        law.direction = torch.nn.Parameter(direction)
    return law.log_density(z, torch.ones(z.shape[:2], dtype=torch.bool) if observed is None else observed)


@pytest.mark.parametrize("kind", ["kendall", "coordinatewise", "projection"])
@pytest.mark.parametrize("copula", [Frank(3.0), GaussianCopula([[1.0, 0.4], [0.4, 1.0]]), Clayton(0.5)])
def test_they_integrate_to_one(kind, copula):
    """The mean of p / (f_1 f_2) over independent draws from the margins is the integral of p."""
    mixture, generator = mixtures(2, 4), torch.Generator().manual_seed(0)
    with torch.no_grad():
        if kind == "coordinatewise":  # where a modality alone is the product of its univariate mixtures
            z = mixture.marginal_quantile(torch.rand(2, 5_000, 4, dtype=F64, generator=generator))
        else:
            z = mixture.sample(5_000, generator=generator)
        ratio = torch.exp(joint(kind, mixture, copula, z) - _margins(kind, mixture, z).sum(0))
    assert ratio.mean().item() == pytest.approx(1.0, abs=4 * (ratio.std().item() / 70) + 1e-3)


def _margins(kind, mixture, z):
    """Log densities of the modalities alone; a single observed modality has no copula term."""
    parts = []
    for m in range(len(z)):
        observed = torch.zeros(z.shape[:2], dtype=torch.bool)
        observed[m] = True
        parts.append(
            joint(kind, mixture, Frank(1.0, len(z)), torch.where(observed.unsqueeze(-1), z, torch.nan), observed)
        )
    if kind != "coordinatewise":
        torch.testing.assert_close(torch.stack(parts), mixture.log_density(z))
        return torch.stack(parts)
    torch.testing.assert_close(torch.stack(parts), mixture.marginal_logs(z)[0].sum(-1))
    return torch.stack(parts)


def test_the_joint_distribution_function_is_no_argument_of_a_copula():
    """As printed in the paper: the "density" of two eight-dimensional modalities integrates to about 92."""
    mixture = GaussianMixture.from_parameters(torch.ones(2, 1), torch.zeros(2, 1, 8), torch.ones(2, 1, 8)).double()
    copula = Gumbel(2.0)
    with torch.no_grad():
        z = mixture.sample(30_000, generator=torch.Generator().manual_seed(0))
        log_cdf = mixture.joint_log_cdf(z)
        printed = copula.log_density_from_logs(log_cdf.mT, torch.log1p(-log_cdf.exp()).mT).exp().mean()
        ours = torch.exp(joint("kendall", mixture, copula, z) - mixture.log_density(z).sum(0)).mean()
    assert 40 < printed.item() < 200
    assert ours.item() == pytest.approx(1.0, abs=0.07)


@pytest.mark.parametrize("kind", ["kendall", "coordinatewise", "projection"])
def test_absent_modalities_leave_the_density_of_the_others(kind):
    copula = GaussianCopula(R3)
    mixture = mixtures(3, 5)
    z = mixture.sample(8, generator=torch.Generator().manual_seed(1))
    observed = torch.cartesian_prod(*[torch.tensor([False, True])] * 3).T
    hidden = torch.where(observed.unsqueeze(-1), z, torch.nan).requires_grad_()
    value = joint(kind, mixture, copula, hidden, observed)
    gradient = torch.autograd.grad(value.sum(), [hidden, *mixture.parameters()])
    assert all(bool(torch.isfinite(g).all()) for g in gradient)
    assert bool((gradient[0][~observed] == 0).all())
    assert value[0].item() == pytest.approx(0.0, abs=1e-12)  # nothing observed
    torch.testing.assert_close(value[7], joint(kind, mixture, copula, z)[7])
    pair = [0, 2]
    part = GaussianMixture.from_parameters(
        *(x[pair].detach() for x in (mixture.weights, mixture.means, mixture.scales))
    )
    if kind != "projection":
        torch.testing.assert_close(value[5], joint(kind, part, copula.margin(pair), z[pair])[5])
    for junk in (0.0, 1e30):
        again = joint(kind, mixture, copula, torch.where(observed.unsqueeze(-1), z, junk), observed)
        assert torch.equal(again, value)


@pytest.mark.parametrize("name", ["gumbel", "clayton", "frank", "gaussian"])
def test_dependence_is_recovered_and_independence_stays(name):
    mixture = mixtures(2, 16, dtype=torch.float32).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for tau in (0.5, 0.0):
        if tau:
            u = copula_family(name).from_kendall_tau(tau).sample(512 * 16, generator=generator).reshape(512, 16, 2)
        else:
            u = torch.rand(512, 16, 2, generator=generator)
        u = u.float().clamp(1e-6, 1 - 1e-6)
        z = mixture.marginal_quantile(u.movedim(-1, 0))
        copula = copula_family(name).from_kendall_tau(torch.tensor(0.1), learnable=True)
        optimiser = torch.optim.Adam(copula.parameters(), lr=0.1)
        for _ in range(120):
            optimiser.zero_grad()
            (-joint("coordinatewise", mixture, copula, z).mean() / 16).backward()
            optimiser.step()
        found = copula.kendall_tau()
        assert (found if found.ndim == 0 else found[0, 1]).item() == pytest.approx(tau, abs=0.03)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_finite_far_from_the_mixtures_in_single_precision(scale):
    for dim in (1, 64):
        mixture = mixtures(2, dim, dtype=torch.float32)
        z = (scale * torch.randn(2, 4, dim, generator=torch.Generator().manual_seed(0))).requires_grad_()
        for name in ("gumbel", "clayton", "frank", "joe", "gaussian", "student_t"):
            copula = copula_family(name).from_kendall_tau(torch.tensor(0.3), learnable=True)
            for kind in ("kendall", "coordinatewise", "projection"):
                value = joint(kind, mixture, copula, z)
                gradients = torch.autograd.grad(value.sum(), [z, *mixture.parameters(), *copula.parameters()])
                for x in (value, *gradients):
                    assert bool(torch.isfinite(x).all()), (name, kind, dim)


def test_rows_do_not_know_each_other():
    mixture, copula = mixtures(2, 8), Gumbel(1.5)
    z = mixture.sample(6, generator=torch.Generator().manual_seed(0))
    for kind in ("kendall", "coordinatewise", "projection"):
        together = joint(kind, mixture, copula, z)
        alone = torch.cat([joint(kind, mixture, copula, z[:, i : i + 1]) for i in range(6)])
        np.testing.assert_allclose(together.detach(), alone.detach(), rtol=1e-12)


def test_what_does_not_fit():
    mixture, z = mixtures(2, 4), torch.zeros(2, 3, 4, dtype=F64)
    for kind in JOINT_LAWS:
        law = JOINT_LAWS[kind](2, 4, components=2)
        for points, observed in (
            (z[:1], torch.ones(1, 3, dtype=torch.bool)),
            (z, torch.ones(3, 2, dtype=torch.bool)),
            (z, torch.ones(2, 3)),
        ):
            with pytest.raises(ShapeError, match=r"do not fit the joint law \(expected \(2, B, 4\) and bool \(2, B\)"):
                law.log_density(points, observed)
    assert bool(torch.isfinite(joint("projection", mixture, Gumbel(2.0), z)).all())
