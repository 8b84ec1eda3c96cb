"""The law with one component for all modalities: against sums over components written out, and SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from amodal.distributions.copula import GaussianCopula
from amodal.distributions.joint.variants import joint_law
from amodal.distributions.mixture.fit import expectation_maximisation

M, D, K = 3, 2, 3


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def made(family="gaussian", seed=0):
    """Three modalities of two coordinates, well apart components of unequal weights, correlations within."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        law = joint_law("common", M, D, components=K, family=family, scale_floor=0.1).double()
    with torch.no_grad():
        law.mixture.means.mul_(1.5)
        law.mixture.raw_scales.add_(0.5 * torch.randn(M, K, D, generator=draw(1), dtype=torch.float64))
        law.mixture.raw_weights.copy_(torch.tensor([0.0, 0.7, -0.4]).expand(M, K))
    if family == "gaussian":
        matrix = torch.tensor([[1.0, 0.6, -0.3], [0.6, 1.0, 0.2], [-0.3, 0.2, 1.0]], dtype=torch.float64)
        law.copula = GaussianCopula(torch.stack([matrix, torch.eye(3, dtype=torch.float64)]))
    return law


def as_normals(law):
    """Weights, and each component as a normal law of all M times D numbers, modality by modality."""
    mixture = law.mixture
    weights = law.log_weights.exp().detach().numpy()
    means = mixture.means.detach().movedim(1, 0).reshape(K, -1).numpy()
    scales = mixture.scales.detach().movedim(1, 0).reshape(K, -1).numpy()
    correlation = np.eye(M * D)
    if law.copula is not None:
        for j in range(D):
            correlation[np.ix_(range(j, M * D, D), range(j, M * D, D))] = law.copula.correlation[j].detach().numpy()
    return weights, means, [np.outer(s, s) * correlation for s in scales]


@pytest.mark.parametrize("family", ["gaussian", "independence"])
def test_with_a_gaussian_copula_it_is_a_mixture_of_normal_laws(family):
    law = made(family)
    z = 2 * torch.randn(M, 40, D, generator=draw(2), dtype=torch.float64)
    observed = torch.rand(M, 40, generator=draw(3)) < 0.6
    weights, means, covariances = as_normals(law)
    found = law.log_density(torch.where(observed.unsqueeze(-1), z, torch.nan), observed).detach()
    for row in range(40):
        keep = observed[:, row].repeat_interleave(D).numpy()
        x = z[:, row].reshape(-1).numpy()[keep]
        wanted = 0.0
        if keep.any():
            parts = [
                w * stats.multivariate_normal(m[keep], c[np.ix_(keep, keep)]).pdf(x)
                for w, m, c in zip(weights, means, covariances, strict=True)
            ]
            wanted = math.log(sum(parts))
        assert found[row].item() == pytest.approx(wanted, abs=1e-8)


def conditional(law, x, keep):
    """Weights, means and covariances of what is not kept given what is."""
    weights, means, covariances = as_normals(law)
    found = []
    for w, m, c in zip(weights, means, covariances, strict=True):
        gain = c[np.ix_(~keep, keep)] @ np.linalg.inv(c[np.ix_(keep, keep)])
        given = stats.multivariate_normal(m[keep], c[np.ix_(keep, keep)]).pdf(x[keep])
        found.append(
            (w * given, m[~keep] + gain @ (x[keep] - m[keep]), c[np.ix_(~keep, ~keep)] - gain @ c[np.ix_(keep, ~keep)])
        )
    total = sum(w for w, _, _ in found)
    mean = sum(w / total * m for w, m, _ in found)
    second = sum(w / total * (c + np.outer(m, m)) for w, m, c in found)
    return mean, second - np.outer(mean, mean)


@pytest.mark.parametrize("family", ["gaussian", "independence"])
@pytest.mark.parametrize("present", [(True, False, False), (False, True, False), (True, False, True)])
def test_completions_have_the_moments_of_the_conditional_law(family, present):
    """Coordinates of different modalities, and of the same one, vary together as the mixture says."""
    law, n = made(family), 60_000
    z = torch.tensor([[[0.5, -1.0]], [[1.5, 0.3]], [[-0.7, 0.9]]], dtype=torch.float64)
    observed = torch.tensor(present).unsqueeze(1)
    with torch.no_grad():
        drawn = law.complete(z, observed, law.noise(n, 1, draw(5), z))[:, :, 0]  # (M, S, D)
    keep = np.repeat(present, D)
    mean, covariance = conditional(law, z[:, 0].reshape(-1).numpy(), keep)
    absent = drawn[~torch.tensor(present)].movedim(1, 0).reshape(n, -1).numpy()
    spread = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(absent.mean(0), mean, atol=0.02 * spread.max())
    np.testing.assert_allclose(np.cov(absent.T), covariance, atol=0.03 * spread.max() ** 2)


