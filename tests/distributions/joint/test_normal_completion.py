"""Completions by pattern are conditional normal draws: against the textbook formula, and one margin after another."""

import pytest
import torch

from amodal.distributions.copula import GaussianCopula
from amodal.distributions.joint.normal_completion import normal_completion
from amodal.distributions.joint.variants import joint_law
from amodal.distributions.normal import normal_score

M, B, S, E = 4, 40, 3, 2


def correlations(generator, shape=(E,)):
    factor = torch.randn(*shape, M, 2 * M, generator=generator, dtype=torch.float64)
    covariance = factor @ factor.mT
    scale = covariance.diagonal(dim1=-2, dim2=-1).rsqrt()
    matrix = scale.unsqueeze(-1) * covariance * scale.unsqueeze(-2)
    unit = torch.eye(M, dtype=matrix.dtype)
    return matrix * (1 - unit) + unit


@pytest.fixture
def made():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(M, B, E, generator=generator, dtype=torch.float64)
    observed = torch.rand(M, B, generator=generator) < 0.5
    observed[:, 0], observed[:, 1] = False, True
    return generator, scores, observed


def test_the_mean_is_that_of_the_conditional_normal_law(made):
    generator, scores, observed = made
    matrix = correlations(generator)
    noise = torch.zeros(M, S, 1, E, dtype=torch.float64)
    found = normal_completion(matrix, scores, observed, noise, range(M))
    for row in range(B):
        seen, absent = observed[:, row].nonzero().flatten(), (~observed[:, row]).nonzero().flatten()
        for e in range(E):
            part = matrix[e][absent][:, seen] @ torch.linalg.pinv(matrix[e][seen][:, seen]) @ scores[seen, row, e]
            drawn = found.at(absent, torch.full_like(absent, row))[:, :, e]
            torch.testing.assert_close(drawn, part.unsqueeze(1).expand(-1, S))


def test_the_covariance_is_that_of_the_conditional_normal_law(made):
    """Unit vectors as noise give the columns of a factor of the conditional covariance."""
    generator, scores, observed = made
    matrix = correlations(generator)
    noise = torch.eye(M, dtype=torch.float64)[:, :, None, None].expand(-1, -1, 1, E)  # draw s: the unit vector s
    found = normal_completion(matrix, torch.zeros_like(scores), observed, noise, range(M))
    for row in range(B):
        seen, absent = observed[:, row].nonzero().flatten(), (~observed[:, row]).nonzero().flatten()
        drawn = found.at(absent, torch.full_like(absent, row))  # (A, S, E)
        for e in range(E):
            cross = matrix[e][absent][:, seen]
            wanted = matrix[e][absent][:, absent] - cross @ torch.linalg.pinv(matrix[e][seen][:, seen]) @ cross.T
            torch.testing.assert_close(drawn[..., e] @ drawn[..., e].T, wanted)


@pytest.mark.parametrize("rows", [1, B])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1)])
@pytest.mark.parametrize("shared", [True, False])
def test_it_is_drawing_one_margin_after_another(made, rows, order, shared):
    """The copula's general way inverts one conditional distribution function after another."""
    generator, scores, observed = made
    copula = GaussianCopula(correlations(generator, () if shared else (E,)))
    uniform = torch.rand(M, S, rows, E, generator=generator, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    u = torch.special.ndtr(scores)[:, None].expand(-1, S, -1, -1)
    wide = uniform.expand(-1, -1, B, -1)
    logs = copula.complete_margins_first(torch.log(u), torch.log1p(-u), observed[:, None, :, None], wide, order)
    ranks = normal_score(torch.log(uniform), torch.log1p(-uniform))
    matrix = copula.correlation.reshape(-1, M, M)
    found = normal_completion(matrix, scores, observed, ranks, order)
    margin, row = (~observed).nonzero(as_tuple=True)
    torch.testing.assert_close(found.at(margin, row), normal_score(*logs)[margin, :, row], rtol=1e-7, atol=1e-7)


def test_gradients_by_finite_differences(made):
    generator, scores, observed = made
    matrix, scores, observed = correlations(generator), scores[:, :6], observed[:, :6]
    noise = torch.randn(M, 2, 1, E, generator=generator, dtype=torch.float64)
    margin, row = (~observed).nonzero(as_tuple=True)
    above = torch.triu_indices(M, M, 1)

    def drawn(entries, scores):
        half = torch.zeros_like(matrix).index_put((torch.arange(E)[:, None], *above), entries)
        return normal_completion(half + half.mT + torch.eye(M), scores, observed, noise, range(M)).at(margin, row)

    inputs = matrix[:, above[0], above[1]].clone().requires_grad_(), scores.clone().requires_grad_()
    assert torch.autograd.gradcheck(drawn, inputs)


def test_more_modalities_than_bits():
    observed = torch.rand(70, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    matrix = torch.eye(70, dtype=torch.float64)[None]
    noise = torch.randn(70, 2, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = normal_completion(matrix, torch.ones(70, 5, 1, dtype=torch.float64), observed, noise, range(70))
    margin, row = (~observed).nonzero(as_tuple=True)
    torch.testing.assert_close(found.at(margin, row), noise[margin, :, 0])  # independent: the noise itself


@pytest.mark.parametrize("variant", ["coordinatewise", "kendall", "projection"])
def test_a_law_s_completions_are_those_of_the_general_way(variant, monkeypatch):
    """Drawn by pattern, or by inverting the conditional distribution functions in turn: the same vectors."""
    generator = torch.Generator().manual_seed(3)
    law = joint_law(variant, M, E, components=2, scale_floor=0.2).double()
    with torch.no_grad():
        law.copula.raw_correlation += 0.3 * torch.randn(law.copula.raw_correlation.shape, generator=generator)
        law.mixture.means += torch.randn(law.mixture.means.shape, generator=generator)
    z = torch.randn(M, B, E, generator=generator, dtype=torch.float64)
    observed = torch.rand(M, B, generator=generator) < 0.5
    noise = law.noise(S, 1, generator, z)
    noise = noise.keeping([2, 1])
    found = law.complete(z, observed, noise)
    monkeypatch.setattr("amodal.distributions.joint.law.GaussianCopula", type(None))
    monkeypatch.setattr("amodal.distributions.joint.variants.GaussianCopula", type(None))
    torch.testing.assert_close(found, law.complete(z, observed, noise), rtol=1e-5, atol=1e-5)