def test_coordinates_of_a_draw_belong_together():
    """Two coordinates of one modality vary together as the components' means do; coordinatewise they would not."""
    law, n = made("independence"), 40_000
    nothing = torch.zeros(M, 1, D, dtype=torch.float64)
    with torch.no_grad():
        drawn = law.complete(nothing, torch.zeros(M, 1, dtype=torch.bool), law.noise(n, 1, draw(), nothing))[:, :, 0]
    weights, means = law.log_weights.exp().detach(), law.mixture.means.detach()
    for m in range(M):
        centred = means[m] - weights @ means[m]  # (K, D)
        wanted = float((weights * centred[:, 0] * centred[:, 1]).sum())
        assert abs(wanted) > 0.1
        assert float(torch.cov(drawn[m].T)[0, 1]) == pytest.approx(wanted, abs=0.06)


def test_what_varies_is_drawn_given_what_is_kept():
    """Modality 2 is drawn once and kept; modality 1 then follows the law given both others."""
    law, n = made(), 60_000
    z, observed = torch.full((M, 1, D), 0.4, dtype=torch.float64), torch.tensor([[True], [False], [False]])
    with torch.no_grad():
        drawn = law.complete(z, observed, law.noise(n, 1, draw(7), z).keeping([2]))[:, :, 0]
    assert torch.equal(drawn[2], drawn[2, :1].expand_as(drawn[2]))
    x = np.concatenate([z[0, 0].numpy(), np.zeros(D), drawn[2, 0].numpy()])
    mean, covariance = conditional(law, x, np.array([True, True, False, False, True, True]))
    np.testing.assert_allclose(drawn[1].mean(0).numpy(), mean, atol=0.02)
    np.testing.assert_allclose(torch.cov(drawn[1].T).numpy(), covariance, atol=0.03)
    whole = law.complete(z, observed, law.noise(5, 1, draw(7), z).keeping([1, 2, 0]))
    assert torch.equal(whole, whole[:, :1].expand_as(whole))


def test_marginal_completions_ignore_what_is_observed():
    law = made()
    z = torch.zeros(M, 2, D, dtype=torch.float64)
    z[0, 1] = 5.0
    observed = torch.tensor([[True, True], [False, False], [True, True]])
    drawn = law.complete(z, observed, law.noise(8, 1, draw(), z), given=False)
    assert torch.equal(drawn[1, :, 0], drawn[1, :, 1])


def test_the_mixtures_weights_stay_alike_in_training():
    law = made()
    law.copula = law.copula.from_kendall_tau(torch.full((D,), 0.2), M, learnable=True).double()
    optimiser = torch.optim.Adam(law.parameters(), lr=0.05)
    z = torch.randn(M, 50, D, generator=draw(4), dtype=torch.float64)
    observed = torch.rand(M, 50, generator=draw(6)) < 0.7
    before = law.log_weights.detach().clone()
    for step in range(10):
        optimiser.zero_grad()
        drawn = law.complete(z, observed, law.noise(1, 50, draw(step), z))
        (drawn.square().mean() - law.log_density(z, observed).mean()).backward()
        optimiser.step()
    assert torch.equal(law.mixture.raw_weights[0], law.mixture.raw_weights[1])
    torch.testing.assert_close(law.log_weights, law.mixture.log_weights[2])
    assert (law.log_weights - before).abs().max() > 0.05


def test_components_start_at_kinds_of_cases_though_half_is_absent():
    """Two kinds of cases, ten units apart in every modality: each start has one component at each."""
    n, centre = 400, torch.tensor([[-5.0], [5.0]], dtype=torch.float64)
    kind = torch.arange(n) % 2
    z = centre[kind].expand(n, D) + 0.3 * torch.randn(M, n, D, generator=draw(), dtype=torch.float64)
    observed = torch.rand(M, n, generator=draw(1)) < 0.5
    for seed in range(3):
        weights, means, scales = expectation_maximisation(
            torch.where(observed.unsqueeze(-1), z, 9e9), observed, 4, draw(seed)
        )
        assert weights.sum().item() == pytest.approx(1)
        side = means.sign()
        alike = (side == side[:1, :, :1]).all(2).all(0)  # (K,): all modalities of a component are of the same kind
        assert weights[~alike].sum() < 0.01
        assert weights[side[0, :, 0] > 0].sum().item() == pytest.approx(0.5, abs=0.1)
        assert bool((scales > 0).all())
    law = joint_law("common", M, D, components=2, scale_floor=0.05)
    law.start_at_rows(z.float(), observed, draw(3))
    assert torch.isfinite(law.log_density(z.float(), observed)).all()
    other = joint_law("coordinatewise", M, D, components=2)
    other.start_at_rows(z.float(), observed & (torch.arange(M) != 1).unsqueeze(1), draw())  # nothing of one modality
    assert other.mixture.means[0].abs().min() > 3
